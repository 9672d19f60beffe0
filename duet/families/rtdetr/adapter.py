"""The RT-DETR family: states in, trained states and detectors out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.func import functional_call

from duet.errors import ModelError
from duet.families.detector import ImageDetector
from duet.families.exportable import Exportable
from duet.families.images import prepare_batch
from duet.families.protocol import Progress
from duet.families.rtdetr import roles
from duet.families.rtdetr.build import inference_model, initial_part, stock_model
from duet.families.rtdetr.heads import QueryScores
from duet.families.table import FAMILIES
from duet.families.ultralytics.checkpoint import head_kind, open_checkpoint
from duet.families.ultralytics.run import run_job
from duet.families.ultralytics.start import read_start
from duet.families.ultralytics.tensors import plain_tensors
from duet.increments.base import StartWeights
from duet.increments.state import DetectorState, HeadForm, HeadPart
from duet.vectors.tensors import Tensors


@dataclass(frozen=True)
class RTDETRFamily:
    """See `duet.families.protocol.Family`. Head forms: `rows` and `parallel`."""

    name: str = "rtdetr"
    licence: str = FAMILIES["rtdetr"].licence

    def fresh(self, architecture: str, classes: Sequence[str], *, seed: int) -> StartWeights:
        """Return a stock detector with random weights; fresh class rows as in `initial_part`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tensors = plain_tensors(stock_model(architecture, len(classes)))
        prefix = roles.head_of(architecture)
        rows = initial_part(StartWeights(tensors), "rows", classes, seed=seed)
        own = {prefix + name: tensor for name, tensor in rows.items()}
        return StartWeights({**tensors, **own}, tuple(classes))

    def whole(self, state: DetectorState) -> Tensors:
        """Return the tensors of a stock detector with the last part as its head's own."""
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
        """Return θ_0 with class rows for ``classes``: those that it knows, fresh ones else."""
        split = roles.split_roles(start.tensors, head)
        own = initial_part(start, head, classes, seed=seed)
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
        """Append a part: fresh rows, or a decoder that starts as the last (or ``source``'s)."""
        stock = source if source is not None else StartWeights(self.whole(state))
        own = initial_part(stock, state.head, classes, seed=seed)
        return replace(state, parts=(*state.parts, HeadPart(tuple(classes), own, increment)))

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
        """Tell whether a `.pt` file of the engine holds an RT-DETR."""
        return "RTDETR" in head_kind(open_checkpoint(path, trust=trust))

    def foreign(
        self, path: Path, *, name: str, head: HeadForm = "rows", trust: bool = False
    ) -> tuple[DetectorState, dict[str, Any]]:
        """Read a `.pt` that Ultralytics trained; see `duet.families.rtdetr.foreign`."""
        from duet.families.rtdetr.foreign import read_detector

        return read_detector(path, name=name, head=head, trust=trust, licence=self.licence)

    def train(self, folder: Path, progress: Progress) -> None:
        """Run one job (see `duet.training.job`) in this process."""
        from duet.families.rtdetr.trainer import RTDETRStageTrainer

        run_job(RTDETRStageTrainer, folder, progress)

    def detector(
        self, state: DetectorState, *, image_size: int, device: str = "cpu"
    ) -> ImageDetector:
        """Build a detector for inference, BatchNorm folded; nothing is suppressed."""
        module = inference_model(state).to(device).fuse(verbose=False).requires_grad_(False)
        return ImageDetector(module, state.labels, image_size, "stretch", "picked-n", device)

    def prepare(self, images: Sequence[np.ndarray], *, image_size: int) -> torch.Tensor:
        """Stretch images as for inference."""
        return prepare_batch(images, image_size, "stretch")

    def class_logits(self, state: DetectorState) -> Callable[[Tensors, torch.Tensor], torch.Tensor]:
        """Return the queries' class scores as a function of the shared tensors."""
        model = inference_model(state).requires_grad_(False)
        model.model[-1] = QueryScores(model.model[-1])

        def scores(shared: Tensors, images_B3SS: torch.Tensor) -> torch.Tensor:
            unknown = sorted(set(shared) - set(state.shared))
            if unknown:
                raise ModelError(
                    f"not shared tensors of this detector: {', '.join(unknown[:5])}",
                    where=f"{state.family} {state.architecture}, class scores",
                )
            head = roles.head_of(state.architecture)
            moved = {_inside_heads(name, head): tensor for name, tensor in shared.items()}
            result: torch.Tensor = functional_call(model, moved, (images_B3SS,))
            return result

        return scores

    def exportable(self, state: DetectorState) -> Exportable:
        """Return how the detector is exported; see `duet.families.rtdetr.export`."""
        from duet.families.rtdetr.export import exportable

        return exportable(state)


FAMILY = RTDETRFamily()


def _inside_heads(name: str, head: str) -> str:
    """Return the name of a shared tensor inside `QueryScores`, which lists its heads."""
    local = name.removeprefix(head)
    return name if local == name else f"{head}heads.0.{local}"
