"""`duet base` and `duet increment`: one stage at a time, each on its own data alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import NAME_OR_PATH, PATH, hint, json_option, tell_warnings
from duet.cli.names import strategies
from duet.cli.options import (
    TrainingCommand,
    engine_of,
    engine_options,
    gate_of,
    gate_options,
    given,
    training_options,
)
from duet.cli.running import emit_gated
from duet.progress import note, stages
from duet.shipped import DEFAULT_STRATEGIES, ONTO_STRATEGIES

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from duet.evaluation.gate import Gate
    from duet.runs.engines.engine import Engine

FIRST = DEFAULT_STRATEGIES[0]
EPILOG = """\b
Examples:
  duet base series.yaml --out runs/shop
  duet increment series.yaml comic --out runs/shop
  duet increment series.yaml comic --out runs/shop --max-drop 5 --max-double 15
  duet increment series.yaml comic --independent --out runs/mine
  duet increment mine.yaml night --onto best.pt --out runs/mine
"""


@click.command("base", cls=TrainingCommand, epilog=EPILOG)
@click.argument("series", type=PATH, metavar="SERIES.yaml")
@click.option(
    "--strategy", type=NAME_OR_PATH, default=FIRST, show_default=True, metavar="TEXT",
    shell_complete=strategies,
    help="Decides the head form.",
)  # fmt: skip
@click.option("--out", type=PATH, required=True, help="Run folder.")
@engine_options
@gate_options
@training_options
@json_option
def base(series: Path, strategy: str, out: Path, seed: int, as_json: bool, **options: Any) -> None:
    """Train the first increment of a series and keep it as an increment folder."""
    _learn(
        series, None, out, as_json, gate_of(options), engine_of(options, out), strategy=strategy,
        seed=seed, **given(options),
    )  # fmt: skip


@click.command("increment", cls=TrainingCommand, epilog=EPILOG)
@click.argument("series", type=PATH, metavar="SERIES.yaml")
@click.argument("name")
@click.option(
    "--strategy", type=NAME_OR_PATH, metavar="TEXT",
    shell_complete=strategies,
    help=f"Shipped name or YAML [{FIRST}; on a detector of yours {ONTO_STRATEGIES[0]}].",
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
@engine_options
@gate_options
@training_options
@json_option
def increment(
    series: Path, name: str, strategy: str | None, independent: bool, onto: Path | None, out: Path,
    seed: int, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Train increment NAME on top of a detector, or of the stages kept in the run folder; merge.

    Only this increment's images are learned from; those of earlier increments may be gone. Where
    they are still there, old classes are measured again, for a gate and for `duet report`.
    """
    gate = gate_of(options)
    if gate is not None and independent:
        raise click.UsageError("--independent makes no detector that a gate could be about")
    _learn(
        series, name, out, as_json, gate, engine_of(options, out), strategy=strategy,
        independent=independent, onto=onto, seed=seed, **given(options),
    )  # fmt: skip


def _learn(
    series: Path, name: str | None, out: Path, as_json: bool, gate: Gate | None,
    engine: AbstractContextManager[Engine], **asked: Any,
) -> None:  # fmt: skip
    """Train one stage and say what came out."""
    from duet.runs.gated import judge_stage, open_before
    from duet.runs.stage import learn_stage

    before = open_before(gate, note)
    with stages() as show, engine as where:
        report = learn_stage(
            series, name, out, listen=show, warn=tell_warnings, engine=where, **asked
        )
    verdict = None
    if gate is not None:
        device = asked["changes"].get("device", "cpu")
        verdict = judge_stage(gate, report, series, before, asked["data_root"], device, note)
    emit_gated(report.as_dict(), verdict, as_json, lambda _: report.as_text())
    if report.detector is None:
        words = ("OTHER", "--weights", "W", "--method", "ties", "--out", "DIR")
        hint("duet", "merge", report.increment, *words)
    else:
        hint("duet", "predict", report.detector, "IMAGES")
    if verdict is not None:
        verdict.require(out)
