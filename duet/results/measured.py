"""What stands behind every ratio: both of its sides, where one is 0 or missing too, and how much.

`duet.evaluation.indices` keeps ratios alone. Who tells what happened also needs the pairs that have
none: nothing was trained to compare with, or what is compared with found nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from duet.evaluation.definitions import INDICES, Index
from duet.evaluation.pairs import Pair, gi_pairs, pi_pairs, ri_pairs
from duet.results.schema import Results, StrategyResult

FEW_OBJECTS = 20
"""A ratio that hangs on a class with fewer labelled objects is marked: one object more or less
found moves the recall of such a class by more than 5 points."""

Counts = dict[str, dict[str, int]]
"""Domain -> class -> labelled objects, as of `Results.objects`."""


@dataclass(frozen=True)
class Measured:
    """One pair of the protocol, as far as it was measured.

    Attributes:
        pair: Which model on which classes of which domain.
        value: mAP50 (`Index.of`: or recall) of that model, a fraction; None if it was not measured.
        against: That of what it is compared with; None if that was not measured or not trained.
        objects: Class name -> labelled objects, where there are any; empty where nobody counted.
        few: Those of them that are so few that the ratio hangs on chance.
    """

    pair: Pair
    value: float | None
    against: float | None
    objects: Mapping[str, int]
    few: Mapping[str, int]

    @property
    def ratio(self) -> float | None:
        """``value / against``; None where one of them is missing or ``against`` is 0."""
        return self.value / self.against if self.value is not None and self.against else None


def is_few(objects: int | None) -> bool:
    """Tell whether what is said of so many objects hangs on few; of none nothing is said."""
    return objects is not None and 0 < objects < FEW_OBJECTS


def measured(results: Results, strategy: StrategyResult, index: Index) -> tuple[Measured, ...]:
    """Return every pair of an index that has terms, in the order of the protocol.

    Raises:
        DataError: The series is none that could be learned.
    """
    found = []
    for pair in _pairs(results, index):
        known = results.objects.get(pair.domain, {})
        objects = {name: known[name] for name in pair.classes if known.get(name)}
        few = {name: number for name, number in objects.items() if is_few(number)}
        if index.of == "recall" and sum(objects.values()) >= FEW_OBJECTS:
            few = {}  # over all objects, while mAP50 weighs classes equally
        sides = _recalls if index.of == "recall" else _map50
        found.append(Measured(pair, *sides(results, strategy, index, pair), objects, few))
    return tuple(found)


_Sides = tuple[float | None, float | None]


def _pairs(results: Results, index: Index) -> tuple[Pair, ...]:
    if index.against == "earlier":
        return ri_pairs(results.series.steps)
    return {"gi": gi_pairs, "pi": pi_pairs}[index.name](results.series.steps)


def _map50(results: Results, strategy: StrategyResult, index: Index, pair: Pair) -> _Sides:
    value = strategy.map50_at(*pair.cell)
    if index.against == "earlier":
        return value, strategy.map50_at(pair.increment, *pair.slice)
    reference = results.reference(*pair.slice)
    return value, reference.map50 if reference else None


def _recalls(results: Results, strategy: StrategyResult, index: Index, pair: Pair) -> _Sides:
    for term in strategy.indices.terms(index):
        if (term.increment, term.domain) == (pair.increment, pair.domain):
            return term.numerator, term.denominator
    return None, None


def few_anywhere(results: Results) -> Counts:
    """Return the classes with few objects that some index of some strategy hangs on."""
    few: Counts = {}
    for strategy in results.strategies:
        for index in INDICES:
            for domain, counts in few_behind(results, strategy, index).items():
                few.setdefault(domain, {}).update(counts)
    return few


def few_behind(results: Results, strategy: StrategyResult, index: Index) -> Counts:
    """Return the classes with few objects that an index hangs on, itself or through its parts."""
    few: Counts = {}
    if strategy.indices.value(index.name) is None:
        return few
    for one in INDICES:
        if one.name == index.name or one.name in index.parts:
            terms = measured(results, strategy, one) if one.against else ()
            for term in terms:
                if term.ratio is not None and term.few:
                    few.setdefault(term.pair.domain, {}).update(term.few)
    return few
