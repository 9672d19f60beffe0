"""Holding what was measured of a detector against a gate: pure, whatever measured it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from duet.evaluation.cells import Cell
from duet.evaluation.definitions import RATIOS
from duet.evaluation.deployment import Counted
from duet.evaluation.gate import DOUBLE, DROP, INDICES, MAP50, MEASURES, Check, Gate, Verdict
from duet.evaluation.indices import mean
from duet.evaluation.matrix import Slice
from duet.text import short_list

NAMES_SHOWN = 6
"""Class names in what a row is about."""

NONE_TAUGHT = (
    "what it is compared with has no class in a domain where it was taught: compare with another, "
    "or name classes under cells"
)


@dataclass(frozen=True)
class Standing:
    """One class in one domain.

    Attributes:
        ap50: Its AP50, a fraction; None where no object is labelled.
        counted: What is found of it at the deployed threshold; None where nobody looked.
        taught: Whether an increment taught it there.
        split: Of the images; empty where nobody knows.
        why: Why nothing was measured, where that is known.
    """

    ap50: float | None
    counted: Counted | None
    taught: bool
    split: str = ""
    why: str = ""

    @property
    def objects(self) -> int | None:
        """Labelled objects of the class; None where nobody counted."""
        return None if self.counted is None else self.counted.objects

    def value(self, measure: str) -> float | None:
        """Return AP50 or F1; None where no object is labelled."""
        if measure == "ap50":
            return self.ap50
        return self.counted.f1 if self.counted is not None and self.counted.objects else None

    def elsewhere(self, before: Standing) -> str:
        """Say that this is of other images than what was before; empty if it is not."""
        if "" in (self.split, before.split) or self.split == before.split:
            return ""
        return f"different splits: now {self.split}, before {before.split}"


Standings = Mapping[tuple[str, str], Standing]
"""(domain, class) -> what was measured."""


@dataclass(frozen=True)
class Measured:
    """What is known of a detector.

    Attributes:
        now: All classes that were measured.
        taught: (domain, classes) of each increment that was measured in its own domain.
        before: What old classes are compared with.
        doubles: Domain -> double boxes per 100 images; None where nobody looked.
        indices: Name -> value; None or missing where undefined.
        reasons: Why an index is undefined, as `Indices.left_out`: each begins with its titles.
        unread: Domain -> why nothing was measured there.
        alone: Why there is nothing to compare with, if there is not.
    """

    now: Standings
    taught: Sequence[Slice]
    before: Standings
    doubles: Mapping[str, float | None]
    indices: Mapping[str, float | None] = field(default_factory=dict)
    reasons: Sequence[str] = ()
    unread: Mapping[str, str] = field(default_factory=dict)
    alone: str = "no class was learned before"


def check(gate: Gate, measured: Measured) -> Verdict:
    """Return how each limit of a gate ends; one that nothing was measured for is not kept."""
    rows = (_indices, _cells, _classes, _drops, _doubles)
    return Verdict(tuple(one for part in rows for one in part(gate, measured)))


def _indices(gate: Gate, measured: Measured) -> Iterator[Check]:
    for index in RATIOS:
        if (limit := gate.min.get(index.name)) is None:
            continue
        titles = {index.title, *(INDICES[part] for part in index.parts)}
        reasons = [
            line
            for line in measured.reasons
            if titles & set(re.findall(r"\w+", line.split(":")[0]))
        ]
        why = "; ".join(reasons) or "no pair of increments defines it"
        yield Check.of(index.title, "", limit, measured.indices.get(index.name), why)


def _cells(gate: Gate, measured: Measured) -> Iterator[Check]:
    """Yield mAP50 of every cell that was taught, and of those that are named."""
    wanted = [*measured.taught, *gate.cells.items()]
    rows = []
    for domain, names in wanted:
        if (limit := gate.least_map50(domain)) is not None:
            found = [measured.now.get((domain, name)) for name in names]
            value = mean([one.ap50 for one in found if one and one.ap50 is not None])
            why = _unread(measured, domain) or "no labelled object of them"
            seen = [n for n, one in zip(names, found, strict=True) if one and one.ap50 is not None]
            about = f"{domain}[{short_list(seen or names, NAMES_SHOWN)}]"
            rows.append(Check.of("mAP50", about, limit, value, why, objects=_fewest(found)))
    yield from rows
    there = {domain for domain, _ in wanted}
    for domain, own in gate.domains.items():
        if MAP50 in own.min and domain not in there:
            why = _unread(measured, domain) or "not measured"
            yield Check.of("mAP50", domain, own.min[MAP50], None, why)
    if MAP50 in gate.min and not rows:
        yield Check.of("mAP50", "every cell", gate.min[MAP50], None, "nothing was measured")


def _classes(gate: Gate, measured: Measured) -> Iterator[Check]:
    """Yield AP50 and F1 of the classes that have limits of their own, wherever they count."""
    counted = {(domain, name) for domain, names in measured.taught for name in names}
    counted |= {(domain, name) for domain, names in gate.cells.items() for name in names}
    for name, own in gate.classes.items():
        domains = [domain for domain, other in sorted(counted) if other == name]
        for measure, limit in own.min.items():
            for domain in domains:
                one = measured.now.get((domain, name))
                value = one.value(measure) if one is not None else None
                why = _unread(measured, domain) or _missing(one, measure, "")
                yield Check.of(
                    MEASURES[measure], f"{name} in {domain}", limit, value, why,
                    objects=_fewest([one]),
                )  # fmt: skip
            if not domains:
                yield Check.of(MEASURES[measure], name, limit, None, "not measured")


def _drops(gate: Gate, measured: Measured) -> Iterator[Check]:
    """Yield what every old class lost, and the limits that no old class stands for."""
    named = {(domain, name) for domain, names in gate.cells.items() for name in names}
    old = {key: one for key, one in measured.before.items() if one.taught or key in named}
    rows = []
    for (domain, name), before in old.items():
        now = measured.now.get((domain, name))
        for measure in MEASURES:
            if (limit := gate.drop(measure, domain, name)) is None:
                continue
            lost, why = _lost(before, now, measure)
            why = _unread(measured, domain) or why
            about = f"{name} in {domain}"
            rows.append(Check.of(DROP[measure], about, limit, lost, why, objects=_fewest([now])))
    yield from rows
    parts: list[tuple[str, Mapping[str, float], bool]] = [
        ("any old class", gate.max_drop, bool(old)),
        *((n, own.max_drop, n in {name for _, name in old}) for n, own in gate.classes.items()),
        *((d, own.max_drop, d in {domain for domain, _ in old}) for d, own in gate.domains.items()),
    ]
    none = NONE_TAUGHT if measured.before else measured.alone
    for about, limits, there in parts:
        for measure, limit in limits.items() if not there else ():
            why = _unread(measured, about) or (none if not old else "no old class")
            yield Check.of(DROP[measure], about, limit, None, why)


def _lost(before: Standing, now: Standing | None, measure: str) -> tuple[float | None, str]:
    """Return the points that a class lost, or None and why that is not known."""
    sides = before.value(measure), now.value(measure) if now is not None else None
    why = _missing(now, measure, " now") or _missing(before, measure, " before")
    if now is None or sides[0] is None or sides[1] is None:
        return None, why
    why = now.elsewhere(before)
    return (None if why else 100 * (sides[0] - sides[1])), why


def _doubles(gate: Gate, measured: Measured) -> Iterator[Check]:
    rows = []
    for domain in dict.fromkeys((*measured.doubles, *gate.domains)):
        own = gate.domains[domain].max_double if domain in gate.domains else None
        limit = gate.max_double if own is None and domain in measured.doubles else own
        if limit is not None:
            why = _unread(measured, domain) or "nobody looked for them"
            rows.append(Check.of(DOUBLE, domain, limit, measured.doubles.get(domain), why))
    if gate.max_double is not None and not rows:
        rows.append(Check.of(DOUBLE, "any domain", gate.max_double, None, "nothing was measured"))
    yield from rows


def _fewest(found: Iterable[Standing | None]) -> int | None:
    """Return the labelled objects of the class that has fewest; None where nobody counted."""
    counts = [one.objects for one in found if one is not None]
    return min((number for number in counts if number), default=None)


def _unread(measured: Measured, domain: str) -> str:
    return measured.unread.get(domain, "")


def _missing(one: Standing | None, measure: str, when: str) -> str:
    """Say why a class has no AP50 or F1; empty if it has."""
    if one is None:
        return f"not measured{when}"
    if one.value(measure) is not None:
        return ""
    if one.why:
        return one.why
    if one.counted is None and one.ap50 is not None:
        return f"only AP was kept{when}"
    return f"no labelled object{when}"


def standings(cells: Sequence[Cell]) -> dict[tuple[str, str], Standing]:
    """Return what cells say of each class in each domain."""
    return {
        (cell.domain, name): Standing(
            value, cell.deployed.classes.get(name), cell.taught, cell.split
        )
        for cell in sorted(cells, key=lambda one: one.taught)
        for name, value in cell.ap50.items()
    }


def measured_of(
    cells: Sequence[Cell],
    before: Standings,
    *,
    alone: str,
    unread: Mapping[str, str] | None = None,
) -> Measured:
    """Return what an evaluation says to a gate; RI and FR follow from what was before.

    Args:
        cells: What `duet.runs.cells.evaluate_cells` returned.
        before: The old classes; empty if there is nothing to compare with.
        alone: Why, then.
        unread: Domain -> why it was not evaluated.
    """
    taught = [(cell.domain, tuple(cell.ap50)) for cell in cells if cell.taught]
    now = standings(cells)
    undefined = "no old class has an object, or mAP50 or recall above 0 before"
    if unread:
        undefined += f", or its data were not read ({', '.join(unread)})"
    if found := sorted({text for key in now if (text := _elsewhere(now, before, key))}):
        undefined += f", or these are {'; '.join(found)}"
    reasons = (
        "GI, PI, RAI, H and OR: they follow from what `duet run` keeps",
        f"RI and FR: {undefined if before else alone}",
    )
    return Measured(
        now=now,
        taught=taught,
        before=before,
        doubles={cell.domain: cell.deployed.doubles for cell in cells},
        indices=_retained(taught, now, before),
        reasons=reasons,
        unread=unread or {},
        alone=alone,
    )


def _retained(
    taught: Sequence[Slice], now: Standings, before: Standings
) -> dict[str, float | None]:
    """Return RI and FR over the increments of which something was known before."""
    terms: dict[str, list[float]] = {"ri": [], "fr": []}
    for domain, names in taught:
        keys = [(domain, name) for name in names if (domain, name) in before]
        keys = [key for key in keys if not _elsewhere(now, before, key)]
        for index, value in (("ri", _map50), ("fr", _recall)):
            sides = value(now, keys), value(before, keys)
            if sides[0] is not None and sides[1]:
                terms[index].append(sides[0] / sides[1])
    return {name: mean(ratios) for name, ratios in terms.items()}


def _elsewhere(now: Standings, before: Standings, key: tuple[str, str]) -> str:
    return now[key].elsewhere(before[key]) if key in before else ""


def _map50(found: Standings, keys: Sequence[tuple[str, str]]) -> float | None:
    return mean([ap for key in keys if (ap := found[key].ap50) is not None])


def _recall(found: Standings, keys: Sequence[tuple[str, str]]) -> float | None:
    rows = [one for key in keys if (one := found[key].counted) is not None]
    objects = sum(one.objects for one in rows)
    return sum(one.found for one in rows) / objects if objects else None
