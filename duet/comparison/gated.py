"""Finished runs against a gate: each strategy, over its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from duet.comparison.runs import Entry, Run, grouped
from duet.evaluation.checks import Standings, check
from duet.evaluation.gate import Check, Gate, Verdict
from duet.evaluation.indices import arithmetic_mean
from duet.results.gated import measured_run


def judge(
    gate: Gate,
    runs: Sequence[Run],
    strategies: Sequence[str] = (),
    *,
    before: Standings | None = None,
    apart: bool = False,
) -> Verdict:
    """Return how each strategy ends: the mean of what its runs measured is held against a limit.

    What is not measured in one of the runs is not measured.

    Args:
        gate: The limits.
        runs: Finished runs.
        strategies: Whom the gate is about where it does not say so; default all.
        before: What old classes are compared with; default when each was learned.
        apart: As of `duet.comparison.runs.grouped`.

    Raises:
        ConfigError: The gate names what no run has.
    """
    every = [strategy.name for run in runs for strategy in run.results.strategies]
    steps = [step for run in runs for step in run.results.series.steps]
    classes = {name for _, names in steps for name in names}
    gate.require_known(classes, {domain for domain, _ in steps}, every)
    chosen = gate.strategies or strategies or every
    checks = []
    for label, entries in grouped(runs, apart=apart).items():
        if entries[0].strategy.name in chosen:
            checks += _of_strategy(gate, label, entries, before)
    return Verdict(tuple(checks))


def _of_strategy(
    gate: Gate, label: str, entries: Sequence[Entry], before: Standings | None
) -> list[Check]:
    rows: dict[tuple[str, str], dict[str, Check]] = {}
    for entry in entries:
        measured = measured_run(entry.run.results, entry.strategy, before)
        for one in check(gate, measured).checks:
            rows.setdefault((one.name, one.about), {})[str(entry.run.folder)] = one
    return [_mean(label, found) for found in rows.values()]


def _mean(label: str, found: Mapping[str, Check]) -> Check:
    first = next(iter(found.values()))
    why = next((f"{run}: {one.why}" for run, one in found.items() if one.found is None), "")
    several = {run: one.found for run, one in found.items()}
    return Check.of(
        first.name, first.about, first.limit, arithmetic_mean(list(several.values())),
        why if len(found) > 1 else first.why,
        objects=first.objects, strategy=label, runs=several if len(found) > 1 else {},
    )  # fmt: skip
