"""`duet run`: the whole job on a series."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import NAME_OR_PATH, PATH, emit, json_option, tell_warnings
from duet.progress import note, stages
from duet.text import printable, shell_line

if TYPE_CHECKING:
    from duet.report.results import Results
    from duet.runs.inputs import Inputs
    from duet.runs.plan import RunPlan

EPILOG = """\b
Examples:
  duet run series.yaml --dry-run
  duet run series.yaml --out runs/shop
  duet run series.yaml --methods duet-plus,frozen,seq-ft --out runs/shop
  duet run series.yaml --methods duet-plus,frozen --seeds 3 --orders 2 --out runs/repeats
"""
SEED = click.IntRange(min=0, max=2**31 - 1)  # NumPy takes no more
DEFAULT_METHODS, ONTO_METHODS = ("duet-plus", "seq-ft"), ("frozen-long", "seq-ft")
"""Of a series that trains its first increment, and of one that goes on from a detector."""


def training_options(command: Any) -> Any:
    """Add the options that every training command takes."""
    options = [
        click.option("--data-root", type=PATH, help="Folder of the data."),
        click.option("--train", type=PATH, help="Schedule YAML."),
        click.option(
            "--weights", type=NAME_OR_PATH, help="θ_0: a file, or a name of `duet weights ls`."
        ),
        click.option("--architecture", help="For example yolo11n.yaml."),
        click.option("--epochs", type=click.IntRange(min=1), help="Replace the schedule's."),
        click.option("--batch", type=click.IntRange(min=1), help="Replace the schedule's."),
        click.option(
            "--image-size", type=click.IntRange(min=32), help="Pixels; replace the schedule's."
        ),
        click.option(
            "--device", help="cpu, mps, 0 or cuda:0, or several GPUs: 0,1; replace the schedule's."
        ),
        click.option("--threads", type=click.IntRange(min=0), help="CPU threads a stage; 0 = all."),
        click.option("--seed", type=SEED, default=0, show_default=True),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def inputs_of(series: Path, options: dict[str, Any], only: str | None = None) -> Inputs:
    """Read and check everything that the `training_options` name."""
    from duet.runs.inputs import read_inputs
    from duet.weights import find

    keys = ("epochs", "batch", "image_size", "device", "threads")
    changes = {key: options[key] for key in keys if options.get(key) is not None}
    inputs = read_inputs(
        series,
        data_root=options["data_root"],
        train=options["train"],
        weights=find(options["weights"]) if options["weights"] else None,
        architecture=options["architecture"],
        changes=changes,
        only=only,
        onto=options.get("onto"),
    )
    tell_warnings(inputs.warnings, series)
    return inputs


@click.command("run", epilog=EPILOG)
@click.argument("series", type=PATH, metavar="SERIES.yaml")
@click.option(
    "--methods", "listed", type=NAME_OR_PATH, default="", metavar="TEXT",
    help="Shipped names or YAML paths with commas between; the first is reported on, the others "
    f"stand beside it [{','.join(DEFAULT_METHODS)}; on a detector {','.join(ONTO_METHODS)}].",
)  # fmt: skip
@click.option(
    "--method", "methods", type=NAME_OR_PATH, multiple=True, metavar="TEXT",
    help="One more method; may be repeated.",
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
@click.option("--split", default="", help="Split to evaluate on [test if there is one, else val].")
@training_options
@click.option("--dry-run", is_flag=True, help="Print the plan with counts and a time estimate.")
@json_option
def run(
    series: Path, dry_run: bool, as_json: bool, seeds: int, orders: int, listed: str, **options: Any
) -> None:
    """Learn a series: base, increments, merges, references, evaluation, report.

    Does only what is missing in the run folder, so a stopped run is continued by the same command.
    """
    names = tuple(name for item in listed.split(",") if (name := item.strip()))
    if listed and not names:
        raise click.BadParameter("names no method", param_hint="--methods")
    options["methods"] = (*names, *options["methods"])
    plan = make_plan(series, options)
    if dry_run:
        from duet.runs.run import require_chains
        from duet.runs.walls import require_runnable

        require_chains((plan,))
        require_runnable(plan)
    if seeds > 1 or orders > 1:
        _repeat(plan, seeds, orders, dry_run, as_json)
        return
    if dry_run:
        from duet.runs.plan import plan_as_dict, plan_as_text

        emit(plan_as_dict(plan), as_json, lambda _: plan_as_text(plan))
        return
    from duet.report.words import off_published

    results, report = perform(plan)
    for line in off_published(results):
        note(f"warning: {line}")
    emit(summary(results, plan.out, report), as_json, lambda _: table(results, report))
    for line in results.commands.next:
        note(f"next: {printable(line)}")


def _repeat(plan: RunPlan, seeds: int, orders: int, dry_run: bool, as_json: bool) -> None:
    """Run several seeds or orders and print how the methods compare over all of them."""
    import datetime

    from duet.compare.tables import as_dict, as_text
    from duet.report.words import off_published
    from duet.runs import repeat
    from duet.runs.plan import left_out
    from duet.runs.run import require_chains

    plans = repeat.repeats(plan, seeds=seeds, orders=orders)
    if dry_run:
        require_chains(plans)
        emit(repeat.repeats_as_dict(plans), as_json, lambda _: repeat.repeats_as_text(plans))
        return
    for line in left_out(plan):
        note(line)
    with stages() as show:
        today = datetime.date.today().isoformat()
        found = repeat.execute_repeats(plan.out, plans, show, date=today)
    for run in found.runs:
        for line in off_published(run.results):
            note(f"warning: {run.folder.name}: {line}")
    emit(as_dict(found), as_json, lambda _: as_text(found))
    note(f"written: {plan.out / repeat.COMPARE_FILE}, {plan.out / repeat.SUMMARY_FILE}")


def make_plan(series: Path, options: dict[str, Any]) -> RunPlan:
    """Check all inputs and return the plan; nothing is written."""
    import os

    from duet.runs.inputs import read_methods
    from duet.runs.plan import RunPlan

    inputs = inputs_of(series, options)
    chosen = options["methods"] or (ONTO_METHODS if inputs.onto else DEFAULT_METHODS)
    methods = read_methods(chosen, family=inputs.family, onto=inputs.onto)
    return RunPlan(
        series=inputs.series,
        methods=methods,
        schedule=inputs.schedule,
        weights=inputs.weights,
        architecture=inputs.architecture,
        family=inputs.family,
        seed=options["seed"],
        out=options["out"] or Path("runs") / inputs.series.name,
        jobs=options["jobs"] or min(2, os.cpu_count() or 1),
        references=options["references"],
        split=options["split"],
        command=shell_line("duet", *sys.argv[1:]),
        onto=inputs.onto,
    )


def perform(plan: RunPlan) -> tuple[Results, Path]:
    """Run the plan with progress on stderr; return the results and the report's path."""
    import datetime

    from duet.report.markdown import write_report
    from duet.runs.plan import left_out
    from duet.runs.run import execute

    for line in left_out(plan):
        note(line)
    with stages() as show:
        results = execute(plan, show, date=datetime.date.today().isoformat())
    return results, write_report(plan.out)


def summary(results: Results, out: Path, report: Path) -> dict[str, Any]:
    """Return the JSON of a run: indices, models beside published values, where all lies."""
    names = ("ri", "gi", "pi", "rai", "h", "forgetting", "bwt")
    return {
        "schema": 1,
        "series": results.series.name,
        "out": str(out),
        "report": str(report),
        "results": str(out / "results.json"),
        "main_method": results.main_method,
        "indices": {
            method.name: {name: getattr(method.indices, name) for name in names}
            for method in results.methods
        },
        "published": [entry.as_record() for entry in results.published],
    }


def table(results: Results, report: Path) -> str:
    """Return the table of a run for people."""
    from duet.report.tables import summary_table

    title = printable(results.series.name)
    return f"{title} (%)\n\n{summary_table(results).as_text()}\n\nreport: {report}"
