"""How the limits of a gate ended, as text for terminals."""

from __future__ import annotations

from collections.abc import Sequence

from duet.evaluation.gate import Check, Verdict
from duet.report.phrases import MISSING
from duet.report.tables import Table
from duet.text import printable


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
            _number(one, one.found),
            "yes" if one.passed else "NO",
        )
        for one in verdict.checks
    )
    blocks = [Table(header, rows, words=3 if whose else 2).as_text()]
    blocks += _per_run(verdict.checks)
    why = [f"not measured: {_title(one)}: {one.why}" for one in verdict.checks if one.why]
    return "\n\n".join([*blocks, *(["\n".join(map(printable, why))] if why else [])])


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
