"""What a detector must reach, cell by cell, and which cells have nothing to reach it with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from duet.errors import GateError


def require_map50(cells: Sequence[Mapping[str, Any]], least: float, *, where: str) -> None:
    """Check that every cell was measured and is high enough.

    Args:
        cells: What `duet.runs.evaluate.evaluate_cells` returned.
        least: Lowest mAP50, a fraction.
        where: The detector, for the error.

    Raises:
        GateError: A cell is below, or has no labelled object.
    """
    nothing = [cell for cell in cells if cell["map50"] is None]
    if nothing:  # a gate that passes on nothing would pass on a broken data set
        raise GateError(
            "; ".join(unmeasured(cell, cell["ap50"]) for cell in nothing),
            where=where,
            remedy="--min-map50 asks for a number in every cell: label objects in this split, "
            "choose another with --split, or leave the increment out of the series",
        )
    low = [cell for cell in cells if cell["map50"] < least]
    if low:
        worst = min(low, key=lambda cell: float(cell["map50"]))
        raise GateError(
            f"mAP50 of {worst['domain']}[{worst['increment']}] is {worst['map50']:.3f}, "
            f"--min-map50 is {least}",
            where=where,
            remedy=f"{len(low)} of {len(cells)} cells are below; see the table",
        )


def unmeasured(cell: Mapping[str, Any], names: Iterable[str]) -> str:
    """Return in words that a split shows no object of some classes of a cell."""
    place = f"the {cell['split']} split of {cell['domain']}"
    return f"{cell['increment']}: no labelled object of {', '.join(names)} in {place}"
