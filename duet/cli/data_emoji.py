"""`duet data emoji`: draw the Emoji series."""

from __future__ import annotations

import contextlib
import json as json_module
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from duet.cli.common import PATH, tell_leftovers

if TYPE_CHECKING:
    from rich.table import Table

    from duet.emoji.build import BuildReport

EPILOG = """\b
Examples:
  duet data emoji datasets/emoji
  duet data emoji datasets/emoji-4phase --protocol 4-phase
  duet data emoji datasets/tiny --domains flat,sketch --protocol none --train 40 --val 20 --test 20
"""

_PLAIN_EVERY_S = 5.0


@click.command("emoji", epilog=EPILOG)
@click.argument("directory", type=PATH, metavar="DIR")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--domains", help="Comma-separated; the protocol's when left out.")
@click.option(
    "--protocol",
    type=click.Choice(["2-phase", "4-phase", "class-only", "domain-only", "none"]),
    default="2-phase",
    show_default=True,
    help="Which classes each domain's training scenes are sure to show.",
)
@click.option("--train", type=click.IntRange(min=1), default=450, show_default=True)
@click.option("--val", type=click.IntRange(min=0), default=150, show_default=True)
@click.option("--test", type=click.IntRange(min=0), default=250, show_default=True)
@click.option(
    "--variants",
    type=click.Choice(["own", "shared"]),
    default="own",
    show_default=True,
    help="own: val and test also use emoji and backgrounds that training never shows.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def emoji(
    directory: Path,
    seed: int,
    domains: str | None,
    protocol: str,
    train: int,
    val: int,
    test: int,
    variants: str,
    as_json: bool,
) -> None:
    """Draw the Emoji series: 20 classes in domains that really differ, with exact boxes.

    Nothing is downloaded. Counts are scenes per domain. Equal options give equal files; a finished
    build with the same options is verified and reused.
    """
    from duet.emoji.build import build
    from duet.emoji.vocabulary import FOCI

    chosen = [name.strip() for name in domains.split(",")] if domains else list(FOCI[protocol])
    tell_leftovers(directory)
    with _progress() as progress:
        report = build(
            directory,
            seed=seed,
            domains=chosen or ["flat", "comic"],
            train=train,
            val=val,
            test=test,
            focus=FOCI[protocol],
            variants="shared" if variants == "shared" else "own",
            progress=progress,
        )
    if as_json:
        click.echo(json_module.dumps({"schema": 1, **report.as_dict()}, indent=2))
        return
    from rich.console import Console

    Console().print(_table(report))
    state = "already there, verified" if report.reused else f"written in {report.seconds:.1f} s"
    click.echo(f"{state}; sha256 {report.sha256[:16]}; credits in {directory / 'ATTRIBUTION.md'}")


def _table(report: BuildReport) -> Table:
    """Return one row per domain and split."""
    from rich.table import Table

    table = Table(title=str(report.directory), title_justify="left")
    for name in ("domain", "split"):
        table.add_column(name)
    for name in ("images", "objects", "per class"):
        table.add_column(name, justify="right")
    for domain, splits in report.counts.items():
        for position, (split, images) in enumerate(splits.items()):
            numbers = report.objects[domain][split].values()
            table.add_row(
                domain if position == 0 else "",
                split,
                str(images),
                str(sum(numbers)),
                f"{min(numbers)} to {max(numbers)}",
                end_section=position + 1 == len(splits),
            )
    return table


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Yield a progress callback: a bar on a terminal, else a plain line every few seconds."""
    if not sys.stderr.isatty():
        yield _plain_progress()
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("drawing scenes")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain_progress() -> Callable[[int, int], None]:
    import time

    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _PLAIN_EVERY_S:
            last = time.monotonic()
            click.echo(f"drawing scenes: {done} of {total}", err=True)

    return show
