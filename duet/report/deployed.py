"""What a person with a camera sees: tables and sentences about thresholds, as data."""

from __future__ import annotations

from duet.evaluation.definitions import INDICES
from duet.evaluation.deployment import ClassDeployment, total
from duet.report.phrases import MISSING, marked, percent, where
from duet.report.tables import Table, ordered_strategies
from duet.results.deployed import DoubleBoxes, double_boxes, shown
from duet.results.measured import FEW_OBJECTS, few_behind
from duet.results.schema import Results, StrategyResult


def deployed_table(results: Results) -> Table:
    """Return one row per strategy: old and new objects at the thresholds, boxes shown twice."""
    header = (
        "Strategy", "old objects", "found", "wrong", "new objects", "found", "wrong", "FR", "OR",
        "double boxes", "between increments", "calibration error",
    )  # fmt: skip
    rows = tuple(
        row for strategy in ordered_strategies(results) if (row := _row(results, strategy))
    )
    return Table(header, rows)


def _row(results: Results, strategy: StrategyResult) -> tuple[str, ...]:
    every = shown(results, strategy)
    if not every:
        return ()
    old = [one for one in every if one.increment < results.final_stage]
    before, after = (total(getattr(one, side) for one in old) for side in ("before", "after"))
    new = total(one.after for one in every if one.increment == results.final_stage)
    cells = (MISSING,) * 3
    if old:
        cells = (
            str(after.objects),
            f"{before.found} → {after.found}",
            f"{before.wrong} → {after.wrong}",
        )
    twice = [double_boxes(results, strategy, stage) for stage in (1, results.final_stage)]
    return (
        strategy.title,
        *cells,
        *(str(number) for number in (new.objects, new.found, new.wrong)),
        *_retained(results, strategy),
        *_doubled(twice),
        percent(_calibration_error(results, strategy), unit=False),
    )


def _retained(results: Results, strategy: StrategyResult) -> list[str]:
    """Return FR and OR, marked where they hang on few objects."""
    return [
        marked(
            percent(strategy.indices.value(index.name), unit=False),
            few_behind(results, strategy, index),
        )
        for index in INDICES
        if index.of == "recall"
    ]


def _doubled(twice: list[DoubleBoxes | None]) -> tuple[str, ...]:
    """Return pairs per 100 images at first and in the end: of all kinds, and between increments."""
    first, last = twice
    if first is None or last is None:
        return (MISSING,) * 2
    every = f"{first.within + first.between:.0f} → {last.within + last.between:.0f}"
    return every, f"{first.between:.0f} → {last.between:.0f}"


def _calibration_error(results: Results, strategy: StrategyResult) -> float | None:
    """Return the mean over domains, of the final detector."""
    domains = dict.fromkeys(domain for domain, _ in results.series.steps)
    scores = [strategy.scores_at(results.final_stage, domain) for domain in domains]
    errors = [
        one.deployed.ece for one in scores if one and one.deployed and one.deployed.ece is not None
    ]
    return sum(errors) / len(errors) if errors else None


def classes_table(results: Results) -> Table:
    """Return every class of the main strategy in its domain: the final detector at its threshold.

    Where it finds fewest comes first; *found when learned* is the detector of that stage.
    """
    header = (
        "Class", "Learned as", "threshold", "objects", "found when learned", "found", "wrong",
        "missed", "precision", "recall", "F1", "LRP", "oLRP",
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
    shares = (final.precision, final.recall, final.f1, final.lrp, final.olrp)
    counts = (earlier.found, final.found, final.wrong, final.missed)
    return (
        f"{final.threshold:.2f}",
        marked(str(final.objects), final.objects in range(1, FEW_OBJECTS)),
        *map(str, counts),
        *(percent(share, unit=False) for share in shares),
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
