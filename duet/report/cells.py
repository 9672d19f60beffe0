"""An evaluation of one detector as tables, beside what its increments remember."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from duet.evaluation.cells import Cell
from duet.report.phrases import MISSING, marked, percent
from duet.report.tables import Table
from duet.results.measured import is_few

NOW, REMEMBERED = "now", "when learned (remembered)"


def cells_table(cells: Sequence[Cell], remembered: Sequence[Cell] = ()) -> Table:
    """Return what was found in each cell: at the thresholds in use, and as mAP; in per cent.

    Double boxes are pairs per 100 images, of all classes of the detector.

    Args:
        cells: What was measured now.
        remembered: What increments remember of their stages, which gets rows of its own.
    """
    numbers = (
        "split", "images", "objects", "found", "wrong", "precision", "recall", "F1",
        "double boxes", "mAP50", "mAP",
    )  # fmt: skip
    when = ("measured",) if remembered else ()
    rows = tuple(
        (*_place(cell), *((measured,) if remembered else ()), *_numbers(cell))
        for cell, measured in _together(cells, remembered)
    )
    return Table(("domain", "classes of", *when, *numbers), rows, words=3 + len(when))


def _together(cells: Sequence[Cell], remembered: Sequence[Cell]) -> Iterator[tuple[Cell, str]]:
    """Yield cells in order, what is remembered of each before what it is now."""
    older = {_place(one): one for one in remembered}
    here = {_place(one) for one in cells}
    yield from ((one, REMEMBERED) for key, one in older.items() if key not in here)
    for cell in cells:
        if (was := older.get(_place(cell))) is not None:
            yield was, REMEMBERED
        yield cell, NOW


def _place(cell: Cell) -> tuple[str, ...]:
    return cell.domain, cell.increment


def _numbers(cell: Cell) -> tuple[str, ...]:
    seen = cell.deployed.total(cell.ap50)
    few = [one for one in cell.deployed.classes.values() if is_few(one.objects)]
    shares = (percent(value, unit=False) for value in (seen.precision, seen.recall, seen.f1))
    doubles = cell.deployed.doubles
    return (
        cell.split,
        str(cell.images),
        marked(str(seen.objects), is_few(seen.objects)),
        str(seen.found),
        str(seen.wrong),
        *shares,
        MISSING if doubles is None else f"{doubles:.0f}",
        *(marked(percent(value, unit=False), few) for value in (cell.map50, cell.map)),
    )


def classes_table(cells: Sequence[Cell], remembered: Sequence[Cell] = ()) -> Table:
    """Return the same class by class, what is known of each when learned beside what it is now."""
    older = {(one.domain, name): one for one in remembered for name in one.ap50}
    newer = {(one.domain, name): one for one in cells for name in one.ap50}
    sides = ("found", "wrong", "F1", "AP50")
    header = ("class", "domain", "threshold", "objects", *sides)
    learned = tuple(f"{name} when learned" for name in sides) if remembered else ()
    rows = []
    for domain, name in dict.fromkeys((*older, *newer)):
        now, was = (_of_class(side.get((domain, name)), name) for side in (newer, older))
        first = now[:2] if (domain, name) in newer else was[:2]
        rows.append((name, domain, *first, *now[2:], *(was[2:] if remembered else ())))
    return Table((*header, *learned), tuple(rows), words=2)


def _of_class(cell: Cell | None, name: str) -> tuple[str, ...]:
    """Return threshold, objects, found, wrong, F1 and AP50 of a class."""
    if cell is None:
        return (MISSING,) * 6
    shown, ap50 = cell.deployed.classes.get(name), percent(cell.ap50[name], unit=False)
    if shown is None:
        return (*(MISSING,) * 5, ap50)
    return (
        f"{shown.threshold:.2f}",
        marked(str(shown.objects), is_few(shown.objects)),
        str(shown.found),
        str(shown.wrong),
        percent(shown.f1, unit=False),
        ap50,
    )
