"""Which numbers a series needs: the pairs behind RI, GI and PI, derived from the series alone.

Source: DuET (ICCV 2025), equations 17-18 and supplement A. With increments (D_1, C_1)..(D_T, C_T):

- RI looks at D_i[C_i], i = 1..T-1: does the final model still know what increment i taught?
- GI looks at D_i[U_i] at every stage j >= 2, for every domain i <= j: does the model know classes
  in a domain where they were never labelled? U_1 = C_2 and U_i = C_1..C_{i-1} for i >= 2.
- PI (ours) looks at D_j[C_j] right after stage j >= 2: how well were the new classes learned?

**The same domain in several increments.** The paper assumes distinct domains. When increments share
one, some classes of U_i *were* labelled in D_i by a sibling increment, and the formula would count
retention and plasticity a second time under the name of generalisation. So classes that any
increment taught in that domain are taken out of U_i, an empty U_i gives no pair, and two increments
that then ask the same question at the same stage give one pair. With distinct domains nothing
changes; a purely class-incremental series (one domain) has no GI at all.

**The same classes again.** An increment may also bring no new class but more pictures of known
ones, in a new domain or in the same. The same rule holds: what was labelled in a domain is no
generalisation there, so a purely domain-incremental series has no GI either, but RI and PI, whose
definitions stay as they are, increment by increment.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from duet.errors import DataError
from duet.evaluation.matrix import Cell, Slice, slice_title
from duet.series.series import known_among_new

SeriesSteps = Sequence[tuple[str, Sequence[str]]]
"""(domain, classes) of every increment, in the order they are learned."""


@dataclass(frozen=True)
class Pair:
    """One thing to measure: the model after ``stage`` on the slice (``domain``, ``classes``).

    Attributes:
        stage: Stage of the measured model, 1..T.
        increment: The increment i whose domain is meant, 1..T.
        domain: Name of D_i.
        classes: The class set, in the order in which the classes were learned.
    """

    stage: int
    increment: int
    domain: str
    classes: tuple[str, ...]

    @property
    def slice(self) -> Slice:
        """(domain, classes)."""
        return self.domain, self.classes

    @property
    def cell(self) -> Cell:
        """(stage, domain, classes): the cell of the stage matrix."""
        return self.stage, self.domain, self.classes


def ri_pairs(series: SeriesSteps) -> tuple[Pair, ...]:
    """Return D_i[C_i] at the final stage T, for i = 1..T-1."""
    steps = _checked(series)
    return tuple(
        Pair(len(steps), number, domain, classes)
        for number, (domain, classes) in enumerate(steps[:-1], start=1)
    )


def own_pairs(series: SeriesSteps) -> tuple[tuple[Pair, ...], ...]:
    """Return D_i[C_i], i = 1..j, for every stage j = 1..T: each increment in its own domain."""
    steps = _checked(series)
    return tuple(
        tuple(Pair(stage, number + 1, *steps[number]) for number in range(stage))
        for stage in range(1, len(steps) + 1)
    )


def gi_pairs(series: SeriesSteps) -> tuple[Pair, ...]:
    """Return D_i[U_i] at every stage j >= 2 for every i <= j; ordered by stage, then increment."""
    steps = _checked(series)
    pairs: list[Pair] = []
    seen: set[tuple[int, str, frozenset[str]]] = set()
    for stage in range(2, len(steps) + 1):
        for number in range(1, stage + 1):
            domain = steps[number - 1][0]
            unlabelled = _never_labelled(steps, number)
            key = (stage, domain, frozenset(unlabelled))
            if unlabelled and key not in seen:
                seen.add(key)
                pairs.append(Pair(stage, number, domain, unlabelled))
    return tuple(pairs)


def pi_pairs(series: SeriesSteps) -> tuple[Pair, ...]:
    """Return D_j[C_j] right after stage j, for j = 2..T."""
    steps = _checked(series)
    return tuple(
        Pair(number, number, domain, classes)
        for number, (domain, classes) in enumerate(steps, start=1)
        if number >= 2
    )


def reference_slices(series: SeriesSteps) -> tuple[Slice, ...]:
    """Return the slices to train a reference model on: those of GI, then those of PI."""
    found: dict[tuple[str, frozenset[str]], Slice] = {}
    for pair in (*gi_pairs(series), *pi_pairs(series)):
        found.setdefault((pair.domain, frozenset(pair.classes)), pair.slice)
    return tuple(found.values())


def cells_needed(series: SeriesSteps) -> tuple[Cell, ...]:
    """Return every cell of the stage matrix that the indices use, ordered by stage.

    They are D_i[C_i] after every stage j >= i, the history that forgetting, BWT and AIA look at,
    and those of GI.
    """
    history = itertools.chain.from_iterable(own_pairs(series))
    found: dict[tuple[int, str, frozenset[str]], Cell] = {}
    for pair in sorted((*history, *gi_pairs(series)), key=lambda pair: pair.stage):
        found.setdefault((pair.stage, pair.domain, frozenset(pair.classes)), pair.cell)
    return tuple(found.values())


def _never_labelled(steps: Sequence[tuple[str, tuple[str, ...]]], number: int) -> tuple[str, ...]:
    """Return U_i less the classes that some increment labelled in the same domain."""
    if number == 1:
        union = steps[1][1]
    else:
        union = tuple(dict.fromkeys(name for _, classes in steps[: number - 1] for name in classes))
    here = steps[number - 1][0]
    labelled = {name for domain, classes in steps if domain == here for name in classes}
    return tuple(name for name in union if name not in labelled)


def _checked(series: SeriesSteps) -> list[tuple[str, tuple[str, ...]]]:
    """Return the steps as tuples.

    Raises:
        DataError: No increment, an increment without domain or classes, or one with both new and
            known classes.
    """
    steps = [(domain, tuple(classes)) for domain, classes in series]
    if not steps:
        raise DataError("a series needs at least one increment, got none")
    known: set[str] = set()
    for number, (domain, classes) in enumerate(steps, start=1):
        if not domain or not classes:
            raise DataError(
                f"increment {number} needs a domain and at least one class, "
                f"got {slice_title(domain, classes)}"
            )
        # Asked here too: evaluation takes plain steps, which no series need have checked.
        if old := known_among_new(classes, known):
            raise DataError(
                f"increment {number} brings new classes and known ones: {', '.join(old)}",
                remedy="split it in two: one increment of new classes, one of known ones",
            )
        known.update(classes)
    return steps
