"""Which detectors look at which domains: what an index or the report reads, and no more.

A series of T increments with a domain each has T² pairs of a stage and a domain. No index looks at
a domain before its own increment, which leaves T (T + 1) / 2 (`duet.evaluation.pairs`). The report
compares the first detector with the last one in every domain, which takes T - 1 more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from duet.evaluation.pairs import SeriesSteps, cells_needed

Cells = Literal["needed", "all"]
"""Which pairs of a stage and a domain are evaluated."""

Look = tuple[int, str]
"""(stage, domain): the detector after a stage looks at the evaluation images of a domain."""


def looks(
    steps: SeriesSteps, domains: Iterable[str], *, cells: Cells = "needed",
    watched: Collection[str] = (),
) -> tuple[Look, ...]:  # fmt: skip
    """Return what is looked at, ordered by stage.

    Args:
        steps: (domain, classes) of every increment.
        domains: Those whose images are there.
        cells: Everything, or what an index or the report needs.
        watched: Domains where every detector is wanted, say by a gate.
    """
    needed = {(stage, domain) for stage, domain, _ in cells_needed(steps)}
    places = tuple(domains)
    return tuple(
        (stage, domain)
        for stage in range(1, len(steps) + 1)
        for domain in places
        if cells == "all" or stage == 1 or domain in watched or (stage, domain) in needed
    )


def not_looked_at(
    steps: SeriesSteps, domains: Iterable[str], known: Collection[Look]
) -> dict[str, tuple[int, ...]]:
    """Return the stages whose detectors did not look, by domain; arguments as `looks`."""
    stages = range(1, len(steps) + 1)
    left = {name: tuple(one for one in stages if (one, name) not in known) for name in domains}
    return {name: some for name, some in left.items() if some}
