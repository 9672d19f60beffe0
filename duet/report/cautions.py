"""What limits the numbers of a run, in plain sentences, the gravest first."""

from __future__ import annotations

from collections.abc import Iterator

from duet.evaluation.definitions import INDICES
from duet.report.phrases import few_named, learned_little, listed, marked, percent, points, where
from duet.results.measured import FEW_OBJECTS, few_behind
from duet.results.schema import Results


def cautions(results: Results) -> tuple[str, ...]:
    """Return what limits the numbers: stages that learned nothing, few objects, one seed, gaps."""
    notes = [f"{m.title}: {note}" for m in results.strategies for note in m.notes]
    return (
        *learned_nothing(results),
        *_on_few_objects(results),
        *_without_objects(results),
        *_on_chosen_images(results),
        f"Every number comes from one seed ({results.protocol.seed}): small gaps may be noise.",
        *off_published(results),
        *(f"Left out: {line}." for line in results.main.indices.left_out),
        *notes,
    )


def learned_nothing(results: Results) -> tuple[str, ...]:
    """Return one sentence per stage of the main strategy that learned nothing, or almost."""
    cells = {(r.stage, r.domain, frozenset(r.classes)): r.map50 for r in results.main.matrix}
    lines = []
    for stage, (domain, classes) in enumerate(results.series.steps, start=1):
        map50 = cells.get((stage, domain, frozenset(classes)))
        brought = stage == 1 and results.main.kept  # nobody trained it here
        line = None if map50 is None or brought else learned_little(stage, domain, map50)
        if line is not None:
            lines.append(f"{line[0].upper()}{line[1:]}.")
    return tuple(lines)


def _on_few_objects(results: Results) -> Iterator[str]:
    """Yield one sentence per index that hangs on classes with few objects, the fewest first."""
    for index in INDICES:
        if not index.against:
            continue
        few = few_behind(results, results.main, index)
        if few:
            value = marked(percent(results.main.indices.value(index.name)), few)
            yield (
                f"{index.title} {value} hangs on classes with fewer than {FEW_OBJECTS} objects in "
                "the evaluation images, where one object more or less found changes much: "
                f"{few_named(few)}."
            )


def _on_chosen_images(results: Results) -> Iterator[str]:
    """Yield that thresholds were chosen on the very images that are evaluated."""
    protocol = results.protocol
    if protocol.strategy_config.get("calibrate") and "val" in protocol.eval_split.split("+"):
        yield (
            f"{results.main.title} chose its thresholds and score maps on validation images that "
            "are evaluated here: what is found and wrong, FR and the calibration error flatter it. "
            "A test split would not."
        )


def _without_objects(results: Results) -> Iterator[str]:
    """Yield one sentence per domain where some of the classes of a cell have no object."""
    absent: dict[str, dict[str, None]] = {}
    for cell in results.main.matrix:
        scores = results.main.scores_at(cell.stage, cell.domain)
        for name in cell.classes if scores else ():
            if scores and name in scores.ap50 and scores.ap50[name] is None:
                absent.setdefault(cell.domain, {})[name] = None
    for domain, names in absent.items():
        yield (
            f"No object of {listed(list(names))} in the evaluation images of "
            f"{domain}: no number there speaks of it."
        )


def off_published(results: Results) -> tuple[str, ...]:
    """Return one sentence per trained model that is not near the value published for it."""
    return tuple(
        f"{where(results, item.domain, item.classes)}: a model trained only on them has mAP50 "
        f"{percent(item.measured)}, published are {percent(item.published)} ({item.source}); a gap "
        f"above {points(item.tolerance).lstrip('+')} means that data, splits, class order or "
        f"schedule differ, so the indices cannot be compared with the published ones."
        for item in results.published
        if not item.near
    )
