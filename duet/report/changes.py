"""What became of each class: as data, and which of many are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from duet.results.files import CSV_FILE
from duet.results.schema import Results, StrategyResult

ALL_SHOWN, SHOWN = 60, 20
"""A figure has a row for every class up to the first number; of more it shows the second."""


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
        objects: Labelled objects of the class in that domain's evaluation split; None when unknown.
        trained: The same in the images that it was learned from.
    """

    name: str
    increment: int
    domain: str
    learned: float | None
    final: float | None
    reference: float | None
    objects: int | None = None
    trained: int | None = None

    @property
    def change(self) -> float | None:
        """``final - learned``, or None."""
        if self.learned is None or self.final is None:
            return None
        return self.final - self.learned

    @property
    def beside(self) -> float | None:
        """``learned - reference``, or None."""
        if self.learned is None or self.reference is None:
            return None
        return self.learned - self.reference


def class_changes(results: Results, strategy: StrategyResult) -> tuple[ClassChange, ...]:
    """Return every class of the series, in the order learned."""
    changes: list[ClassChange] = []
    for number, step in enumerate(results.series.increments, start=1):
        learned = strategy.scores_at(number, step.domain)
        final = strategy.scores_at(results.final_stage, step.domain)
        reference = results.reference(step.domain, step.classes)
        trained = step.counts.get("train")
        objects = results.objects.get(step.domain, {})
        for name in step.classes:
            changes.append(
                ClassChange(
                    name=name,
                    increment=number,
                    domain=step.domain,
                    learned=learned.ap50.get(name) if learned else None,
                    final=final.ap50.get(name) if final else None,
                    reference=reference.ap50.get(name) if reference else None,
                    objects=objects.get(name),
                    trained=trained.classes.get(name) if trained else None,
                )
            )
    return tuple(changes)


def worst_first(changes: Sequence[ClassChange], stages: int) -> list[ClassChange]:
    """Return old classes by what they lost, then those of the last stage by what they reach.

    Args:
        changes: In any order.
        stages: T, the number of increments.
    """

    def rank(item: ClassChange) -> tuple[bool, bool, float]:
        new = item.increment == stages
        value = item.learned if new else item.change
        return new, value is None, value or 0.0

    return sorted(changes, key=rank)


def old_classes(results: Results) -> list[ClassChange]:
    """Return the old classes of the main strategy that were measured twice, the worst first."""
    found = [
        item
        for item in class_changes(results, results.main)
        if item.increment < results.final_stage and item.change is not None
    ]
    return sorted(found, key=lambda item: item.change or 0)


def new_classes(results: Results) -> list[ClassChange]:
    """Return the classes of increment 2 and later, the furthest below its reference first.

    Those without a reference come last, the lowest first.
    """
    found = [
        item
        for item in class_changes(results, results.main)
        if item.increment >= 2 and item.learned is not None
    ]
    return sorted(found, key=lambda i: (i.beside is None, i.beside or 0, i.learned or 0))


def most_changed(
    found: Sequence[ClassChange], change: Callable[[ClassChange], float | None]
) -> list[ClassChange]:
    """Return all of a few classes; of many those that changed most, in the order given."""
    if len(found) <= ALL_SHOWN:
        return list(found)
    ranks = sorted(range(len(found)), key=lambda place: -abs(change(found[place]) or 0))
    return [found[place] for place in sorted(ranks[:SHOWN])]


def old_shown(results: Results) -> list[ClassChange]:
    """Return what the figure of old classes shows."""
    return most_changed(old_classes(results), lambda item: item.change)


def new_shown(results: Results) -> list[ClassChange]:
    """Return what the figure of new classes shows."""
    return most_changed(new_classes(results), lambda item: item.beside)


def old_note(results: Results) -> str:
    """Say which of many old classes the figure shows; empty where it shows all."""
    return _note(old_classes(results), "old classes that changed most, those that lost most first")


def new_note(results: Results) -> str:
    """Say which of many new classes the figure shows; empty where it shows all."""
    found = new_classes(results)
    what = "new classes that are furthest from their reference, those furthest below it first"
    if all(item.beside is None for item in found):
        what = "new classes with the lowest AP50"
    return _note(found, what)


def _note(found: Sequence[ClassChange], what: str) -> str:
    if len(found) <= ALL_SHOWN:
        return ""
    return f"Of {len(found)} the picture shows the {SHOWN} {what}; {CSV_FILE} holds all."
