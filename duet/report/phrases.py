"""How numbers and names are written: the one place where a fraction becomes a percentage."""

from __future__ import annotations

from collections.abc import Sequence

from duet.results.measured import FEW_OBJECTS, Counts
from duet.results.schema import Results

MISSING = "–"

LITTLE = 0.05
"""A model with a lower mAP50 on what it was trained for (5 points) learned almost nothing."""

FEW_MARK = " *"
"""Follows a number that hangs on few objects."""

FEW_NOTE = f"* hangs on a class with fewer than {FEW_OBJECTS} objects in the evaluation images"


def percent(value: float | None, *, unit: bool = True) -> str:
    """Return a fraction as a percentage with one decimal: ``0.904 -> "90.4 %"``."""
    if value is None:
        return MISSING
    return f"{100 * value:.1f}" + (" %" if unit else "")


def points(difference: float | None, *, unit: bool = True) -> str:
    """Return a difference of two fractions in points with its sign: ``"+3.2 points"``."""
    if difference is None:
        return MISSING
    rounded = round(100 * difference, 1) or 0.0  # no "-0.0"
    return f"{rounded:+.1f}".replace("-", "\N{MINUS SIGN}") + (" points" if unit else "")


def marked(text: str, few: object) -> str:
    """Return ``text``, with `FEW_MARK` where ``few`` holds something."""
    return text + FEW_MARK if few else text


def few_named(few: Counts) -> str:
    """Return ``"cat 3 in comic and dog 7 in flat"``: classes and objects, the fewest first."""
    rows = sorted((n, name, domain) for domain, found in few.items() for name, n in found.items())
    return listed([f"{name} {number} in {domain}" for number, name, domain in rows], limit=8)


def learned_little(stage: int, domain: str, map50: float) -> str | None:
    """Return a warning of a stage that learned nothing, or almost; None of one that learned.

    Args:
        stage: 1..T.
        domain: Where its classes were learned.
        map50: Of its classes there, right after it, a fraction.
    """
    if map50 >= LITTLE:
        return None
    found = "almost nothing" if map50 else "nothing"
    what = f"after stage {stage} the detector finds {found} of that stage's classes on its"
    if stage == 1:
        what = f"the base finds {found} on its"
    return (
        f"{what} own evaluation images, {domain} (mAP50 {percent(map50)}): train longer, check "
        "labels"
    )


def duration(seconds: float) -> str:
    """Return a time as people read it: ``75 -> "1 min 15 s"``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def listed(names: Sequence[str], *, limit: int = 4) -> str:
    """Return ``"a, b and c"``, or ``"a, b, c and 7 more"`` beyond ``limit`` names."""
    if len(names) > limit + 1:
        return f"{', '.join(names[:limit])} and {len(names) - limit} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def count_of(number: int, noun: str, plural: str | None = None) -> str:
    """Return ``"1 class"``, ``"2 classes"``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def owners(results: Results, classes: Sequence[str]) -> list[int]:
    """Return the increments (1..T) that the classes belong to, in order."""
    known = results.series.owners
    return sorted({number for name in classes for number in known.get(name, ())})


def set_name(results: Results, classes: Sequence[str]) -> str:
    """Return the short name of a class set: ``"C2"``, ``"C1-3"``, or its names.

    ``Ck`` stands for the classes that increment k teaches.
    """
    steps = results.series.increments
    wanted = frozenset(classes)
    same = results.series.first_of.get(wanted)
    numbers = [same] if same else owners(results, classes)
    whole = {name for number in numbers for name in steps[number - 1].classes}
    if not numbers or whole != wanted:
        return listed(classes)
    if len(numbers) == 1:
        return f"C{numbers[0]}"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"C{numbers[0]}\N{EN DASH}{numbers[-1]}"
    return "+".join(f"C{number}" for number in numbers)


def where(results: Results, domain: str, classes: Sequence[str]) -> str:
    """Return ``"C1 in comic"``."""
    return f"{set_name(results, classes)} in {domain}"
