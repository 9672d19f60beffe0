"""What a person with a camera sees: tables and sentences about thresholds, as data."""

from __future__ import annotations

from duet.defaults import DOUBLE_IOU
from duet.evaluation.definitions import INDICES
from duet.evaluation.deployment import ClassDeployment
from duet.report.phrases import MISSING, marked, percent, where
from duet.report.tables import Table, ordered_strategies
from duet.results.deployed import DoubleBoxes, Totals, shown, totals
from duet.results.measured import few_behind, is_few
from duet.results.schema import Results

SEEN = (
    "old objects", "found", "wrong", "oLRP", "new objects", "found", "wrong", "double boxes",
    "between increments", "calibration error",
)  # fmt: skip
"""Titles of `seen_cells`."""

LEGEND = (
    "Of the objects in the evaluation images, at the threshold of each class and IoU 0.5. *Old "
    "objects*: of the older increments in their own images, right after they were learned → in the "
    "final model; *oLRP*: the mean error of their classes at the best threshold, lower is better. "
    "*Double boxes*: pairs of boxes of different classes on one another (IoU above "
    f"{DOUBLE_IOU:g}) per 100 images, after the first stage → in the end. *Calibration error*: how "
    "far scores of the final model are from the share of boxes that are right, in per cent; with "
    "the scores of the network → with those that are shown."
)
"""What they mean, in Markdown."""


def deployed_table(results: Results) -> Table:
    """Return one row per strategy: old and new objects at the thresholds, boxes shown twice."""
    recalls = [index for index in INDICES if index.of == "recall"]
    rows = []
    for strategy in ordered_strategies(results):
        if (seen := totals(results, strategy)) is not None:
            retained = (
                marked(
                    percent(strategy.indices.value(index.name), unit=False),
                    few_behind(results, strategy, index),
                )
                for index in recalls
            )
            rows.append((strategy.title, *retained, *seen_cells(seen)))
    return Table(("Strategy", *(index.title for index in recalls), *SEEN), tuple(rows))


def seen_cells(seen: Totals) -> tuple[str, ...]:
    """Return what a strategy's detectors show, of one run or several: a cell for each of `SEEN`."""
    before, after, new = seen.before, seen.after, seen.new
    old = (MISSING,) * 4
    if before.objects or after.objects:
        old = (
            marked(str(after.objects), is_few(after.objects)),
            f"{before.found} → {after.found}",
            f"{before.wrong} → {after.wrong}",
            " → ".join(percent(value, unit=False) for value in seen.olrp),
        )
    return (
        *old,
        marked(str(new.objects), is_few(new.objects)),
        str(new.found),
        str(new.wrong),
        *_doubled(seen.doubles),
        _error(seen.ece_raw, seen.ece),
    )


def _doubled(twice: tuple[DoubleBoxes | None, DoubleBoxes | None]) -> tuple[str, ...]:
    """Return pairs per 100 images at first and in the end: of all kinds, and between increments."""
    first, last = twice
    if first is None or last is None:
        return (MISSING,) * 2
    return f"{first.total:.0f} → {last.total:.0f}", f"{first.between:.0f} → {last.between:.0f}"


def _error(raw: float | None, mapped: float | None) -> str:
    """Return a calibration error before and after the score maps; once, where they change none."""
    sides = [percent(value, unit=False) for value in (raw, mapped)]
    return sides[1] if raw is None or sides[0] == sides[1] else " → ".join(sides)


def classes_table(results: Results) -> Table:
    """Return every class of the main strategy in its domain: the final detector at its threshold.

    Where it finds fewest comes first; *found when learned* is the detector of that stage, *at equal
    precision* what the final one finds at the precision of that one.
    """
    header = (
        "Class", "Learned as", "threshold", "objects", "found when learned", "found", "wrong",
        "missed", "precision", "recall", "F1", "at equal precision", "LRP", "oLRP",
    )  # fmt: skip
    found = []
    for one in shown(results, results.main):
        learned_as = where(results, one.domain, one.classes)
        for name in one.classes:
            earlier, final = (side.classes.get(name) for side in (one.earlier, one.final))
            if earlier is not None and final is not None:
                found.append((final.recall, (name, learned_as, *_cells(earlier, final))))
    found.sort(key=lambda row: (row[0] is None, row[0]))
    return Table(header, tuple(cells for _, cells in found), words=2)


def _cells(earlier: ClassDeployment, final: ClassDeployment) -> tuple[str, ...]:
    equal = final.at_precision
    return (
        f"{final.threshold:.2f}",
        marked(str(final.objects), is_few(final.objects)),
        *map(str, (earlier.found, final.found, final.wrong, final.missed)),
        *(percent(share, unit=False) for share in (final.precision, final.recall, final.f1)),
        MISSING if equal is None else f"{equal.found} (wrong {equal.wrong})",
        *(percent(error, unit=False) for error in (final.lrp, final.olrp)),
    )


def sentences(results: Results) -> tuple[str, ...]:
    """Return what became of the known objects of each increment, at the thresholds in use."""
    lines = []
    for one in shown(results, results.main):
        if one.increment == results.final_stage or not one.after.objects:
            continue
        lines.append(
            f"{where(results, one.domain, one.classes)}, at the threshold in use: of "
            f"{one.after.objects} objects {one.before.found} were found when learned and "
            f"{one.after.found} are now, beside {one.after.wrong} wrong boxes "
            f"({one.before.wrong} when learned)."
        )
    return tuple(lines)
