"""`duet demo`: the whole job on the embedded series, offline, in minutes."""

from __future__ import annotations

from pathlib import Path

import click

from duet.cli.common import NAME_OR_PATH, PATH, json_option
from duet.cli.names import strategies, weights_option
from duet.cli.options import SEED
from duet.cli.running import perform
from duet.progress import counted
from duet.shipped import DEFAULT_STRATEGIES

EPILOG = """\b
Examples:
  duet demo
  duet demo --out runs/demo --json
  duet demo --weights rtdetr-tiny-emoji --strategy duet-detr --strategy seq-ft
  duet demo --strategy duet-plus --strategy duet --strategy frozen --strategy seq-ft
"""


@click.command("demo", epilog=EPILOG)
@click.option("--out", type=PATH, default=Path("runs/demo"), show_default=True)
@click.option(
    "--strategy",
    "strategies",
    type=NAME_OR_PATH,
    multiple=True,
    metavar="TEXT",
    shell_complete=strategies,
    default=DEFAULT_STRATEGIES,
    show_default=True,
)
@click.option("--jobs", type=click.IntRange(min=1), help="Trainings at a time [CPU cores, max 2].")
@click.option("--epochs", type=click.IntRange(min=1), help="Replace the schedule's 8 epochs.")
@weights_option("θ_0, if not YOLO11n's")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--train-scenes", type=click.IntRange(min=20), default=450, show_default=True)
@click.option("--test-scenes", type=click.IntRange(min=20), default=250, show_default=True)
@click.option("--dry-run", is_flag=True, help="Draw the data, print the plan, train nothing.")
@json_option
def demo(
    out: Path, strategies: tuple[str, ...], jobs: int | None, epochs: int | None,
    weights: str | None, seed: int, train_scenes: int, test_scenes: int, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Watch a YOLO11n learn ten classes, then ten more in another style, without the first images.

    Draws the Emoji series, trains with DuET+ and with plain fine-tuning, and writes a report of
    what was kept, gained and lost. Needs no network and no GPU.
    """
    from duet.runs.demo import plan_demo

    with counted("drawing scenes") as step:
        plan = plan_demo(
            out, strategies, train=train_scenes, test=test_scenes, jobs=jobs, weights=weights,
            epochs=epochs, seed=seed, listen=step,
        )  # fmt: skip
    perform(plan, dry_run=dry_run, as_json=as_json)
