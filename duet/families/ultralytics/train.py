"""One stage on the Ultralytics trainer: its loop, optimizer, AMP and DDP, with our losses.

`StageTrainer` is mixed into one of the engine's trainers by a family. Such a class is importable by
name and rebuilds everything from the job folder named in `DUET_JOB`: the processes of a multi-GPU
launch get only the class, the engine's own arguments and the environment. Nothing is read from the
engine's checkpoints, which are float16.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from ultralytics.utils import DEFAULT_CFG, RANK
from ultralytics.utils.torch_utils import unwrap_model

from duet.defaults import IOU
from duet.families.decode import decode
from duet.families.outputs import Layout
from duet.families.ultralytics.arguments import frozen_names, restore_frozen
from duet.families.ultralytics.data import SliceDataset, extend_batch
from duet.families.ultralytics.models import Build
from duet.families.ultralytics.ranks import (
    end_with_worker,
    join,
    require_equal,
    without_devices,
)
from duet.families.ultralytics.teacher import Teacher
from duet.images import Fit
from duet.increments.state import DetectorState
from duet.training.job import refines, unlabelled_classes
from duet.training.losses.distillation.responses import taught
from duet.training.memory import fast_images, fast_module
from duet.training.optimizer import in_one_pass
from duet.training.precision import Precision, resolve_precision
from duet.training.session import KeptRows, Session, freeze, rest_frozen_statistics, seed_all

JOB_VARIABLE = "DUET_JOB"

# Mixed into the engine's trainers, whose methods it calls and overrides: untyped, hence Any.
Engine: Any = object


class StageTrainer(ABC, Engine):  # type: ignore[misc]
    """Train the last part of a detector (and, unless frozen, its shared tensors).

    Attributes:
        build: Builds the family's detectors.
        layout: What the decoded output of its networks means.
        fit: How images become squares.
        summed: Whether the engine's loss is summed over the images of a step, not averaged.
        teacher: The previous detector, where one is asked.
        frozen: Names of the parameters that do not train.
        precision: In which numbers it computes.
    """

    build: Build
    layout: Layout = "anchors"
    fit: Fit = "letterbox"
    summed = True
    teacher: Teacher | None = None
    frozen: set[str]
    precision: Precision

    def __init__(self, cfg: Any = None, overrides: Any = None, _callbacks: Any = None) -> None:
        if RANK != -1:
            end_with_worker()
        self.session = Session(Path(os.environ[JOB_VARIABLE]))
        self.job, self.start = self.session.job, self.session.start
        self._in_epoch = self._waiting = 0
        super().__init__(cfg if cfg is not None else DEFAULT_CFG, overrides, _callbacks)
        if RANK != -1 and self.job.schedule.ranks > 1:  # the engine counts devices of one machine
            self.world_size = self.job.schedule.ranks

    # ---- what a family fills in -----------------------------------------------------------

    def teaching_model(self, state: DetectorState) -> nn.Module:
        """Build the previous detector, folded, as `Teacher` wants it."""
        return cast("nn.Module", self.build.inference_model(state).fuse(verbose=False))

    @abstractmethod
    def class_rows(self, model: Any) -> list[nn.Parameter]:
        """Return the parameters that hold one row per class: the rows of all increments."""

    def held(self, name: str) -> bool:
        """Tell whether the head form keeps a shared tensor as it is."""
        return False

    def silence(self, model: Any, classes: list[int]) -> None:
        """Take classes out of the detector loss: nobody labelled them in these images.

        Not abstract: asked only of families whose row says that they can (`FamilyRow.leaves_out`).
        """
        raise NotImplementedError

    def watch(self, model: Any) -> None:
        """Hook what `distillation` needs onto the model in training and onto the teacher."""

    @abstractmethod
    def distillation(self, model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (L*_cls, L*_box) for a batch ``(B, 3, S, S)`` that the model has just seen.

        Compared are its first images alone, as many as `taught` says.
        """

    # ---- data -----------------------------------------------------------------------------

    def get_dataset(self) -> dict[str, Any]:
        """Describe the classes that the loss sees; nothing is looked up or downloaded."""
        parts = self.job.parts[-1:] if self._cut_old() else self.job.parts
        names = [name for part in parts for name in part.classes]
        return {
            "names": dict(enumerate(names)),
            "nc": len(names),
            "channels": 3,
            "train": "slice",
            "val": "slice",
        }

    def build_dataset(
        self, img_path: str, mode: str = "train", batch: int | None = None
    ) -> SliceDataset:
        """Return the slice; the unused validation loader gets it without augmentation."""
        return SliceDataset(
            slice_file=self.session.slice,
            class_offset=0 if self._cut_old() else self._first_class(),
            stretch=self.fit == "stretch",
            imgsz=self.args.imgsz,
            batch_size=batch or self.batch_size,
            augment=mode == "train",
            hyp=self.args,
            cache="ram" if mode == "train" and self.args.cache else None,
            stride=32,
            data=self.data,
        )

    def _first_class(self) -> int:
        """Return the place of the slice's first class among all; of known classes it is told."""
        return 0 if self.job.adapts else sum(len(part.classes) for part in self.job.parts[:-1])

    def _cut_old(self) -> bool:
        """Tell whether the loss sees the new part alone."""
        # A re-fit trains new class rows alone, for which an old object is background anyway.
        later = {"base": (), "increment": ("mask",), "refit": ("mask", "pseudo")}
        return not self.job.adapts and self.job.old_negatives in later[self.job.phase]

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device; add what the previous detector finds, if asked to."""
        batch = super().preprocess_batch(batch)
        batch["img"] = fast_images(batch["img"])
        choice = self.job.pseudo
        if choice is not None and self.teacher is not None:
            size, asked = batch["img"].shape[-1], self.teacher(batch["img"])[0]
            least = choice.confidence  # iou as users' detectors have it
            found = [
                decode(row, self.layout, size=(size, size), confidence=least, iou=IOU, limit=100)
                for row in asked
            ]
            classes = unlabelled_classes(self.job)
            extend_batch(batch, found, choice, classes, size=size)
        return batch

    # ---- set-up ---------------------------------------------------------------------------

    def _trainable(self, state: DetectorState) -> Any:
        """Build the detector that trains the last part of a state, float32."""
        share = self.job.distill.images if self.distils and self.job.distill else 0.0
        return self.build.training_model(state, mask_old=self._cut_old(), run_old=share)

    def setup_model(self) -> None:
        """Build the detector from the job's start tensors, where and as it trains fastest."""
        self.model = fast_module(self._trainable(self.start), self.device)
        # Known classes that an increment without new ones does not label.
        masked = self.job.adapts and self.job.old_negatives == "mask"
        if unlabelled := unlabelled_classes(self.job) if masked else []:
            self.silence(self.model, unlabelled)

    def build_optimizer(self, *args: Any, **options: Any) -> torch.optim.Optimizer:
        """Build the engine's optimizer, faster."""
        return in_one_pass(super().build_optimizer(*args, **options))

    @property
    def distils(self) -> bool:
        """Whether this stage distils."""
        distill = self.job.distill
        return bool(self.job.phase == "increment" and distill and distill.weight > 0)

    def _setup_train(self) -> None:
        self.precision = resolve_precision(self.job.schedule.precision, self.device)
        with without_devices(self.device):
            super()._setup_train()
        self.scaler = self.precision.scaler()  # the engine knows no bfloat16 on a CPU
        model = unwrap_model(self.model)
        rows = self.class_rows(model) if refines(self.job) else []
        self.frozen = set(frozen_names(model, self.start, self.job, self.held, rows))
        freeze(model, self.frozen)
        old = slice(self._first_class())
        self._kept_rows = KeptRows((rows, old) for rows in self._old_rows(model))
        self._pulls = self.session.pulls(model, self.device)
        if self.distils or (self.job.pseudo is not None and self.job.phase == "increment"):
            self.teacher = Teacher(self.teaching_model(self.session.previous()), self.precision)
        # After the EMA has copied the model, so that neither hooks nor teacher travel with it.
        self.watch(model)
        model.predict = self.precision.within(model.predict)
        model.register_forward_hook(self._add_losses)
        self._resume()

    def _setup_ddp(self) -> None:
        if self.job.schedule.ranks > 1:
            join(self.device)
        else:
            super()._setup_ddp()

    def _old_rows(self, model: Any) -> list[nn.Parameter]:
        """Return parameters whose first rows belong to old classes and must not move."""
        if self.job.head != "rows" or self.job.old_part == "trained" or self.job.adapts:
            return []  # an increment without new classes keeps all rows or trains all of them
        return self.class_rows(model) if self._first_class() else []

    def _asked(self, images: torch.Tensor) -> Any:
        """Return the raw outputs of the previous detector for the images that are distilled.

        Where it labels old objects it has looked at all images of the batch, and answers for all.
        """
        assert self.teacher is not None
        assert self.job.distill is not None
        count = taught(self.job.distill.images, len(images))
        whole = self.job.pseudo is not None or count == len(images)
        return self.teacher(images if whole else images[:count])[1]

    # ---- the losses -----------------------------------------------------------------------

    def per_image(self, images: int) -> int:
        """Return what a loss per image is multiplied by to go with the engine's loss."""
        return images if self.summed else 1

    def _add_losses(self, module: Any, args: Any, output: Any) -> Any:
        """Append λ_Distill · L*_Distill."""
        if not (module.training and isinstance(args[0], dict)):
            return None
        loss, items = output
        images = args[0]["img"]
        self.session.images_seen += len(images)
        if self.distils:
            assert self.job.distill is not None
            cls, box = self.distillation(module, images)
            extra = self.job.distill.weight * (cls + box) * self.per_image(len(images))
            loss = loss + extra if loss.ndim == 0 else torch.cat([loss, extra.reshape(1)])
            items = {**items, "kd_cls": cls.detach(), "kd_box": box.detach()}
        return loss, items

    def optimizer_step(self) -> None:
        """Add the gradients of the losses of the weights, step, and put kept rows back.

        Called after every batch: `accumulate` is counted here and starts anew in each epoch. The
        engine would carry gradients over to the next epoch, where a resumed run has none.
        """
        self._in_epoch += 1
        self._waiting += 1
        if self._waiting < self.job.schedule.accumulate and self._in_epoch < len(self.train_loader):
            return
        scale = self.scaler.get_scale() if self.scaler.is_enabled() else 1.0
        for pull in self._pulls:
            # λ is per image; so is the loss, once the engine's sum is taken into account.
            pull.add(self.per_image(self.batch_size) * self._waiting * scale)
        self._kept_rows.stop_gradients()
        super().optimizer_step()
        self._waiting = 0
        self._kept_rows.put_back()

    # ---- the loop -------------------------------------------------------------------------

    def _model_train(self) -> None:
        """Enter an epoch: its randomness depends on (seed, epoch) alone, so it can be resumed."""
        super()._model_train()
        self._in_epoch = self._waiting = 0
        model = unwrap_model(self.model)
        rest_frozen_statistics(model)
        self._set_branch_weights(model)
        seed = seed_all(self.job.seed, self.epoch, max(RANK, 0))
        loader = self.train_loader
        if loader.num_workers == 0:
            loader.reset()
            loader.dataset.forget_buffer()
        if loader.generator is not None:
            loader.generator.manual_seed(seed)

    def _set_branch_weights(self, model: Any) -> None:
        """Shift weight between the branches of an end-to-end head as the epoch wants it.

        The engine counts epochs in the loss object, which a resumed run does not have.
        """
        if self.epoch and getattr(model, "criterion", None) is None:
            model.criterion = model.init_criterion()
        if hasattr(getattr(model, "criterion", None), "updates"):
            model.criterion.updates = self.epoch - 1
            model.criterion.update()

    def validate(self) -> tuple[dict[str, float], float]:
        """Skip the engine's validation: duet evaluates every model with one COCO backend."""
        if self.loss is not None:
            self.session.require_finite_loss(float(self.loss.detach()), self.epoch)
        return {}, 0.0

    def _handle_nan_recovery(self, epoch: int) -> bool:
        self.validate()
        return False

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Keep the mean losses of the epoch instead of writing the engine's CSV."""
        losses = {
            k.removeprefix("train/"): float(v) for k, v in metrics.items() if k.startswith("train/")
        }
        self.session.history.append(losses)

    def set_model_attributes(self) -> None:
        """Attach the class names and hyper-parameters that the engine's loss reads."""
        super().set_model_attributes()
        self.model.nc = self.data["nc"]

    # ---- files ----------------------------------------------------------------------------

    def save_model(self) -> bool:
        """Write a checkpoint of duet's after each epoch (the engine's would be float16)."""
        self.session.save(
            self.epoch, model=unwrap_model(self.model).state_dict(),
            ema=self.ema.ema.state_dict(), updates=self.ema.updates, optimizer=self.optimizer,
            scaler=self.scaler,
        )  # fmt: skip
        return True

    def _resume(self) -> None:
        """Continue after the last finished epoch of the same job."""
        state = self.session.resume(self.device, self.optimizer, self.scaler)
        if state is None:
            return
        unwrap_model(self.model).load_state_dict(state["model"])
        self.ema.ema.load_state_dict(state["ema"])
        self.ema.updates = state["updates"]
        self.start_epoch = state["epoch"] + 1
        self.scheduler.last_epoch = self.start_epoch - 1

    def final_eval(self) -> None:
        """Write the result, and leave evaluation to duet.

        It is written here and not by `Family.train`: with several GPUs only the engine's launched
        processes ever hold the trained model.
        """
        if RANK != -1:
            require_equal(unwrap_model(self.model))
        if RANK not in {-1, 0}:
            return
        trained = self.build.trained_state(self.ema.ema, self.start)
        trained = restore_frozen(trained, self.start, self.job, self.held)
        processes = max(self.world_size, 1)
        self.session.finish(
            trained, self.epoch, self._own_loss, processes=processes, precision=self.precision.name
        )

    def add_fisher(self) -> None:
        """Compute the Fisher of a finished training, in this process."""
        self._setup_train()
        self.session.add_fisher(self._own_loss)

    def _own_loss(
        self, trained: DetectorState
    ) -> tuple[nn.Module, Callable[[int, int], torch.Tensor]]:
        """Return the engine's loss, image by image, of a model without hooks."""
        model = fast_module(self._trainable(trained), self.device)
        model.args = self.args
        freeze(model, self.frozen)
        dataset = self.build_dataset("slice", mode="val", batch=1)

        def loss(number: int, place: int) -> torch.Tensor:
            # Denoising queries are drawn: the same ones, whenever it is computed.
            seed_all(self.job.seed, self.epochs + number)
            batch = self.preprocess_batch(dataset.collate_fn([dataset[place]]))
            return cast("torch.Tensor", model(batch)[0].sum())

        return model, loss
