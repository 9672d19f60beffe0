"""`duet run`: the whole job on a series."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import NAME_OR_PATH, PATH, emit, json_option, tell_warnings
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
from duet.cli.running import emit_gated, judged, opened, perform
from duet.progress import note, stages
from duet.shipped import DEFAULT_STRATEGIES, ONTO_STRATEGIES
from duet.text import shell_line

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from duet.evaluation.gate import Gate
    from duet.runs.engines.engine import Engine
    from duet.runs.needed import Cells
    from duet.runs.plan import RunPlan

EPILOG = """\b
Examples:
  duet run series.yaml --dry-run
  duet run series.yaml --out runs/shop
  duet run series.yaml --strategies duet-plus,frozen,seq-ft --out runs/shop
  duet run series.yaml --strategies duet-plus,frozen --seeds 3 --orders 2 --out runs/repeats
  duet run series.yaml --geometry independent --strategies mtda,joint-full --out runs/apart
  duet run series.yaml --max-drop 5 --min ri=0.95,fr=0.95 --max-double 15
  duet run series.yaml --epochs 20 --set augmentation.mosaic=1 --set merge.params.gamma=0.2
  duet run series.yaml --engine ray --address auto --store s3://bucket/duet
"""


@click.command("run", cls=TrainingCommand, epilog=EPILOG)
@click.argument("series", type=PATH, metavar="SERIES.yaml")
@click.option(
    "--strategies", "listed", type=NAME_OR_PATH, default="", metavar="TEXT",
    help="Shipped names or YAML paths with commas between; the first is reported on, the others "
    f"stand beside it [{','.join(DEFAULT_STRATEGIES)}; on a detector {','.join(ONTO_STRATEGIES)}].",
)  # fmt: skip
@click.option(
    "--strategy", "strategies", type=NAME_OR_PATH, multiple=True, metavar="TEXT",
    shell_complete=strategies,
    help="One more strategy; may be repeated.",
)  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(1, 1000), default=1, show_default=True,
    help="Repeat with so many seeds, from --seed on, and compare.",
)  # fmt: skip
@click.option(
    "--orders", type=click.IntRange(min=1), default=1, show_default=True,
    help="Repeat with so many orders of the increments, the written one first.",
)  # fmt: skip
@click.option("--out", type=PATH, help="Run folder [runs/<series name>].")
@click.option("--jobs", type=click.IntRange(min=1), help="Trainings at a time [CPU cores, max 2].")
@click.option("--references/--no-references", default=True, help="Train what GI and PI need.")
@click.option(
    "--cells", type=click.Choice(["needed", "all"]), default="needed", show_default=True,
    help="Which detectors look at which domains: what an index or the report reads, or all.",
)  # fmt: skip
@click.option(
    "--geometry", type=click.Choice(["sequential", "independent"]),
    help="Train each increment from the merge before it, or apart and merge all at once "
    "[as the strategies say].",
)  # fmt: skip
@click.option("--split", default="", help="Split to evaluate on [test if there is one, else val].")
@engine_options
@gate_options
@training_options
@click.option("--dry-run", is_flag=True, help="Print the plan with counts and a time estimate.")
@json_option
def run(
    series: Path, dry_run: bool, as_json: bool, seeds: int, orders: int, listed: str,
    strategies: tuple[str, ...], out: Path | None, jobs: int | None, references: bool,
    cells: Cells, split: str, seed: int, geometry: str | None, **options: Any,
) -> None:  # fmt: skip
    """Learn a series: base, increments, merges, references, evaluation, report.

    Does only what is missing in the run folder, so a stopped run is continued by the same command.
    """
    from duet.runs.inputs import read_inputs
    from duet.runs.plan import plan_run

    names = tuple(name for item in listed.split(",") if (name := item.strip()))
    if listed and not names:
        raise click.BadParameter("names no strategy", param_hint="--strategies")
    gate = gate_of(options)
    asked = given(options)
    asked["changes"] |= {"geometry": geometry} if geometry else {}
    inputs = read_inputs(series, **asked)
    tell_warnings(inputs.warnings, series)
    plan = plan_run(
        inputs, (*names, *strategies), seed=seed, out=out, jobs=jobs, references=references,
        split=split, command=shell_line("duet", *sys.argv[1:]), cells=cells,
        watched=tuple(gate.cells) if gate is not None else (),
        elsewhere=options["engine"] != "local",
    )  # fmt: skip
    engine = engine_of(options, plan.out, jobs)
    if seeds > 1 or orders > 1:
        _repeat(plan, seeds, orders, dry_run, as_json, gate, engine)
    else:
        perform(plan, dry_run=dry_run, as_json=as_json, gate=gate, engine=engine)


def _repeat(
    plan: RunPlan, seeds: int, orders: int, dry_run: bool, as_json: bool, gate: Gate | None,
    engine: AbstractContextManager[Engine],
) -> None:  # fmt: skip
    """Run several seeds or orders and print how the strategies compare over all of them."""
    from duet.comparison.tables import as_dict, as_text
    from duet.report.cautions import learned_nothing, off_published
    from duet.runs import repeat
    from duet.runs.run import require_chains
    from duet.runs.walls import require_runnable

    plans = repeat.repeats(plan, seeds=seeds, orders=orders)
    before = opened(gate, plan)
    if dry_run:
        require_chains(plans)
        require_runnable(plan)
        emit(repeat.repeats_as_dict(plans), as_json, lambda _: repeat.repeats_as_text(plans))
        return
    with stages() as show, engine as where:
        found = repeat.execute_repeats(plan.out, plans, show, engine=where)
    for run in found.runs:
        for line in (*learned_nothing(run.results), *off_published(run.results)):
            note(f"warning: {run.folder.name}: {line}")
    verdict = judged(gate, before, found.runs, plan)
    emit_gated(as_dict(found), verdict, as_json, lambda _: as_text(found))
    note(f"written: {plan.out / repeat.COMPARE_FILE}, {plan.out / repeat.SUMMARY_FILE}")
    if verdict is not None:
        verdict.require(plan.out)
