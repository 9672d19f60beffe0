"""An evaluation of one detector as a table."""

from __future__ import annotations

from collections.abc import Sequence

from duet.evaluation.cells import Cell
from duet.report.phrases import percent
from duet.report.tables import Table


def cells_table(cells: Sequence[Cell]) -> Table:
    """Return what was found in each cell: at the thresholds in use, and as mAP in per cent."""
    header = (
        "domain", "classes of", "split", "images", "objects", "found", "wrong", "mAP50", "mAP",
    )  # fmt: skip
    return Table(header, tuple(_row(cell) for cell in cells), words=3)


def _row(cell: Cell) -> tuple[str, ...]:
    shown = cell.deployed.total(cell.ap50)
    counts = (cell.images, shown.objects, shown.found, shown.wrong)
    scores = (percent(value, unit=False) for value in (cell.map50, cell.map))
    return (cell.domain, cell.increment, cell.split, *map(str, counts), *scores)
