"""The YOLO family: states in, trained states and detectors out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from duet.errors import ModelError
from duet.families.detector import ImageDetector
from duet.families.exportable import Exportable
from duet.families.images import prepare_batch
from duet.families.protocol import Progress
from duet.families.table import FAMILIES
from duet.families.ultralytics.checkpoint import head_kind, open_checkpoint
from duet.families.ultralytics.run import run_job
from duet.families.ultralytics.start import read_start
from duet.families.ultralytics.tensors import plain_tensors
from duet.families.yolo import roles
from duet.families.yolo.build import (
    inference_model,
    initial_part,
    layout_of,
    narrowest_towers,
    stock_model,
)
from duet.families.yolo.foreign import read_detector
from duet.families.yolo.scores import ClassLogits, class_logits
from duet.families.yolo.towers import join
from duet.increments.base import StartWeights
from duet.increments.state import DetectorState, HeadForm, HeadPart
from duet.vectors.tensors import Tensors


@dataclass(frozen=True)
class YoloFamily:
    """See `duet.families.protocol.Family`."""

    name: str = "yolo"
    licence: str = FAMILIES["yolo"].licence

    def fresh(self, architecture: str, classes: Sequence[str], *, seed: int) -> StartWeights:
        """Return a stock detector with random weights; its class towers are the narrowest."""
        width = narrowest_towers(architecture)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = stock_model(architecture, len(classes), width)
        return StartWeights(plain_tensors(model), tuple(classes))

    def whole(self, state: DetectorState) -> Tensors:
        """Return the tensors of a stock detector with the last part as its head."""
        prefix = roles.head_of(state.architecture)
        own = {prefix + name: tensor for name, tensor in state.parts[-1].tensors.items()}
        return {**state.shared, **state.buffers, **own}

    def start_state(
        self,
        start: StartWeights,
        *,
        architecture: str,
        head: HeadForm,
        classes: Sequence[str],
        increment: str,
        seed: int,
    ) -> DetectorState:
        """Return θ_0 with a head part for ``classes``: towers kept, unknown classes fresh."""
        split = roles.split_roles(start.tensors, head)
        own = initial_part(start, head, classes, seed=seed, architecture=architecture)
        part = HeadPart(tuple(classes), own, increment)
        return DetectorState(self.name, architecture, head, split.shared, split.buffers, (part,))

    def grow(
        self,
        state: DetectorState,
        *,
        classes: Sequence[str],
        increment: str,
        seed: int,
        source: StartWeights | None,
    ) -> DetectorState:
        """Append a head part whose towers start as the last part's (or as ``source``'s)."""
        stock = source or StartWeights(self.whole(state))
        own = initial_part(stock, state.head, classes, seed=seed, architecture=state.architecture)
        part = HeadPart(tuple(classes), own, increment)
        return replace(state, parts=(*state.parts, part))

    def recast(self, state: DetectorState, head: HeadForm) -> DetectorState:
        """Return a one-increment state in another head form: the same tensors, other owners."""
        if len(state.parts) != 1:
            raise ModelError(
                f"a detector with {len(state.parts)} increments keeps its head form '{state.head}'"
            )
        split = roles.split_roles(self.whole(state), head)
        part = replace(state.parts[0], tensors=split.own)
        return DetectorState(
            state.family, state.architecture, head, split.shared, split.buffers, (part,)
        )

    def shared_of(self, tensors: Tensors, head: str) -> Tensors:
        """Return θ_0's shared trainable tensors under a head form."""
        return roles.shared_of(tensors, head)

    def weights(self, path: Path) -> StartWeights:
        """Read θ_0; see `duet.families.ultralytics.start.read_start`."""
        return read_start(path)

    def recognises(self, path: Path, *, trust: bool = False) -> bool:
        """Tell whether a `.pt` file of the engine holds no RT-DETR."""
        return "RTDETR" not in head_kind(open_checkpoint(path, trust=trust))

    def foreign(
        self, path: Path, *, name: str, head: HeadForm = "towers", trust: bool = False
    ) -> tuple[DetectorState, dict[str, Any]]:
        """Read a `.pt` that Ultralytics trained; see `duet.families.yolo.foreign.read_detector`."""
        return read_detector(path, name=name, head=head, trust=trust, licence=self.licence)

    def train(self, folder: Path, progress: Progress) -> None:
        """Run one job (see `duet.training.job`) in this process."""
        from duet.families.yolo.trainer import IncrementTrainer

        run_job(IncrementTrainer, folder, progress)

    def detector(
        self, state: DetectorState, *, image_size: int, device: str = "cpu"
    ) -> ImageDetector:
        """Build a detector for inference, BatchNorm folded into the convolutions."""
        module = inference_model(state).to(device).fuse(verbose=False).requires_grad_(False)
        join(module)
        layout = layout_of(state)
        return ImageDetector(module, state.labels, image_size, "letterbox", layout, device)

    def prepare(self, images: Sequence[np.ndarray], *, image_size: int) -> torch.Tensor:
        """Letterbox images as for inference."""
        return prepare_batch(images, image_size, "letterbox")

    def class_logits(self, state: DetectorState) -> ClassLogits:
        """Return the class scores of all increments as a function of the shared tensors."""
        return class_logits(state)

    def exportable(self, state: DetectorState) -> Exportable:
        """Return how the detector is exported; see `duet.families.yolo.export`."""
        from duet.families.yolo.export import exportable

        return exportable(state)

    def export(self, state: DetectorState, target: Path, *, image_size: int, form: str) -> Path:
        """Write the detector as an Ultralytics checkpoint (``pt``) or an ``onnx`` graph."""
        from duet.families.yolo import export

        return export.write(state, target, image_size=image_size, form=form, licence=self.licence)


FAMILY = YoloFamily()
