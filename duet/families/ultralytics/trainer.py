"""One stage on the Ultralytics trainer: its loop, optimizer, AMP and DDP, with our losses.

`StageTrainer` is mixed into one of the engine's trainers by a family. Such a class is importable by
name and rebuilds everything from the job folder named in `DUET_JOB` (engine facts, section 1: DDP
workers get only the class, the engine's own arguments and the environment). Nothing is read from
the engine's checkpoints, which are float16.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from ultralytics.utils import DEFAULT_CFG, RANK
from ultralytics.utils.torch_utils import unwrap_model

from duet.families.decode import decode
from duet.families.ultralytics.arguments import frozen_names
from duet.families.ultralytics.data import SliceDataset
from duet.families.ultralytics.pseudo import extend_batch
from duet.families.ultralytics.stage import StoredStage
from duet.increments.state import DetectorState
from duet.training.job import (
    old_part_count,
    read_job,
    read_slice,
    read_state,
    refines,
    unlabelled_classes,
)
from duet.training.pulls import read_pulls

JOB_VARIABLE = "DUET_JOB"


class StageTrainer(StoredStage):
    """Train the last part of a detector (and, unless frozen, its shared tensors).

    A family fills in the methods of `StoredStage`'s first section.
    """

    def __init__(self, cfg: Any = None, overrides: Any = None, _callbacks: Any = None) -> None:
        self.folder = Path(os.environ[JOB_VARIABLE])
        self.job = read_job(self.folder)
        self.start = read_state(self.folder / "start.safetensors")
        self.slice_file = read_slice(self.folder / "slice.npz")
        self.history: list[dict[str, float]] = []
        self.images_seen = 0
        self.teacher: nn.Module | None = None
        self._seen: tuple[torch.Tensor, Any] | None = None
        self._in_epoch = self._waiting = 0
        self._began = time.perf_counter()
        super().__init__(cfg if cfg is not None else DEFAULT_CFG, overrides, _callbacks)

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
            slice_file=self.slice_file,
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

    def _unlabelled(self) -> list[int]:
        """Return the known classes that an increment without new ones does not label."""
        masked = self.job.adapts and self.job.old_negatives == "mask"
        return unlabelled_classes(self.job) if masked else []

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device; add what the previous detector finds, if asked to."""
        batch = super().preprocess_batch(batch)
        choice = self.job.pseudo
        if choice is not None and self.teacher is not None:
            size, asked = batch["img"].shape[-1], self.ask_teacher(batch["img"])[0]
            least = choice.confidence
            found = [
                decode(row, self.layout, size=size, confidence=least, iou=0.7, limit=100)
                for row in asked
            ]
            classes = unlabelled_classes(self.job)
            extend_batch(batch, found, size=size, confidence=least, iou=choice.iou, classes=classes)
        return batch

    # ---- set-up ---------------------------------------------------------------------------

    def setup_model(self) -> None:
        """Build the detector from the job's start tensors, float32."""
        self.model = self.training_model(self.start)
        if self._unlabelled():
            self.silence(self.model, self._unlabelled())

    @property
    def distils(self) -> bool:
        """Whether this stage distils."""
        distill = self.job.distill
        return bool(self.job.phase == "increment" and distill and distill.weight > 0)

    def _setup_train(self) -> None:
        super()._setup_train()
        model = unwrap_model(self.model)
        rows = self.class_rows(model) if refines(self.job) else []
        self.frozen = set(frozen_names(model, self.start, self.job, self.held, rows))
        for name, parameter in model.named_parameters():
            if name in self.frozen:
                parameter.requires_grad_(False)
        self._row_guard = self._old_rows(model)
        self._pulls = read_pulls(
            self.folder, self.job, model.named_parameters(), self.start.shared, self.device
        )
        if self.distils or (self.job.pseudo is not None and self.job.phase == "increment"):
            self.teacher = self._build_teacher()
        # After the EMA has copied the model, so that neither hooks nor teacher travel with it.
        self.watch(model)
        model.register_forward_hook(self._add_losses)
        self._resume()

    def _build_teacher(self) -> nn.Module:
        """Return the previous detector: the start without a part that is new."""
        start = self.start
        previous = DetectorState(
            start.family,
            start.architecture,
            start.head,
            start.shared,
            start.buffers,
            start.parts[: old_part_count(self.job)],
        )
        teacher = self.inference_model(previous).to(self.device)
        return teacher.requires_grad_(False)

    def ask_teacher(self, images: torch.Tensor) -> Any:
        """Return the previous detector's output for a batch; asked twice, it looks once."""
        assert self.teacher is not None
        if self._seen is None or self._seen[0] is not images:
            with torch.no_grad():
                # no_grad, not inference_mode: the latter poisons cached anchors (engine facts, 8).
                self._seen = images, self.teacher(images)
        return self._seen[1]

    def _old_rows(self, model: Any) -> list[tuple[nn.Parameter, torch.Tensor]]:
        """Return parameters whose first rows belong to old classes and must not move."""
        if self.job.head != "rows" or self.job.old_part == "trained" or self.job.adapts:
            return []  # an increment without new classes keeps all rows or trains all of them
        count = self._first_class()
        if not count:
            return []
        return [
            (parameter, parameter.detach()[:count].clone()) for parameter in self.class_rows(model)
        ]

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
        self.images_seen += len(images)
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
        for parameter, kept in self._row_guard:
            if parameter.grad is not None:
                parameter.grad[: len(kept)] = 0
        super().optimizer_step()
        self._waiting = 0
        with torch.no_grad():
            for parameter, kept in self._row_guard:
                parameter[: len(kept)] = kept

    # ---- the loop -------------------------------------------------------------------------

    def _model_train(self) -> None:
        """Enter an epoch: its randomness depends on (seed, epoch) alone, so it can be resumed."""
        super()._model_train()
        self._in_epoch = self._waiting = 0
        model = unwrap_model(self.model)
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d) and f"{name}.weight" in self.frozen:
                module.eval()
        self._set_branch_weights(model)
        seed = (self.job.seed * 1_000_003 + self.epoch * 8191 + max(RANK, 0)) % 2**32
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
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
        if self.loss is not None and not bool(self.loss.isfinite()):
            raise self._diverged(f"the loss is {float(self.loss.detach())}")
        return {}, 0.0

    def _handle_nan_recovery(self, epoch: int) -> bool:
        self.validate()
        return False

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Keep the mean losses of the epoch instead of writing the engine's CSV."""
        losses = {
            k.removeprefix("train/"): float(v) for k, v in metrics.items() if k.startswith("train/")
        }
        self.history.append(losses)

    def set_model_attributes(self) -> None:
        """Attach the class names and hyper-parameters that the engine's loss reads."""
        super().set_model_attributes()
        self.model.nc = self.data["nc"]
