"""What a detector family must offer. Everything else in duet is family-agnostic."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from duet.detections import Detections
    from duet.families.exportable import Exportable
    from duet.families.opened import ForeignModel
    from duet.increments.base import StartWeights
    from duet.increments.state import DetectorState, HeadForm, HeadPart
    from duet.merging.layers import Layer
    from duet.training.job import Job
    from duet.vectors.tensors import Tensors

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Roles:
    """The tensors of a one-increment detector by role, in the engine's names.

    Attributes:
        shared: Trainable tensors that increments share (float32).
        buffers: BatchNorm statistics and counters of the shared layers.
        own: The head part, named relative to the head (``cv3.0.2.weight``).
    """

    shared: Tensors
    buffers: Tensors
    own: Tensors


class RoleRules(Protocol):
    """What a family knows about names of tensors; a module of its own, which loads no engine.

    Attributes:
        CLASS_ROWS: Matches the tensors of a head part with one row per class; a family whose only
            head form is `rows` needs none.
    """

    CLASS_ROWS: re.Pattern[str]

    def split_roles(self, tensors: Tensors, form: str) -> Roles:
        """Split a stock one-increment detector; a tensor without a role is a `ModelError`."""
        ...

    def layers(self, names: Iterable[str], architecture: str) -> dict[str, Layer]:
        """Return the place of each tensor in the detector."""
        ...

    def drop_classes(self, part: HeadPart, names: Iterable[str]) -> HeadPart | None:
        """Remove classes and only their output rows; None if no class is left."""
        ...

    def rename_classes(self, part: HeadPart, names: Mapping[str, str]) -> HeadPart:
        """Return the part with classes renamed, old name to new name."""
        ...


class Detector(Protocol):
    """A detector in memory, ready to look at images."""

    def __call__(
        self,
        images: Sequence[np.ndarray],
        *,
        confidence: float = ...,
        iou: float = ...,
        limit: int = ...,
        multi_label: bool = ...,
    ) -> list[Detections]:
        """Detect on BGR uint8 images of any size; boxes are xyxy px of each original image.

        ``multi_label``: one place of an image may be several classes, which AP is computed from;
        else the best of them alone, which is what users see.
        """
        ...

    @property
    def module(self) -> torch.nn.Module:
        """The network itself."""
        ...


class Family(Protocol):
    """One detector family."""

    name: str
    licence: str

    def fresh(self, architecture: str, classes: Sequence[str], *, seed: int) -> StartWeights:
        """Return a stock detector with random weights: what pretraining starts from."""
        ...

    def whole(self, state: DetectorState) -> Tensors:
        """Return the tensors of a stock detector with the last part of a state as its head."""
        ...

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
        """Return a one-increment state of θ_0.

        Rows of classes that θ_0 knows by name (`duet.aliases`) start from its own, others fresh.
        """
        ...

    def grow(
        self,
        state: DetectorState,
        *,
        classes: Sequence[str],
        increment: str,
        seed: int,
        source: StartWeights | None,
    ) -> DetectorState:
        """Append a new head part, started from the last part or from ``source`` (θ_0)."""
        ...

    def recast(self, state: DetectorState, head: HeadForm) -> DetectorState:
        """Return a one-increment state in another head form; the detector stays the same."""
        ...

    def weights(self, path: Path) -> StartWeights:
        """Read start weights (θ_0): base safetensors, or the engine's own file, guarded."""
        ...

    def recognises(self, model: ForeignModel) -> bool:
        """Tell whether a file of a kind that several families read is one of this family."""
        ...

    def foreign(
        self,
        model: ForeignModel,
        *,
        name: str,
        head: HeadForm = ...,
        architecture: str | None = ...,
    ) -> tuple[DetectorState, dict[str, Any]]:
        """Read a detector that the engine trained without duet, as the increment ``name``.

        Returns the state, of several increments if duet exported the file so, and JSON-ready facts
        about the file. ``architecture`` is the only one to try where the file has to be recognised.
        """
        ...

    def architecture_of(self, tensors: Tensors) -> str | None:
        """Return the architecture that builds just these tensors; None if it cannot be told."""
        ...

    def require_trainable(self, job: Job) -> None:
        """Refuse a job that `train` would refuse, before anything is written."""
        ...

    def train(self, folder: Path, progress: Progress) -> None:
        """Run the job in ``folder``; leaves the files of a finished job (`duet.training.job`)."""
        ...

    def detector(self, state: DetectorState, *, image_size: int, device: str = "cpu") -> Detector:
        """Build a detector for inference."""
        ...

    def prepare(self, images: Sequence[np.ndarray], *, image_size: int) -> torch.Tensor:
        """Return BGR uint8 images of any size as ``(B, 3, S, S)`` float32 in [0, 1]."""
        ...

    def class_logits(self, state: DetectorState) -> Callable[[Tensors, torch.Tensor], torch.Tensor]:
        """Return ``scores(shared, images)``, differentiable in the shared tensors given to it.

        ``images`` come from `prepare`; the result is ``(B, C, A)``: logits of the C classes of all
        increments at A places. Tensors that are not given are the state's. BatchNorm uses the
        state's statistics and leaves them as they are.
        """
        ...

    def exportable(self, state: DetectorState) -> Exportable:
        """Return how the detector becomes files of other programs; nothing is built yet."""
        ...
