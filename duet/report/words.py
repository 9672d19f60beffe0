"""What the numbers say, in plain sentences: data in, text out, no files and no pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duet.evaluation.definitions import INDICES, RANKED, Index
from duet.evaluation.indices import mean
from duet.report.changes import ClassChange, class_changes
from duet.report.phrases import LITTLE, count_of, listed, marked, percent, points, where
from duet.results.measured import Measured, few_behind, measured
from duet.results.schema import KeptEntry, Results, StrategyResult

NOTICEABLE = 0.01
"""A change of one class's AP50 below this (1 point) is not called a loss or a gain."""

SHOWN_CLASSES = 3
"""How many worst and best classes a sentence names."""

RI, GI, PI = (index for index in INDICES if index.against and index.of == "mAP50")
"""The shares of mAP50."""


def answer(results: Results) -> tuple[str, ...]:
    """Return the answer of the report: what was kept, what was learned, against what."""
    return (_kept_in_one(results), _learned_in_one(results), _compared_in_one(results))


def as_dict(results: Results, report: Path) -> dict[str, Any]:
    """Return the answer and the numbers behind it as JSON-ready data."""
    return {
        "schema": 1,
        "report": str(report),
        "main_strategy": results.main_strategy,
        "answer": list(answer(results)),
        "summary": {strategy.name: strategy.indices.numbers() for strategy in results.strategies},
        "objects": results.objects,
    }


def kept(results: Results) -> tuple[str, ...]:
    """Return one sentence per RI pair, then the classes that held best."""
    indices = results.main.indices
    pairs = measured(results, results.main, RI)
    lines = [line for item in pairs if (line := _kept(results, item))]
    if indices.bwt is not None and _knew(results):
        lines.append(
            f"On average old classes changed by {points(indices.bwt)} of mAP50 since they were "
            f"learned (backward transfer)."
        )
    known = [item for item in _old(results) if item.change is not None and item.learned]
    held = [item for item in known if (item.change or 0) >= -NOTICEABLE]
    best = sorted(held, key=lambda item: -(item.change or 0))[:SHOWN_CLASSES]
    if best:
        lines.append(f"Old classes that held best: {_named(best)}.")
    lines += [
        _still_made(strategy, entry) for strategy in results.strategies for entry in strategy.kept
    ]
    return tuple(lines) or _nothing(results, "RI", "forgotten")


def gained(results: Results) -> tuple[str, ...]:
    """Return one sentence per PI pair, and per GI pair of the final stage."""
    new = [
        _gained(results, item, f"right after stage {item.pair.stage}", "only on them")
        for item in measured(results, results.main, PI)
    ]
    elsewhere = [
        _gained(results, item, "now", "on such labels", there=", never labelled there")
        for item in measured(results, results.main, GI)
        if item.pair.stage == results.final_stage
    ]
    if results.final_stage == 1:
        return ("There is only one increment: nothing further could be learned.",)
    lines = tuple(line for line in (*new, *elsewhere) if line)
    return lines or (f"Whether anything was gained was not measured{_reason(results, 'PI')}.",)


def lost(results: Results) -> tuple[str, ...]:
    """Return what got worse: forgetting, the classes that lost most, the weakest new classes."""
    indices = results.main.indices
    lines: list[str] = []
    if indices.forgetting is not None:
        lines.append(_forgetting_sentence(indices.forgetting, knew=_knew(results)))
    old = [item for item in _old(results) if item.change is not None]
    fallen = [item for item in old if (item.change or 0) < -NOTICEABLE]
    blank = [item.name for item in old if item.learned == 0]
    if fallen:
        worst = sorted(fallen, key=lambda item: item.change or 0)[:SHOWN_CLASSES]
        lines.append(
            f"{len(fallen)} of {count_of(len(_old(results)), 'old class', 'old classes')} lost "
            f"more than {points(NOTICEABLE).lstrip('+')} of AP50; most: {_named(worst)}."
        )
    elif len(blank) < len(old):
        lines.append(f"No old class lost more than {points(NOTICEABLE).lstrip('+')} of AP50.")
    if blank:
        lines.append(
            f"{count_of(len(blank), 'old class was', 'old classes were')} not found when learned "
            f"(AP50 0.0 %) and had nothing to lose: {listed(blank)}."
        )
    weak = _weakest_new(results)
    if weak:
        lines.append(f"New classes furthest below their reference: {weak}.")
    return tuple(lines) or _nothing(results, "RI", "lost")


def average_sides(pairs: Sequence[Measured]) -> tuple[float | None, float | None]:
    """Return the mean of what was compared with and of what was measured (mAP50 before, after)."""
    both = [item for item in pairs if item.value is not None and item.against is not None]
    pairs = both or pairs
    before = [item.against for item in pairs if item.against is not None]
    return mean(before), mean([item.value for item in pairs if item.value is not None])


def _kept_in_one(results: Results) -> str:
    title, steps = results.main.title, results.series.increments
    pairs = [item for item in measured(results, results.main, RI) if item.value is not None]
    if len(steps) == 1:
        return _learned_alone(results)
    if not pairs and results.main.kept:
        return _still_made(results.main, results.main.kept[-1])
    if not pairs:
        return f"How much {title} keeps was not measured{_reason(results, 'RI')}."
    before, after = average_sides(pairs)
    old = dict.fromkeys(name for item in pairs for name in item.pair.classes)
    later = f"After {count_of(len(steps) - 1, 'further increment')}, {title}"
    whose = "its" if len(old) == 1 else "their"
    whom = f"the {count_of(len(old), 'old class', 'old classes')} in {whose} own images"
    if not before:
        return (
            f"{later} has nothing that it could have kept: at first it found nothing of {whom} "
            f"(mAP50 {percent(before)}, now {percent(after)})."
        )
    sentence = (
        f"{later} keeps {_share(results, results.main, RI)} of what it knew about "
        f"{whom} (mAP50 {percent(before)} before, {percent(after)} after)."
    )
    blank = [where(results, *item.pair.slice) for item in pairs if item.against == 0]
    if blank:
        sentence += f" Of {listed(blank)} it knew nothing when learned: there is no share of that."
    return sentence


def _learned_alone(results: Results) -> str:
    """Return what became of a series of one increment."""
    main, (step,) = results.main, results.series.increments
    number = count_of(len(step.classes), "class", "classes")
    last = "there is no older knowledge to compare with."
    reached = next((cell.map50 for cell in main.matrix), None)
    if reached is None:
        return f"{main.title} was trained on {number} in {step.domain}; {last}"
    verb = "learned" if reached >= LITTLE else "found almost nothing of"
    verb = verb if reached else "found nothing of"
    return f"{main.title} {verb} {number} in {step.domain} (mAP50 {percent(reached)}); {last}"


def _still_made(strategy: StrategyResult, entry: KeptEntry) -> str:
    """Return what a strategy makes of the detections of the detector that it went on from."""
    share = f" ({percent(entry.kept / entry.before)})" if entry.before else ""
    return (
        f"{strategy.title} still makes {entry.kept} of {entry.before} detections{share} of the "
        f"detector that the series goes on from in {count_of(entry.images, 'image')} of "
        f"{entry.domain}, sees a new class in the place of {entry.renamed}, and makes "
        f"{entry.added} others of its classes (at the threshold in use, IoU {entry.iou:g})."
    )


def _learned_in_one(results: Results) -> str:
    indices = results.main.indices
    if results.final_stage == 1:
        return "No further classes were learned."
    pairs = [item for item in measured(results, results.main, PI) if item.value is not None]
    if not pairs:
        return f"How well the new classes were learned was not measured{_reason(results, 'PI')}."
    reference, reached = average_sides(pairs)
    new = list(dict.fromkeys(n for step in results.series.increments[1:] for n in step.classes))
    sentence = (
        f"The {count_of(len(new), 'new class', 'new classes')} ({listed(new)}) "
        f"{'reaches' if len(new) == 1 else 'reach'} mAP50 {percent(reached)} when learned"
    )
    if indices.pi is not None:
        # The average ratio is not the ratio of the averages: say so when there are several.
        average = "on average " if len(pairs) > 1 else ""
        share = _share(results, results.main, PI)
        sentence += f", {average}{share} of a model trained only on them ({percent(reference)})"
    elif reference is None:
        sentence += "; no model was trained only on them to compare with"
    else:
        also = "" if reached else "either "
        sentence += f"; a model trained only on them does not find them {also}(mAP50 0.0 %)"
    if indices.gi is None:
        return f"{sentence}."
    share = _share(results, results.main, GI)
    return f"{sentence}; classes never labelled in a domain reach {share} there."


def _nothing(results: Results, index: str, verb: str) -> tuple[str, ...]:
    if results.final_stage > 1:
        return (f"Whether anything was {verb} was not measured{_reason(results, index)}.",)
    return (f"There is only one increment: nothing could be {verb}.",)


def _reason(results: Results, index: str) -> str:
    """Return why an index has no term, in parentheses: the first of the reasons."""
    lines = [line for line in results.main.indices.left_out if index in line.split(" of ", 1)[0]]
    return f" ({lines[0]})" if lines else ""


def _compared_in_one(results: Results) -> str:
    main = results.main
    others = [m for m in results.strategies if m.name != main.name]
    if not others:
        return "No other strategy was run, so these numbers have nothing to be compared with."
    for index in RANKED:
        if index.against == "reference":  # alone it says nothing of what was kept
            continue
        own = main.indices.value(index.name)
        scores = [(m.indices.value(index.name), m) for m in others]
        known = [(value, m) for value, m in scores if value is not None]
        if own is None or not known:
            continue
        rank = 1 + sum(value > own for value, _ in known)
        best = max(known, key=lambda pair: pair[0])[1]
        parts = [one.title for one in INDICES if one.name in index.parts]
        what = f"Over {listed(parts)} together ({index.title})" if parts else f"In {index.title}"
        return (
            f"{what} it scores {_share(results, main, index)}, rank {rank} of "
            f"{len(known) + 1} strategies; the best of the others is {best.title} "
            f"with {_share(results, best, index)}."
        )
    return (
        f"{listed([m.title for m in others])} cannot be ranked beside it: no index of what was "
        "kept is defined for both."
    )


def _share(results: Results, strategy: StrategyResult, index: Index) -> str:
    """Return an index for people, marked where it hangs on few objects."""
    few = few_behind(results, strategy, index)
    return marked(percent(strategy.indices.value(index.name)), few)


def _forgetting_sentence(value: float, *, knew: bool) -> str:
    if not knew:
        return (
            "Nothing could be forgotten: of the old classes nothing was found at any earlier stage "
            "(mAP50 0.0 %)."
        )
    between = "from the best earlier value of each old class set to the final model"
    if value <= 0:
        return f"Nothing was forgotten on average: {points(-value)} of mAP50 {between}."
    amount = percent(value, unit=False)
    return f"Forgetting: {amount} points of mAP50 on average, {between}."


def _knew(results: Results) -> bool:
    """Tell whether the old classes were found at all at some stage before the last."""
    steps = {(domain, frozenset(classes)) for domain, classes in results.series.steps[:-1]}
    return any(
        cell.map50 > 0
        for cell in results.main.matrix
        if cell.stage < results.final_stage and (cell.domain, frozenset(cell.classes)) in steps
    )


def _kept(results: Results, item: Measured) -> str | None:
    """Return what became of one pair of RI; None if it was not measured."""
    if item.value is None or item.against is None:
        return None
    share = "there was nothing to keep"
    if item.ratio is not None:
        share = f"{marked(percent(item.ratio), item.few)} kept"
    return (
        f"{where(results, *item.pair.slice)}: mAP50 {percent(item.against)} when learned, "
        f"{percent(item.value)} now; {share}."
    )


def _gained(
    results: Results, item: Measured, when: str, trained: str, *, there: str = ""
) -> str | None:
    """Return what became of one pair of PI or GI beside its reference; None if not measured."""
    if item.value is None:
        return None
    start = f"{where(results, *item.pair.slice)}{there}: mAP50 {percent(item.value)} {when}"
    if item.against is None:
        return f"{start}; no model was trained {trained} to compare with."
    model = f"a model trained {trained}"
    if item.ratio is None:
        return f"{start}; {model} finds nothing (mAP50 0.0 %), so there is no share of it."
    share = marked(percent(item.ratio), item.few)
    return f"{start}, {share} of what {model} reaches ({percent(item.against)})."


def _old(results: Results) -> list[ClassChange]:
    changes = class_changes(results, results.main)
    return [item for item in changes if item.increment < results.final_stage]


def _named(changes: Sequence[ClassChange]) -> str:
    return ", ".join(
        f"{item.name} {points(item.change, unit=False)} "
        f"({percent(item.learned, unit=False)} to {percent(item.final)})"
        for item in changes
    )


def _weakest_new(results: Results) -> str:
    gaps = [
        (item.learned - item.reference, item)
        for item in class_changes(results, results.main)
        if item.increment >= 2 and item.learned is not None and item.reference is not None
    ]
    below = sorted((pair for pair in gaps if pair[0] < -NOTICEABLE), key=lambda pair: pair[0])
    return ", ".join(
        f"{item.name} {percent(item.learned, unit=False)} of {percent(item.reference)}"
        for _, item in below[:SHOWN_CLASSES]
    )
