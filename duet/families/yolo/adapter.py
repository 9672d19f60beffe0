"""The YOLO family: states in, trained states and detectors out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from duet.detections import Detections
from duet.errors import ModelError
from duet.families.protocol import Progress
from duet.families.table import FAMILIES
from duet.families.yolo import engine, roles
from duet.families.yolo.build import inference_model, initial_part
from duet.families.yolo.foreign import float_tensors, open_checkpoint, read_detector
from duet.families.yolo.predict import batches, letterbox, predict_images, to_batch
from duet.families.yolo.scores import ClassLogits, class_logits
from duet.increments.base import load_base
from duet.increments.state import DetectorState, HeadForm, HeadPart
from duet.vectors.tensors import Tensors


@dataclass(frozen=True)
class YoloDetector:
    """A YOLO detector in memory (`duet.families.protocol.Detector`)."""

    module: nn.Module
    state: DetectorState
    image_size: int
    batch: int = 32

    def __call__(
        self,
        images: Sequence[np.ndarray],
        *,
        confidence: float = 0.001,
        iou: float = 0.7,
        limit: int = 300,
    ) -> list[Detections]:
        """Detect on BGR uint8 images of any size."""
        found: list[Detections] = []
        for group in batches(images, self.batch):
            found += predict_images(
                self.module, group, self.state.labels,
                size=self.image_size, confidence=confidence, iou=iou, limit=limit,
            )  # fmt: skip
        return found


@dataclass(frozen=True)
class YoloFamily:
    """See `duet.families.protocol.Family`."""

    name: str = "yolo"
    licence: str = FAMILIES["yolo"].licence

    def start_state(
        self,
        tensors: Tensors,
        *,
        architecture: str,
        head: HeadForm,
        classes: Sequence[str],
        increment: str,
        seed: int,
    ) -> DetectorState:
        """Return θ_0 with a head part for ``classes``: towers kept, class rows fresh."""
        split = roles.split_roles(tensors, head)
        own = initial_part(tensors, head, len(classes), seed=seed, architecture=architecture)
        part = HeadPart(tuple(classes), own, increment)
        return DetectorState(self.name, architecture, head, split.shared, split.buffers, (part,))

    def grow(
        self,
        state: DetectorState,
        *,
        classes: Sequence[str],
        increment: str,
        seed: int,
        source: Tensors | None,
    ) -> DetectorState:
        """Append a head part whose towers start as the last part's (or as ``source``'s)."""
        prefix = f"model.{_head_index(state)}."
        last = {prefix + name: tensor for name, tensor in state.parts[-1].tensors.items()}
        stock = dict(source) if source is not None else {**state.shared, **state.buffers, **last}
        own = initial_part(
            stock, state.head, len(classes), seed=seed, architecture=state.architecture
        )
        part = HeadPart(tuple(classes), own, increment)
        return replace(state, parts=(*state.parts, part))

    def recast(self, state: DetectorState, head: HeadForm) -> DetectorState:
        """Return a one-increment state in another head form: the same tensors, other owners."""
        if len(state.parts) != 1:
            raise ModelError(
                f"a detector with {len(state.parts)} increments keeps its head form '{state.head}'"
            )
        prefix = f"model.{_head_index(state)}."
        own = {prefix + name: tensor for name, tensor in state.parts[0].tensors.items()}
        split = roles.split_roles({**state.shared, **state.buffers, **own}, head)
        part = replace(state.parts[0], tensors=split.own)
        return DetectorState(
            state.family, state.architecture, head, split.shared, split.buffers, (part,)
        )

    def shared_of(self, tensors: Tensors, head: str) -> Tensors:
        """Return θ_0's shared trainable tensors under a head form."""
        return roles.shared_of(tensors, head)

    def weights(self, path: Path) -> Tensors:
        """Read θ_0: duet's base safetensors, or an Ultralytics `.pt` through the guarded door.

        The engine stores float16; the float32 upcast of its numbers *is* θ_0, so nothing is ever
        subtracted from a rounded checkpoint.

        Raises:
            ModelError: The file is damaged, refused, fused, or holds no detector.
        """
        if path.suffix not in (".pt", ".pth"):
            return load_base(path)
        return float_tensors(open_checkpoint(path))

    def foreign(
        self, path: Path, *, name: str, head: HeadForm = "towers", trust: bool = False
    ) -> tuple[DetectorState, dict[str, Any]]:
        """Read a `.pt` that Ultralytics trained; see `duet.families.yolo.foreign.read_detector`."""
        return read_detector(path, name=name, head=head, trust=trust, licence=self.licence)

    def train(self, folder: Path, progress: Progress) -> None:
        """Run one job (see `duet.training.job`) in this process."""
        from duet.families.yolo.arguments import engine_overrides
        from duet.families.yolo.trainer import JOB_VARIABLE, IncrementTrainer
        from duet.training.job import read_job

        job = read_job(folder)
        engine.set_threads(job.schedule.threads)
        os.environ[JOB_VARIABLE] = str(folder)
        trainer = IncrementTrainer(overrides=engine_overrides(job, folder))
        engine.set_threads(job.schedule.threads)
        if not trainer.ddp:  # the processes of a multi-GPU launch cannot reach `progress`
            trainer.add_callback("on_train_batch_end", _reporter(progress))
        trainer.train()  # writes the result, in whichever process holds it

    def detector(
        self, state: DetectorState, *, image_size: int, device: str = "cpu"
    ) -> YoloDetector:
        """Build a detector for inference, BatchNorm folded into the convolutions."""
        module = inference_model(state).to(device).fuse(verbose=False)
        return YoloDetector(module.requires_grad_(False), state, image_size)

    def prepare(self, images: Sequence[np.ndarray], *, image_size: int) -> torch.Tensor:
        """Letterbox images as for inference."""
        return to_batch([letterbox(image, image_size)[0] for image in images], torch.device("cpu"))

    def class_logits(self, state: DetectorState) -> ClassLogits:
        """Return the class scores of all increments as a function of the shared tensors."""
        return class_logits(state)

    def export(self, state: DetectorState, target: Path, *, image_size: int, form: str) -> Path:
        """Write the detector as an Ultralytics checkpoint (``pt``) or an ``onnx`` graph."""
        from duet.families.yolo import export

        return export.write(state, target, image_size=image_size, form=form, licence=self.licence)


FAMILY = YoloFamily()


def _head_index(state: DetectorState) -> int:
    """Return the layer number of the head: the DFL constant is a shared tensor of it."""
    for name in state.shared:
        if name.endswith(".dfl.conv.weight"):
            return int(name.split(".")[1])
    raise ModelError("the state holds no Detect head with box distributions")


def _reporter(progress: Progress) -> Any:
    """Return an engine callback that reports each step, also after a resume."""
    done = 0

    def report(trainer: Any) -> None:
        nonlocal done
        steps = len(trainer.train_loader)
        done = max(done + 1, trainer.epoch * steps + 1)
        progress(
            {
                "epoch": trainer.epoch + 1,
                "epochs": trainer.epochs,
                "done": done,
                "total": trainer.epochs * steps,
                "loss": round(float(trainer.loss.detach()) / trainer.batch_size, 4),
            }
        )

    return report
