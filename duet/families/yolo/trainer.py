"""One stage on the Ultralytics trainer: its loop, optimizer, AMP and DDP, with our losses.

The class is importable by name and rebuilds everything from the job folder named in `DUET_JOB`
(engine facts, section 1: DDP workers get only the class, the engine's own arguments and the
environment). Nothing is read from the engine's checkpoints, which are float16.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from duet.errors import ModelError
from duet.families.yolo.engine import prepare

prepare()

from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.utils import RANK  # noqa: E402
from ultralytics.utils.torch_utils import unwrap_model  # noqa: E402

from duet.families.yolo.arguments import frozen_names, restore_frozen  # noqa: E402
from duet.families.yolo.build import (  # noqa: E402
    inference_model,
    trained_state,
    training_model,
)
from duet.families.yolo.data import SliceDataset  # noqa: E402
from duet.families.yolo.fisher import diagonal_fisher, evenly_spaced  # noqa: E402
from duet.families.yolo.heads import raw_parts  # noqa: E402
from duet.files import atomic_path, write_json  # noqa: E402
from duet.increments.fisher import FISHER, write_fisher  # noqa: E402
from duet.increments.state import DetectorState  # noqa: E402
from duet.losses.directional import directional_gradient  # noqa: E402
from duet.losses.distill import box_distillation, class_distillation  # noqa: E402
from duet.training.job import (  # noqa: E402
    identity,
    read_job,
    read_slice,
    read_state,
    write_state,
)

JOB_VARIABLE = "DUET_JOB"
CHECKPOINT = "checkpoint.pt"


class IncrementTrainer(DetectionTrainer):  # type: ignore[misc]
    """Train the last part of a detector (and, unless frozen, its shared tensors)."""

    def __init__(self, cfg: Any = None, overrides: Any = None, _callbacks: Any = None) -> None:
        from ultralytics.utils import DEFAULT_CFG

        self.folder = Path(os.environ[JOB_VARIABLE])
        self.job = read_job(self.folder)
        self.start = read_state(self.folder / "start.safetensors")
        self.slice_file = read_slice(self.folder / "slice.npz")
        self.history: list[dict[str, float]] = []
        self.images_seen = 0
        self._raw: dict[str, Any] = {}
        self._in_epoch = self._waiting = 0
        self._began = time.perf_counter()
        super().__init__(cfg if cfg is not None else DEFAULT_CFG, overrides, _callbacks)

    # ---- data -----------------------------------------------------------------------------

    def get_dataset(self) -> dict[str, Any]:
        """Describe the classes that the loss sees; nothing is looked up or downloaded."""
        parts = self.job.parts[-1:] if self._mask_old() else self.job.parts
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
            class_offset=0 if self._mask_old() else self._class_offset(),
            imgsz=self.args.imgsz,
            batch_size=batch or self.batch_size,
            augment=mode == "train",
            hyp=self.args,
            cache="ram" if mode == "train" and self.args.cache else None,
            stride=32,
            data=self.data,
        )

    def _class_offset(self) -> int:
        return sum(len(part.classes) for part in self.job.parts[:-1])

    def _mask_old(self) -> bool:
        return self.job.phase != "base" and self.job.old_negatives == "mask"

    # ---- set-up ---------------------------------------------------------------------------

    def setup_model(self) -> None:
        """Build the detector from the job's start tensors, float32."""
        distill = self.job.distill
        self.distils = bool(self.job.phase == "increment" and distill and distill.weight > 0)
        self.model = training_model(self.start, mask_old=self._mask_old(), run_old=self.distils)

    def _setup_train(self) -> None:
        super()._setup_train()
        model = unwrap_model(self.model)
        self.frozen = set(frozen_names(model, self.start, self.job))
        for name, parameter in model.named_parameters():
            if name in self.frozen:
                parameter.requires_grad_(False)
        self._row_guard = self._old_rows(model)
        self._directions = self._read_directions(model)
        self.teacher = self._build_teacher() if self.distils else None
        # After the EMA has copied the model, so that neither hooks nor teacher travel with it.
        model.model[-1].register_forward_hook(self._keep_raw)
        model.register_forward_hook(self._add_losses)
        self._resume()

    def _build_teacher(self) -> nn.Module:
        """Return the previous detector: the start without the part in training."""
        start = self.start
        previous = DetectorState(
            start.family,
            start.architecture,
            start.head,
            start.shared,
            start.buffers,
            start.parts[:-1],
        )
        teacher: nn.Module = inference_model(previous).to(self.device).fuse(verbose=False)
        return teacher.requires_grad_(False)

    def _read_directions(
        self, model: nn.Module
    ) -> list[tuple[nn.Parameter, torch.Tensor, torch.Tensor]]:
        """Return ``(p, q, d)`` of L_DC for every trainable shared tensor (q, d from files)."""
        choice = self.job.directional
        if self.job.phase != "increment" or choice is None or choice.weight == 0:
            return []
        from safetensors.torch import load_file

        direction = load_file(self.folder / "direction.safetensors")
        return [
            (parameter, self.start.shared[name].to(self.device), direction[name].to(self.device))
            for name, parameter in model.named_parameters()
            if name in direction and parameter.requires_grad
        ]

    def _old_rows(self, model: Any) -> list[tuple[nn.Parameter, torch.Tensor]]:
        """Return parameters whose first rows belong to old classes and must not move."""
        if self.job.head != "rows" or self.job.old_part == "trained" or len(self.job.parts) < 2:
            return []
        rows = [tower[-1] for tower in model.model[-1].cv3]
        count = self._class_offset()
        return [
            (parameter, parameter.detach()[:count].clone())
            for layer in rows
            for parameter in (layer.weight, layer.bias)
        ]

    # ---- the losses -----------------------------------------------------------------------

    def _keep_raw(self, module: nn.Module, args: Any, output: Any) -> None:
        if module.training:
            self._raw = output

    def _add_losses(self, module: Any, args: Any, output: Any) -> Any:
        """Append λ_Distill · L*_Distill; like the engine's own loss it is summed over images."""
        if not (module.training and isinstance(args[0], dict)):
            return None
        loss, items = output
        images = args[0]["img"]
        self.images_seen += len(images)
        if self.teacher is not None:
            assert self.job.distill is not None
            with torch.no_grad():
                # no_grad, not inference_mode: the latter poisons cached anchors (engine facts, 8).
                teacher = raw_parts(self.teacher(images)[1])
            bins, choice = module.model[-1].reg_max, self.job.distill
            cls, box = distillation(
                self._raw["old"], teacher, bins, choice.class_quantile, choice.box_quantile
            )
            extra = choice.weight * (cls + box)
            loss = torch.cat([loss, (extra * len(images)).reshape(1)])
            items = {**items, "kd_cls": cls.detach(), "kd_box": box.detach()}
        return loss, items

    def optimizer_step(self) -> None:
        """Add the closed-form gradient of λ_DC · L_DC, step, and put kept rows back.

        Called after every batch: `accumulate` is counted here and starts anew in each epoch. The
        engine would carry gradients over to the next epoch, where a resumed run has none.
        """
        self._in_epoch += 1
        self._waiting += 1
        if self._waiting < self.job.schedule.accumulate and self._in_epoch < len(self.train_loader):
            return
        scale = self.scaler.get_scale() if self.scaler.is_enabled() else 1.0
        if self._directions:
            assert self.job.directional is not None
            # The engine sums its loss over the images of a step; λ is per image.
            weight = self.job.directional.weight * self.batch_size * self._waiting * scale
            for p, q, d in self._directions:
                if p.grad is not None:
                    p.grad.add_(directional_gradient(p.detach(), q, d), alpha=weight)
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

    def save_model(self) -> bool:
        """Write an exact float32 checkpoint after each epoch (the engine's would be float16)."""
        if self.epoch + 1 < self.epochs:
            state = {
                "epoch": self.epoch,
                "model": unwrap_model(self.model).state_dict(),
                "ema": self.ema.ema.state_dict(),
                "updates": self.ema.updates,
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "history": self.history,
                "images_seen": self.images_seen,
                "job": json.dumps(identity(self.job)),
            }
            with atomic_path(self.folder / CHECKPOINT) as temporary:
                torch.save(state, temporary)
        return True

    def _resume(self) -> None:
        """Continue after the last finished epoch of the same job, bit for bit on a CPU."""
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:  # any unreadable checkpoint: torch raises half a dozen types
            raise ModelError(
                f"the checkpoint cannot be read ({type(error).__name__})",
                where=str(path),
                remedy="delete it; the stage then starts from its first epoch",
            ) from error
        if state["job"] != json.dumps(identity(self.job)):
            raise ModelError(
                "the checkpoint belongs to another job", where=str(path), remedy="delete the folder"
            )
        unwrap_model(self.model).load_state_dict(state["model"])
        self.ema.ema.load_state_dict(state["ema"])
        self.ema.updates = state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.history, self.images_seen = state["history"], state["images_seen"]
        self.start_epoch = state["epoch"] + 1
        self.scheduler.last_epoch = self.start_epoch - 1

    def final_eval(self) -> None:
        """Write the result, and leave evaluation to duet.

        It is written here and not by `Family.train`: with several GPUs only the engine's launched
        processes ever hold the trained model.

        Raises:
            ModelError: The last step made the weights, or the gradients at them, infinite or NaN.
        """
        if RANK not in {-1, 0}:
            return
        trained = restore_frozen(trained_state(self.ema.ema, self.start), self.start, self.job)
        if not all(bool(tensor.isfinite().all()) for tensor in trained.to_tensors().values()):
            raise self._diverged("the trained weights are not finite")
        write_state(self.folder / "trained.safetensors", trained)
        fisher_images = self._write_fisher(trained)
        outcome = {
            "images_seen": self.images_seen * max(self.world_size, 1),
            "seconds": round(time.perf_counter() - self._began, 3),
            "history": self.history,
            "fisher_images": fisher_images,
        }
        write_json(self.folder / "outcome.json", outcome)
        (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def _write_fisher(self, trained: DetectorState) -> int:
        """Store the diagonal Fisher of the stage's shared tensors; return its number of images.

        A stage that keeps its trunk has none: it says nothing about how to merge the trunk.
        """
        wanted = self.job.schedule.fisher_images
        if not wanted or self.job.phase == "refit" or self.job.trunk == "frozen":
            return 0
        # A model of its own: the one in training has hooks, the EMA's lacks what was put back.
        model = training_model(trained, mask_old=self._mask_old(), run_old=False).to(self.device)
        model.args = self.args
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in self.frozen)
        dataset = self.build_dataset("slice", mode="val", batch=1)
        chosen = evenly_spaced(len(dataset), wanted)
        batches = (self.preprocess_batch(dataset.collate_fn([dataset[i]])) for i in chosen)
        fisher = diagonal_fisher(model, trained.shared, batches)
        if not all(bool(tensor.isfinite().all()) for tensor in fisher.values()):
            raise self._diverged("the squared gradients at the end are not finite")
        write_fisher(self.folder / FISHER, fisher)
        return len(chosen)

    def _diverged(self, how: str) -> ModelError:
        return ModelError(
            f"training diverged in epoch {self.epoch + 1}: {how}",
            where=str(self.folder),
            remedy="lower the learning rate or the loss weights of the method",
        )

    def set_model_attributes(self) -> None:
        """Attach the class names and hyper-parameters that the engine's loss reads."""
        super().set_model_attributes()
        self.model.nc = self.data["nc"]


def distillation(
    student: list[tuple[torch.Tensor, torch.Tensor]],
    teacher: list[tuple[torch.Tensor, torch.Tensor]],
    bins: int,
    class_quantile: float,
    box_quantile: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (L*_cls, L*_box), the mean over the old heads (one, unless they run in parallel)."""
    cls = [
        class_distillation(s[1], t[1], class_quantile)
        for s, t in zip(student, teacher, strict=True)
    ]
    box = [
        box_distillation(s[0], t[0], bins, box_quantile)
        for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(cls).mean(), torch.stack(box).mean()
