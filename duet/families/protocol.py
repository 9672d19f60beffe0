"""What a detector family must offer. Everything else in duet is family-agnostic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from duet.detections import Detections
    from duet.increments.state import DetectorState, HeadForm
    from duet.vectors.tensors import Tensors

Progress = Callable[[dict[str, Any]], None]


class Detector(Protocol):
    """A detector in memory, ready to look at images."""

    def __call__(
        self,
        images: Sequence[np.ndarray],
        *,
        confidence: float = ...,
        iou: float = ...,
        limit: int = ...,
    ) -> list[Detections]:
        """Detect on BGR uint8 images of any size; boxes are xyxy px of each original image."""
        ...

    @property
    def module(self) -> torch.nn.Module:
        """The network itself."""
        ...


class Family(Protocol):
    """One detector family."""

    name: str
    licence: str

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
        """Return a one-increment state: θ_0's shared tensors and towers, fresh class rows."""
        ...

    def grow(
        self,
        state: DetectorState,
        *,
        classes: Sequence[str],
        increment: str,
        seed: int,
        source: Tensors | None,
    ) -> DetectorState:
        """Append a new head part, started from the last part or from ``source`` (θ_0)."""
        ...

    def recast(self, state: DetectorState, head: HeadForm) -> DetectorState:
        """Return a one-increment state in another head form; the detector stays the same."""
        ...

    def shared_of(self, tensors: Tensors, head: str) -> Tensors:
        """Return the shared trainable tensors of a stock detector (θ_0) under a head form."""
        ...

    def weights(self, path: Path) -> Tensors:
        """Read start weights (θ_0): base safetensors, or the engine's own file, guarded."""
        ...

    def train(self, folder: Path, progress: Progress) -> None:
        """Run the job in ``folder``; leaves ``trained.safetensors`` and ``outcome.json``."""
        ...

    def detector(self, state: DetectorState, *, image_size: int, device: str = "cpu") -> Detector:
        """Build a detector for inference."""
        ...

    def export(self, state: DetectorState, target: Path, *, image_size: int, form: str) -> Path:
        """Write the detector as ``pt`` or ``onnx``."""
        ...
