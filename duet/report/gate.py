"""How the limits of a gate ended, as text for terminals."""

from __future__ import annotations

from collections.abc import Sequence

from duet.evaluation.gate import Check, Verdict
from duet.report.phrases import MISSING, listed, marked
from duet.report.tables import Table
from duet.results.measured import is_few
from duet.text import clipped, printable

WIDEST = 300
"""Letters of a line that says why something was not measured."""


def gate_text(verdict: Verdict) -> str:
    """Return every limit, what was found and whether it passes; then what was not measured."""
    whose = any(one.strategy for one in verdict.checks)
    header = (*(("strategy",) if whose else ()), "gate", "of", "limit", "found", "pass")
    rows = tuple(
        (
            *((one.strategy,) if whose else ()),
            one.name,
            one.about or MISSING,
            f"{'at most' if one.at_most else 'at least'} {one.limit:g}",
            marked(_number(one, one.found), is_few(one.objects)),
            "yes" if one.passed else "NO",
        )
        for one in verdict.checks
    )
    blocks = [Table(header, rows, words=3 if whose else 2).as_text()]
    blocks += _per_run(verdict.checks)
    unmeasured: dict[str, list[str]] = {}
    for one in verdict.checks:
        if one.found is None:
            unmeasured.setdefault(one.why, []).append(_title(one))
    why = [clipped(f"{listed(titles)}: {key}", WIDEST) for key, titles in unmeasured.items()]
    if why:
        blocks.append("\n".join(["Not measured", *(f"  {printable(line)}" for line in why)]))
    return "\n\n".join(blocks)


def _per_run(checks: Sequence[Check]) -> list[str]:
    """Return what each run of several found."""
    runs = list(dict.fromkeys(run for one in checks for run in one.runs))
    if not runs:
        return []
    rows = tuple(
        (_title(one), *(_number(one, one.runs.get(run)) for run in runs))
        for one in checks
        if one.runs
    )
    return [f"In each run\n\n{Table(('gate', *runs), rows).as_text()}"]


def _title(one: Check) -> str:
    return " ".join(part for part in (one.strategy, one.name, one.about) if part)


def _number(one: Check, value: float | None) -> str:
    """Return a fraction with three digits, points and double boxes with one."""
    if value is None:
        return MISSING
    return f"{value:.1f}" if one.at_most else f"{value:.3f}"
