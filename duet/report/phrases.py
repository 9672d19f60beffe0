"""How numbers and names are written: the one place where a fraction becomes a percentage."""

from __future__ import annotations

from collections.abc import Sequence

from duet.results.schema import Results

MISSING = "–"


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
    return [
        number
        for number, step in enumerate(results.series.increments, start=1)
        if set(step.classes) & set(classes)
    ]


def set_name(results: Results, classes: Sequence[str]) -> str:
    """Return the short name of a class set: ``"C2"``, ``"C1-3"``, or its names.

    ``Ck`` stands for the classes that increment k teaches.
    """
    steps = results.series.increments
    same = [n for n, step in enumerate(steps, start=1) if set(step.classes) == set(classes)]
    numbers = same[:1] or owners(results, classes)
    whole = {name for number in numbers for name in steps[number - 1].classes}
    if not numbers or whole != set(classes):
        return listed(classes)
    if len(numbers) == 1:
        return f"C{numbers[0]}"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"C{numbers[0]}\N{EN DASH}{numbers[-1]}"
    return "+".join(f"C{number}" for number in numbers)


def where(results: Results, domain: str, classes: Sequence[str]) -> str:
    """Return ``"C1 in comic"``."""
    return f"{set_name(results, classes)} in {domain}"
