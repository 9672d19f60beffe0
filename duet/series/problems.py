"""What is wrong with a series: every problem is a value, and one error tells all of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from duet.errors import DataError
from duet.text import without_addresses

Severity = Literal["error", "warning", "note"]

SHOWN_PER_CODE = 20  # one systematic mistake in 10 000 labels must not bury the other kinds


@dataclass(frozen=True)
class Location:
    """What a problem is about; as text it is what messages show, and nothing reads that back.

    Attributes:
        path: File or folder; None for what is in no file of its own, such as an increment.
        line: Line of the file, from 1.
        object: Number of the object in the file, as its format counts or calls it.
        part: What of the file in words, or the only words there are: with an object what its
            format calls one (``annotation``), else a key, an image, an increment.
    """

    path: Path | None = None
    line: int | None = None
    object: int | None = None
    part: str = ""

    def __str__(self) -> str:
        file = "" if self.path is None else str(self.path)
        file += "" if self.line is None else f":{self.line}"
        part = self.part if self.object is None else f"{self.part} {self.object}"
        # Paths of strangers may be addresses that hold secrets.
        return without_addresses(": ".join(text for text in (file, part) if text))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a series or its data.

    Attributes:
        severity: ``"error"`` stops the work, ``"warning"`` only in strict mode, and ``"note"``, a
            piece of information about sound data, never.
        code: Stable machine-readable kind, such as ``"label.range"``.
        where: File, line and object concerned, or what else.
        what: One sentence: what is wrong, with the value got and the value expected.
        remedy: What the user can do now.
        form: Format of the data set in whose files a reader found it, one of `table.FORMATS`; empty
            for what was found otherwise.
    """

    severity: Severity
    code: str
    where: Location
    what: str
    remedy: str
    form: str = ""

    def __post_init__(self) -> None:
        if self.severity not in get_args(Severity):
            known = ", ".join(map(repr, get_args(Severity)))
            raise ValueError(f"severity must be one of {known}, got {self.severity!r}")
        object.__setattr__(self, "what", without_addresses(self.what))

    def __str__(self) -> str:
        return f"[{self.code}] {self.where}: {self.what}"

    def as_dict(self) -> dict[str, str]:
        """Return the problem as JSON-ready data."""
        names = ("severity", "code", "where", "what", "remedy")
        return {name: str(getattr(self, name)) for name in names}


def _problem(
    severity: Severity, code: str, where: Location | Path | str, what: str, remedy: str
) -> Problem:
    """Return a problem; ``where`` in words if it is no file."""
    if not isinstance(where, Location):
        where = Location(where) if isinstance(where, Path) else Location(part=where)
    return Problem(severity, code, where, what, remedy)


error = partial(_problem, "error")
"""Return a problem that stops the work."""

warning = partial(_problem, "warning")
"""Return a problem that the user should know of but that stops nothing."""

note = partial(_problem, "note")
"""Return something worth knowing about sound data; never counted as a problem."""


def fatal(problems: Iterable[Problem], *, strict: bool = False) -> tuple[Problem, ...]:
    """Return the problems that stop the work: the errors, with ``strict`` the warnings too."""
    stopping = ("error", "warning") if strict else ("error",)
    return tuple(problem for problem in problems if problem.severity in stopping)


def _by_code(problems: Iterable[Problem]) -> dict[str, list[Problem]]:
    groups: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.code].append(problem)
    return groups


def first_of_each(problems: Iterable[Problem]) -> list[str]:
    """Return one line per code: its first problem, and how many more there are of it."""
    return [
        f"{group[0]} (and {len(group) - 1} more of this kind)" if group[1:] else str(group[0])
        for group in _by_code(problems).values()
    ]


def listing(problems: Iterable[Problem]) -> list[str]:
    """Return one line per problem, grouped by code, the first `SHOWN_PER_CODE` of each code.

    A code with more problems ends in a line with the count of the rest; the remedy stands once
    below each run of problems that share it.
    """
    lines: list[str] = []
    for code, group in _by_code(problems).items():
        shown = group[:SHOWN_PER_CODE]
        for position, problem in enumerate(shown):
            last = position + 1 == len(shown) or shown[position + 1].remedy != problem.remedy
            lines.append(f"{problem}\n      {problem.remedy}" if last else str(problem))
        if group[SHOWN_PER_CODE:]:
            lines.append(f"[{code}] ... and {len(group) - SHOWN_PER_CODE} more of this kind")
    return lines


CHECK = "correct them in one go, then run 'duet data check' on the series"
AGAIN = "correct them in one go and give the same command again"
"""What to do about problems; the second of a data set alone, which no series names."""


def raise_problems(
    problems: Iterable[Problem], *, where: str, strict: bool = False, remedy: str = CHECK
) -> None:
    """Raise all fatal problems as one error; return when there is none.

    Args:
        problems: Errors, warnings and notes in any order.
        where: File name of the series, shown first.
        strict: Count warnings as errors.
        remedy: What to do.

    Raises:
        DataError: At least one problem is fatal.
    """
    stopping = fatal(problems, strict=strict)
    if not stopping:
        return
    kinds = Counter(problem.code for problem in stopping)
    listed = "".join(f"\n  - {line}" for line in listing(stopping))
    plural = "s" if len(stopping) != 1 else ""
    raise DataError(
        f"{len(stopping)} problem{plural} of {len(kinds)} kind{'s' if len(kinds) != 1 else ''}:"
        f"{listed}",
        where=where,
        remedy=remedy,
    )
