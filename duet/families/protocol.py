"""The values that families and the rest of duet exchange; `duet.families.family` uses them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
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
