"""The D-FINE family: states in, trained states and detectors out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from duet.families.detector import ImageDetector
from duet.families.dfine import roles
from duet.families.dfine.architectures import require_queries
from duet.families.dfine.build import (
    class_logits,
    inference_model,
    initial_part,
    random_tensors,
)
from duet.families.dfine.foreign import CONFIG, is_dfine, read_detector, read_folder
from duet.families.exportable import Exportable
from duet.families.images import prepare_batch
from duet.families.protocol import Progress
from duet.families.table import FAMILIES
from duet.increments.base import StartWeights, load_start
from duet.increments.state import DetectorState, HeadForm
from duet.vectors.tensors import Tensors


@dataclass(frozen=True)
class DFineFamily:
    """See `duet.families.protocol.Family`. The head form is `rows`; `towers` means the same."""

    name: str = "dfine"
    licence: str = FAMILIES["dfine"].licence

    def fresh(self, architecture: str, classes: Sequence[str], *, seed: int) -> StartWeights:
        """Return a stock detector with random weights; fresh class rows as in `initial_part`."""
        tensors = random_tensors(architecture, len(classes), seed=seed)
        part = initial_part(StartWeights(tensors), classes, increment=self.name, seed=seed)
        split = roles.split_roles(tensors, "rows")
        state = DetectorState(
            self.name, architecture, "rows", split.shared, split.buffers, (part,)
        )  # fmt: skip
        return StartWeights(self.whole(state), tuple(classes))

    def whole(self, state: DetectorState) -> Tensors:
        """Return the tensors of one detector with the last part's rows, `roles.PADDING` apart."""
        return roles.join_rows(replace(state, parts=state.parts[-1:]))

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
        """Return θ_0 with rows for ``classes``: those that it knows by name, fresh ones else."""
        roles.head_form(head)
        split = roles.split_roles(start.tensors, "rows")
        part = initial_part(start, classes, increment=increment, seed=seed)
        return DetectorState(self.name, architecture, "rows", split.shared, split.buffers, (part,))

    def grow(
        self,
        state: DetectorState,
        *,
        classes: Sequence[str],
        increment: str,
        seed: int,
        source: StartWeights | None,
    ) -> DetectorState:
        """Append rows for ``classes``; a class that ``source`` (θ_0) knows starts from its row."""
        start = source if source is not None else StartWeights(self.whole(state))
        part = initial_part(start, classes, increment=increment, seed=seed)
        return replace(state, parts=(*state.parts, part))

    def recast(self, state: DetectorState, head: HeadForm) -> DetectorState:
        """Return the state: there is one head form."""
        roles.head_form(head)
        return state

    def shared_of(self, tensors: Tensors, head: str) -> Tensors:
        """Return θ_0's shared trainable tensors."""
        return roles.shared_of(tensors, head)

    def weights(self, path: Path) -> StartWeights:
        """Read θ_0: duet's base safetensors, or a folder that transformers wrote.

        Raises:
            ModelError: The file is damaged, refused, or holds no D-FINE detector.
        """
        if not (path / CONFIG).is_file():
            return load_start(path)
        tensors, classes, _ = read_folder(path)
        return StartWeights(tensors, classes)

    def recognises(self, path: Path, *, trust: bool = False) -> bool:
        """Tell whether a folder that transformers wrote holds a D-FINE."""
        return is_dfine(path)

    def foreign(
        self, path: Path, *, name: str, head: HeadForm = "rows", trust: bool = False
    ) -> tuple[DetectorState, dict[str, Any]]:
        """Read a folder that transformers wrote; there is no code in it to trust."""
        roles.head_form(head)
        return read_detector(path, name=name, licence=self.licence)

    def train(self, folder: Path, progress: Progress) -> None:
        """Run one job (see `duet.training.job`) in this process."""
        from duet.families.dfine.learner import DFineLearner
        from duet.training.loop import run_job

        run_job(folder, DFineLearner, progress)

    def detector(
        self, state: DetectorState, *, image_size: int, device: str = "cpu"
    ) -> ImageDetector:
        """Build a detector for inference; it suppresses nothing, so ``iou`` has no effect."""
        require_queries(state.architecture, image_size)
        module = self.raw_module(state).to(device)
        return ImageDetector(module, state.labels, image_size, "stretch", "queries", device)

    def raw_module(self, state: DetectorState) -> nn.Module:
        """Return a traceable module: ``(B, 3, S, S)`` float32 RGB in [0, 1] in, queries out.

        The output is ``(B, Q, 4 + C)``: cxcywh normalised, scores in [0, 1].
        """
        return inference_model(state)

    def prepare(self, images: Sequence[np.ndarray], *, image_size: int) -> torch.Tensor:
        """Stretch images as for inference."""
        return prepare_batch(images, image_size, "stretch")

    def class_logits(self, state: DetectorState) -> Callable[[Tensors, torch.Tensor], torch.Tensor]:
        """Return the class scores of all increments as a function of the shared tensors."""
        return class_logits(state)

    def exportable(self, state: DetectorState) -> Exportable:
        """Return how the detector is exported; see `duet.families.dfine.export`."""
        from duet.families.dfine.export import exportable

        return exportable(state)


FAMILY = DFineFamily()
