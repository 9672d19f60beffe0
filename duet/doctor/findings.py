"""Problems counted by kind: one row of the table each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from duet.series.problems import Problem, Severity

EXAMPLES = 3
"""Places shown for each kind."""


@dataclass(frozen=True)
class Finding:
    """All problems of one kind.

    Attributes:
        severity: See `Problem`.
        code: See `Problem`.
        count: Number of problems.
        examples: Where the first of them are.
        what: What the first of them is.
        remedy: What to do about it.
    """

    severity: Severity
    code: str
    count: int
    examples: tuple[str, ...]
    what: str
    remedy: str


def findings(problems: Iterable[Problem]) -> tuple[Finding, ...]:
    """Return one finding per severity and code: errors first, then the most frequent."""
    groups: dict[tuple[Severity, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.severity, problem.code].append(problem)
    found = [
        Finding(
            severity,
            code,
            len(group),
            tuple(dict.fromkeys(str(problem.where) for problem in group))[:EXAMPLES],
            group[0].what,
            group[0].remedy,
        )
        for (severity, code), group in groups.items()
    ]
    order = get_args(Severity)
    return tuple(sorted(found, key=lambda row: (order.index(row.severity), -row.count, row.code)))
