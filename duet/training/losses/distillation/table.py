"""The distillations by name. Adding one = one file here with the two functions, and one row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from duet.registry import Table

if TYPE_CHECKING:  # configurations name distillations without loading torch
    from duet.training.losses.distillation.responses import Anchors, Losses, Places, Quantiles

DISTILLATIONS = Table(
    "distillation",
    "distillations",
    {
        "duet": "duet.training.losses.distillation.duet",
        "lwf": "duet.training.losses.distillation.lwf",
        "erd": "duet.training.losses.distillation.erd",
    },
)


class Distillation(Protocol):
    """What a file offers: how far a detector in training is from the previous one."""

    def of_anchors(self, student: Anchors, teacher: Anchors, quantiles: Quantiles) -> Losses:
        """Return (class loss, box loss) of a dense head."""
        ...

    def of_places(self, student: Places, teacher: Places, quantiles: Quantiles) -> Losses:
        """Return (class loss, box loss) of an encoder's proposals."""
        ...


def resolve_distillation(name: str) -> Distillation:
    """Import a distillation by its name in the table."""
    return cast("Distillation", DISTILLATIONS.load(name))
