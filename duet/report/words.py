"""What the numbers say, in plain sentences: data in, text out, no files and no pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duet.evaluation.definitions import RANKED
from duet.evaluation.indices import Term, mean
from duet.report.phrases import count_of, listed, percent, points, where
from duet.results.schema import KeptEntry, Results, StrategyResult

NOTICEABLE = 0.01
"""A change of one class's AP50 below this (1 point) is not called a loss or a gain."""

SHOWN_CLASSES = 3
"""How many worst and best classes a sentence names."""


@dataclass(frozen=True)
class ClassChange:
    """One class on the domain it was learned in: right after it was learned and at the end.

    Attributes:
        name: Class name.
        increment: The increment that teaches it, 1..T.
        domain: Domain of that increment.
        learned: AP50 right after that increment, a fraction; None when unknown.
        final: AP50 of the final model; None when unknown.
        reference: AP50 of the model trained only on that increment's slice; None when unknown.
    """

    name: str
    increment: int
    domain: str
    learned: float | None
    final: float | None
    reference: float | None

    @property
    def change(self) -> float | None:
        """``final - learned``, or None."""
        if self.learned is None or self.final is None:
            return None
        return self.final - self.learned


def class_changes(results: Results, strategy: StrategyResult) -> tuple[ClassChange, ...]:
    """Return every class of the series, in the order learned."""
    changes: list[ClassChange] = []
    for number, step in enumerate(results.series.increments, start=1):
        learned = strategy.scores_at(number, step.domain)
        final = strategy.scores_at(results.final_stage, step.domain)
        reference = results.reference(step.domain, step.classes)
        for name in step.classes:
            changes.append(
                ClassChange(
                    name=name,
                    increment=number,
                    domain=step.domain,
                    learned=learned.ap50.get(name) if learned else None,
                    final=final.ap50.get(name) if final else None,
                    reference=reference.ap50.get(name) if reference else None,
                )
            )
    return tuple(changes)


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
    }


def kept(results: Results) -> tuple[str, ...]:
    """Return one sentence per RI pair, then the classes that held best."""
    indices = results.main.indices
    lines = [
        f"{where(results, *_slice(term))}: mAP50 {percent(term.denominator)} when learned, "
        f"{percent(term.numerator)} now; {percent(term.ratio)} kept."
        for term in indices.ri_terms
    ]
    if indices.bwt is not None:
        lines.append(
            f"On average old classes changed by {points(indices.bwt)} of mAP50 since they were "
            f"learned (backward transfer)."
        )
    changed = [item for item in _old(results) if item.change is not None]
    best = sorted(changed, key=lambda item: -(item.change or 0))[:SHOWN_CLASSES]
    if best:
        lines.append(f"Old classes that held best: {_named(best)}.")
    lines += [
        _still_made(strategy, entry) for strategy in results.strategies for entry in strategy.kept
    ]
    return tuple(lines) or _nothing(results, "RI", "forgotten")


def gained(results: Results) -> tuple[str, ...]:
    """Return one sentence per PI pair, and per GI pair of the final stage."""
    indices = results.main.indices
    lines = [
        f"{where(results, *_slice(term))}: mAP50 {percent(term.numerator)} right after stage "
        f"{term.stage}, {percent(term.ratio)} of what a model trained only on them reaches "
        f"({percent(term.denominator)})."
        for term in indices.pi_terms
    ]
    lines += [
        f"{where(results, *_slice(term))}, never labelled there: mAP50 {percent(term.numerator)} "
        f"now, {percent(term.ratio)} of what a model trained on such labels reaches "
        f"({percent(term.denominator)})."
        for term in indices.gi_terms
        if term.stage == results.final_stage
    ]
    return tuple(lines) or ("No plasticity or generalisation was measured in this run.",)


def lost(results: Results) -> tuple[str, ...]:
    """Return what got worse: forgetting, the classes that lost most, the weakest new classes."""
    indices = results.main.indices
    lines: list[str] = []
    if indices.forgetting is not None:
        lines.append(_forgetting_sentence(indices.forgetting))
    fallen = [i for i in _old(results) if i.change is not None and i.change < -NOTICEABLE]
    if fallen:
        worst = sorted(fallen, key=lambda item: item.change or 0)[:SHOWN_CLASSES]
        lines.append(
            f"{len(fallen)} of {count_of(len(_old(results)), 'old class', 'old classes')} lost "
            f"more than {points(NOTICEABLE).lstrip('+')} of AP50; most: {_named(worst)}."
        )
    elif any(item.change is not None for item in _old(results)):
        lines.append(f"No old class lost more than {points(NOTICEABLE).lstrip('+')} of AP50.")
    weak = _weakest_new(results)
    if weak:
        lines.append(f"New classes furthest below their reference: {weak}.")
    return tuple(lines) or _nothing(results, "RI", "lost")


def cautions(results: Results) -> tuple[str, ...]:
    """Return what limits the numbers: one seed, pairs left out, notes of the strategies."""
    notes = [f"{m.title}: {note}" for m in results.strategies for note in m.notes]
    return (
        f"Every number comes from one seed ({results.protocol.seed}): small gaps may be noise.",
        *off_published(results),
        *(f"Left out: {line}." for line in results.main.indices.left_out),
        *notes,
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


def average_sides(terms: Sequence[Term]) -> tuple[float | None, float | None]:
    """Return the mean denominator and the mean numerator (mAP50 before and after)."""
    return mean([term.denominator for term in terms]), mean([term.numerator for term in terms])


def _kept_in_one(results: Results) -> str:
    terms = results.main.indices.ri_terms
    steps = results.series.increments
    if not terms and results.main.kept:
        return _still_made(results.main, results.main.kept[-1])
    if not terms and len(steps) > 1:
        return f"How much {results.main.title} keeps was not measured{_reason(results, 'RI')}."
    if not terms:
        return (
            f"{results.main.title} learned {count_of(len(steps[0].classes), 'class', 'classes')} "
            f"in {steps[0].domain}; there is no older knowledge to compare with."
        )
    before, after = average_sides(terms)
    old = dict.fromkeys(name for step in steps[:-1] for name in step.classes)
    return (
        f"After {count_of(len(steps) - 1, 'further increment')}, {results.main.title} keeps "
        f"{percent(results.main.indices.ri)} of what it knew about the "
        f"{count_of(len(old), 'old class', 'old classes')} in their own images "
        f"(mAP50 {percent(before)} before, {percent(after)} after)."
    )


def _still_made(strategy: StrategyResult, entry: KeptEntry) -> str:
    """Return what a strategy makes of the detections of the detector that it went on from."""
    share = f" ({percent(entry.kept / entry.before)})" if entry.before else ""
    return (
        f"{strategy.title} still makes {entry.kept} of {entry.before} detections{share} of the "
        f"detector that the series goes on from in {count_of(entry.images, 'image')} of "
        f"{entry.domain}, sees a new class in the place of {entry.renamed}, and makes "
        f"{entry.added} others of its classes (score {entry.confidence:g} or "
        f"more, IoU {entry.iou:g})."
    )


def _learned_in_one(results: Results) -> str:
    indices = results.main.indices
    if results.final_stage == 1:
        return "No further classes were learned."
    if not indices.pi_terms:
        return f"How well the new classes were learned was not measured{_reason(results, 'PI')}."
    reference, reached = average_sides(indices.pi_terms)
    new = list(dict.fromkeys(n for step in results.series.increments[1:] for n in step.classes))
    # The average ratio is not the ratio of the averages: say so when there are several.
    average = "on average " if len(indices.pi_terms) > 1 else ""
    sentence = (
        f"The {count_of(len(new), 'new class', 'new classes')} ({listed(new)}) reach mAP50 "
        f"{percent(reached)} when learned, {average}{percent(indices.pi)} of a model trained only "
        f"on them ({percent(reference)})"
    )
    if indices.gi is None:
        return f"{sentence}."
    return f"{sentence}; classes never labelled in a domain reach {percent(indices.gi)} there."


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
    for index in RANKED:
        if index.against == "reference":  # alone it says nothing of what was kept
            continue
        own = main.indices.value(index.name)
        scores = [(m.indices.value(index.name), m) for m in others]
        known = [(value, m) for value, m in scores if value is not None]
        if own is None or not known:
            continue
        rank = 1 + sum(value > own for value, _ in known)
        value, best = max(known, key=lambda pair: pair[0])
        return (
            f"Over all indices ({index.title}) it scores {percent(own)}, rank {rank} of "
            f"{len(known) + 1} strategies; the best of the others is {best.title} "
            f"with {percent(value)}."
        )
    return "No other strategy was run, so these numbers have nothing to be compared with."


def _forgetting_sentence(value: float) -> str:
    between = "from the best earlier value of each old class set to the final model"
    if value <= 0:
        return f"Nothing was forgotten on average: {points(-value)} of mAP50 {between}."
    amount = percent(value, unit=False)
    return f"Forgetting: {amount} points of mAP50 on average, {between}."


def _slice(term: Term) -> tuple[str, tuple[str, ...]]:
    return term.domain, term.classes


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
