"""The values that families and the rest of duet exchange; `duet.families.family` uses them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from duet.detections import Detections
    from duet.merging.layers import Layer
    from duet.vectors.tensors import Tensors


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
        CLASS_ROWS: Matches the tensors of a head part with one row per class.
    """

    CLASS_ROWS: re.Pattern[str]

    def split_roles(self, tensors: Tensors, form: str) -> Roles:
        """Split a stock one-increment detector; a tensor without a role is a `ModelError`."""
        ...

    def layers(self, names: Iterable[str], architecture: str) -> dict[str, Layer]:
        """Return the place of each tensor in the detector."""
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
    def module(self) -> Callable[[torch.Tensor], Any]:
        """The network itself."""
        ...
