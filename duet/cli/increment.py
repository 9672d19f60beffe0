"""`duet base` and `duet increment`: one stage at a time, each on its own data alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import NAME_OR_PATH, PATH, emit, hint, json_option
from duet.cli.run import ONTO_METHODS, inputs_of, training_options
from duet.progress import note, stages

if TYPE_CHECKING:
    from duet.runs.setting import Setting
    from duet.runs.steps import StepReport
    from duet.training.config import Method

EPILOG = """\b
Examples:
  duet base series.yaml --out runs/shop
  duet increment series.yaml comic --out runs/shop
  duet increment series.yaml comic --independent --out runs/mine
  duet increment mine.yaml night --onto best.pt --out runs/mine
"""

ONTO_METHOD = ONTO_METHODS[0]
"""What is learned on a detector of somebody's: nothing that it knows may change; docs/log.md."""


@click.command("base", epilog=EPILOG)
@click.argument("series", type=PATH, metavar="SERIES.yaml")
@click.option(
    "--method", type=NAME_OR_PATH, default="duet-plus", show_default=True, metavar="TEXT",
    help="Decides the head form.",
)  # fmt: skip
@click.option("--out", type=PATH, required=True, help="Run folder.")
@training_options
@json_option
def base(series: Path, method: str, out: Path, as_json: bool, **options: Any) -> None:
    """Train the first increment of a series and keep it as an increment folder."""
    from duet.errors import ConfigError
    from duet.runs.steps import learn_base
    from duet.series.reader import read_config

    config = read_config(series)
    if config.start is not None:
        raise ConfigError(
            f"the series goes on from a detector, {config.start.detector}: it has no base to train",
            where=str(series),
            remedy="use `duet increment` for its first increment, or remove 'start'",
        )
    first = config.increment_names()[0]
    with stages() as show:
        setting, chosen = _setting(series, out, first, method, options, show)
        report = learn_base(out, setting, chosen)
    _tell(report, as_json)


@click.command("increment", epilog=EPILOG)
@click.argument("series", type=PATH, metavar="SERIES.yaml")
@click.argument("name")
@click.option(
    "--method", type=NAME_OR_PATH, metavar="TEXT",
    help=f"Shipped name or YAML [duet-plus; on a detector of yours {ONTO_METHOD}].",
)  # fmt: skip
@click.option(
    "--independent", is_flag=True,
    help="Train from θ_0 alone and merge nothing: `duet merge` joins such increments in any order.",
)  # fmt: skip
@click.option(
    "--onto", type=PATH, metavar="DETECTOR",
    help="Go on from a detector that you have: a .pt, a detector folder, or an export in one.",
)  # fmt: skip
@click.option("--out", type=PATH, required=True, help="Run folder.")
@training_options
@json_option
def increment(
    series: Path, name: str, method: str | None, independent: bool, out: Path, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Train increment NAME on top of a detector, or of the stages kept in the run folder; merge.

    Only this increment's images are read; those of earlier increments may be gone.
    """
    from duet.errors import ConfigError
    from duet.runs.steps import learn_increment, learn_independent

    if independent and options["onto"] is not None:
        raise ConfigError(
            "an independent increment is trained from start weights, not on a detector's classes",
            where="--independent --onto",
            remedy="give the detector as --weights, and merge both afterwards; or leave out "
            "--independent",
        )
    learn = learn_independent if independent else learn_increment
    method = method or _default_method(series, out, independent, options["onto"])
    if not independent:
        options |= _begun(series, name, method, out, options)
    with stages() as show:
        setting, chosen = _setting(series, out, name, method, options, show)
        report = learn(out, setting, chosen)
    _tell(report, as_json)


def _default_method(series: Path, out: Path, independent: bool, onto: Path | None) -> str:
    """Return the one method of a kept chain on a detector, else what suits the beginning."""
    from duet.runs.kept import methods_with_start
    from duet.series.reader import read_config

    if independent:
        return "duet-plus"
    kept = methods_with_start(out)
    if len(kept) == 1:
        return kept[0]
    begins = onto is not None or read_config(series).start is not None
    return ONTO_METHOD if begins or kept else "duet-plus"


def _begun(
    series: Path, name: str, method: str, out: Path, options: dict[str, Any]
) -> dict[str, Any]:
    """Return what an increment goes on from, and whether a chain begins with that.

    It is what the options say, else the last detector of a kept chain, else the series' start. A
    kept chain keeps its θ_0.
    """
    from duet.runs.kept import chain_kept
    from duet.series.reader import read_config
    from duet.shipped import shipped
    from duet.training.config import load_method

    onto, weights = options["onto"], options["weights"]
    chosen = load_method(method, folder=shipped("configs", "method"))
    kept = chain_kept(out, chosen, name if onto is None else None)
    if kept is None:
        start = read_config(series).start
        if onto is None and start is not None:
            onto = series.parent / start.detector
        return {"onto": onto, "begins": True}
    if weights is None:
        weights = kept.weights or (kept.start if onto is None else None)
    return {"onto": onto or kept.last, "weights": weights, "begins": onto is not None}


def _setting(
    series: Path, out: Path, only: str, name: str, options: dict[str, Any], show: Any
) -> tuple[Setting, Method]:
    """Check everything that one stage needs, as `duet run` does for all."""
    from duet.runs.inputs import read_methods
    from duet.runs.lab import Lab
    from duet.runs.look import FirstLook
    from duet.runs.plan import RunPlan, estimated_seconds, in_words, planned_stages
    from duet.runs.setting import Setting
    from duet.runs.walls import require_runnable

    inputs = inputs_of(series, options, only)
    lab = Lab(out / "lab", listen=show, look=FirstLook.at(inputs.series))
    methods = read_methods((name,), family=inputs.family, onto=inputs.onto)
    plan = RunPlan(
        inputs.series, methods, inputs.schedule, inputs.weights, inputs.architecture,
        inputs.family, options["seed"], out, references=False, onto=inputs.onto,
    )  # fmt: skip
    seconds = estimated_seconds(plan, planned_stages(plan))
    note(f"{only}: about {in_words(seconds)} on one CPU thread")
    setting = Setting(
        inputs.series, inputs.family, inputs.architecture, require_runnable(plan),
        inputs.schedule, options["seed"], lab, inputs.weights,
        inputs.onto if options.get("begins") else None,
    )  # fmt: skip
    return setting, methods[0]


def _tell(report: StepReport, as_json: bool) -> None:
    emit(report.as_dict(), as_json, lambda _: report.as_text())
    if report.detector is None:
        words = ("OTHER", "--weights", "W", "--method", "ties", "--out", "DIR")
        hint("duet", "merge", report.increment, *words)
    else:
        hint("duet", "predict", report.detector, "IMAGES")
