"""One stage as a user asks for it: from a series file and a run folder to what was learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from duet.errors import ConfigError
from duet.progress import Listener
from duet.runs.engines.engine import HERE, Engine
from duet.runs.forks import forking
from duet.runs.inputs import Inputs, read_inputs, read_strategies
from duet.runs.kept import chain_kept, strategies_with_start
from duet.runs.lab import Lab, silent
from duet.runs.look import FirstLook
from duet.runs.plan import RunPlan, estimated_seconds, planned_stages
from duet.runs.setting import Setting
from duet.runs.stagewise import write_stages
from duet.runs.steps import StepReport, learn_base, learn_increment, learn_independent
from duet.runs.walls import require_runnable
from duet.series import Problem
from duet.series.reader import read_config
from duet.shipped import DEFAULT_STRATEGIES, ONTO_STRATEGIES, shipped
from duet.text import duration
from duet.training.config import Strategy, load_strategy

Warn = Callable[[Sequence[Problem], Path], None]
"""``warn(problems, series)``: what is odd about the data of a series and stops nothing."""


def learn_stage(
    series: Path,
    name: str | None,
    out: Path,
    *,
    strategy: str | None = None,
    independent: bool = False,
    onto: Path | None = None,
    seed: int = 0,
    listen: Listener = silent,
    warn: Warn = lambda problems, series: None,
    engine: Engine = HERE,
    **given: Any,
) -> StepReport:
    """Train one increment on top of a detector, or of the stages kept in the run folder; merge.

    Args:
        series: Series YAML.
        name: The increment; only its images train. None for the base, which begins a chain.
        out: Run folder.
        strategy: Shipped name or path; default that of a kept chain, else what suits the beginning.
        independent: Train from θ_0 alone and merge nothing.
        onto: Detector to go on from; default the last of the run folder, or the series' start.
        seed: Of everything random.
        listen: Progress and notes, see `duet.runs.lab.Lab`.
        warn: Told what is odd about the data.
        engine: Where it is trained.
        given: What else `duet.runs.inputs.read_inputs` takes.

    Raises:
        DuetError: Something is wrong with what was given, or the training failed.
    """
    _require_either(independent=independent, onto=onto)
    begins = False
    if name is None:
        name, learn, strategy = _base_of(series), learn_base, strategy or DEFAULT_STRATEGIES[0]
    elif independent:
        learn, strategy = learn_independent, strategy or DEFAULT_STRATEGIES[0]
    else:
        learn, strategy = learn_increment, strategy or _default_strategy(series, out, onto=onto)
        found, begins = _begun(series, name, strategy, out, onto, given.get("weights"))
        given |= found
    warn((inputs := read_inputs(series, only=name, **given)).warnings, series)
    setting, chosen = _setting(inputs, strategy, out, seed, listen, engine)
    setting = replace(setting, onto=inputs.onto if begins else None)
    report = _forked(learn, out, setting, chosen)
    write_stages(out, setting, chosen, report, series, given.get("data_root"))
    return report


def _forked(
    learn: Callable[[Path, Setting, Strategy], StepReport],
    out: Path, setting: Setting, chosen: Strategy,
) -> StepReport:  # fmt: skip
    with forking(setting.lab.run) as setting.lab.run:
        return learn(out, setting, chosen)


def _base_of(series: Path) -> str:
    """Return the first increment of a series, unless a detector stands for it."""
    config = read_config(series)
    if config.start is not None:
        raise ConfigError(
            f"the series goes on from a detector, {config.start.detector}: it has no base to train",
            where=str(series),
            remedy="use `duet increment` for its first increment, or remove 'start'",
        )
    return config.increment_names()[0]


def _require_either(*, independent: bool, onto: Path | None) -> None:
    if independent and onto is not None:
        raise ConfigError(
            "an independent increment is trained from start weights, not on a detector's classes",
            where="--independent --onto",
            remedy="give the detector as --weights, and merge both afterwards; or leave out "
            "--independent",
        )


def _default_strategy(series: Path, out: Path, *, onto: Path | None) -> str:
    """Return the one strategy of a kept chain on a detector, else what suits the beginning."""
    kept = strategies_with_start(out)
    if len(kept) == 1:
        return kept[0]
    begins = onto is not None or read_config(series).start is not None
    return ONTO_STRATEGIES[0] if begins or kept else DEFAULT_STRATEGIES[0]


def _begun(
    series: Path, name: str, strategy: str, out: Path, onto: Path | None, weights: str | Path | None
) -> tuple[dict[str, Any], bool]:
    """Return what an increment goes on from, and whether a chain begins with that.

    It is what was given, else the last detector of a kept chain, else the series' start. A kept
    chain keeps its θ_0.
    """
    chosen = load_strategy(strategy, folder=shipped("configs", "strategy"))
    kept = chain_kept(out, chosen, name if onto is None else None)
    if kept is None:
        start = read_config(series).start
        if onto is None and start is not None:
            onto = series.parent / start.detector
        return {"onto": onto, "weights": weights}, True
    if weights is None:
        weights = kept.weights or (kept.start if onto is None else None)
    return {"onto": onto or kept.last, "weights": weights}, onto is not None


def _setting(
    inputs: Inputs, name: str, out: Path, seed: int, listen: Listener, engine: Engine
) -> tuple[Setting, Strategy]:
    """Check everything that one stage needs, as `duet run` does for all."""
    look = FirstLook.at(inputs.series)
    lab = Lab(
        out / "lab", jobs=engine.at_a_time(1), listen=listen, look=look, run=engine.run,
        answer=engine.answer,
    )  # fmt: skip
    strategies = read_strategies(
        (name,), family=inputs.family, onto=inputs.onto, changes=inputs.changes
    )
    plan = RunPlan(
        **vars(inputs),
        strategies=strategies,
        seed=seed,
        out=out,
        references=False,
        elsewhere=engine.elsewhere,
    )
    only = inputs.series.increments[-1].name
    seconds = estimated_seconds(plan, planned_stages(plan))
    listen(only, {"note": f"about {duration(seconds)} on one CPU thread"})
    theta_0 = require_runnable(plan)
    engine.prepare(look.there, plan.schedule, lambda line: listen(only, {"note": line}))
    setting = Setting(
        inputs.series, inputs.family, inputs.architecture, theta_0,
        plan.training, seed, lab, inputs.weights,
    )  # fmt: skip
    return setting, strategies[0]
