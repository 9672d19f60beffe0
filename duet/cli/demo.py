"""`duet demo`: the whole job on the embedded series, offline, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duet.cli.common import NAME_OR_PATH, PATH, emit, json_option
from duet.cli.run import DEFAULT_METHODS, SEED, make_plan, perform, summary, table
from duet.progress import counting, note
from duet.text import printable

EPILOG = """\b
Examples:
  duet demo
  duet demo --out runs/demo --json
  duet demo --weights rtdetr-tiny-emoji --method duet-detr --method seq-ft
  duet demo --method duet-plus --method duet --method frozen --method seq-ft
"""


@click.command("demo", epilog=EPILOG)
@click.option("--out", type=PATH, default=Path("runs/demo"), show_default=True)
@click.option(
    "--method",
    "methods",
    type=NAME_OR_PATH,
    multiple=True,
    metavar="TEXT",
    default=DEFAULT_METHODS,
    show_default=True,
)
@click.option("--jobs", type=click.IntRange(min=1), help="Trainings at a time [CPU cores, max 2].")
@click.option("--epochs", type=click.IntRange(min=1), help="Replace the schedule's 8 epochs.")
@click.option(
    "--weights", type=NAME_OR_PATH, help="θ_0: a file or a name of `duet weights ls` [YOLO11n's]."
)
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--train-scenes", type=click.IntRange(min=20), default=450, show_default=True)
@click.option("--test-scenes", type=click.IntRange(min=20), default=250, show_default=True)
@click.option("--dry-run", is_flag=True, help="Draw the data, print the plan, train nothing.")
@json_option
def demo(
    out: Path, train_scenes: int, test_scenes: int, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Watch a YOLO11n learn ten classes, then ten more in another style, without the first images.

    Draws the Emoji series, trains with DuET+ and with plain fine-tuning, and writes a report of
    what was kept, gained and lost. Needs no network and no GPU.
    """
    from duet.emoji.build import build
    from duet.runs.walls import require_runnable, require_writable
    from duet.shipped import shipped
    from duet.weights import find

    if options["weights"]:
        find(options["weights"])  # before minutes of drawing
    require_writable(out)
    with counting("drawing scenes") as step:
        build(out / "data", train=train_scenes, val=150, test=test_scenes, progress=step)
    unused = dict.fromkeys(("train", "architecture"))
    options |= {"out": out, "data_root": out / "data", "references": True, "split": "", **unused}
    plan = make_plan(shipped("configs", "series", "emoji-2phase.yaml"), options)
    if dry_run:
        from duet.runs.plan import plan_as_dict, plan_as_text

        require_runnable(plan)
        emit(plan_as_dict(plan), as_json, lambda _: plan_as_text(plan))
        return
    results, report = perform(plan)
    emit(summary(results, out, report), as_json, lambda _: table(results, report))
    for line in results.commands.next:
        note(f"next: {printable(line)}")
