"""Where a shared tensor sits in a detector, so that a setting can differ by role or by depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from duet.errors import ModelError

Role = Literal["backbone", "neck", "head"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True)
class Layer:
    """The place of one tensor; the detector family tells it (`Roles.layers`), never the shape.

    Attributes:
        role: Part of the detector.
        depth: l / (L - 1) for layer l of L: 0 at the image, 1 at the head.
    """

    role: Role
    depth: float

    def __post_init__(self) -> None:
        if self.role not in ROLES or not 0 <= self.depth <= 1:
            raise ModelError(f"not a place in a detector: {self}")
