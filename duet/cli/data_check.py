"""`duet data check`: is a series fit to learn from?"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from duet.series import IncrementCounts, Inspection

EPILOG = """\b
Examples:
  duet data check series.yaml
  duet data check series.yaml --data-root /data/shop --strict
  duet data check series.yaml --json | jq .problems
"""


@click.command("check", epilog=EPILOG)
@click.argument("series", type=click.Path(path_type=Path), metavar="SERIES.yaml")
@click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    help="Folder of the data, in place of the file's 'root'.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
@click.option("--strict", is_flag=True, help="Count warnings as errors.")
def check(series: Path, data_root: Path | None, as_json: bool, strict: bool) -> None:
    """Check the images and labels of a series before any training.

    Reads every image and label file, changes nothing, and shows all problems at once. Exit code 3
    means that the series cannot be used.
    """
    from duet.errors import DataError
    from duet.series import inspect_series, raise_problems, summarise
    from duet.series.problems import fatal, listing

    inspection = inspect_series(series, data_root=data_root)
    counts = summarise(inspection.series)
    stopping = fatal(inspection.problems, strict=strict)
    if as_json:
        click.echo(json_module.dumps(_as_dict(inspection, counts, ok=not stopping), indent=2))
        if stopping:  # the problems themselves are in the JSON
            raise DataError(f"{len(stopping)} problems, see 'problems'", where=str(series))
        return
    _print_table(_table(inspection.series.name, counts))
    warnings = [problem for problem in inspection.problems if problem not in stopping]
    for line in listing(warnings):
        click.echo(f"warning {line}")
    raise_problems(inspection.problems, where=str(series), strict=strict)
    click.echo("no errors: the series can be used")


def _as_dict(
    inspection: Inspection, counts: Sequence[IncrementCounts], *, ok: bool
) -> dict[str, object]:
    series = inspection.series
    return {
        "schema": 1,
        "series": series.name,
        "ok": ok,
        "domains": list(series.domains),
        "increments": [count.as_dict() for count in counts],
        "problems": [problem.as_dict() for problem in inspection.problems],
    }


def _table(title: str, counts: Sequence[IncrementCounts]) -> Table:
    """Return one row per increment and split."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in ("increment", "domain", "split"):
        table.add_column(name)
    for name in ("images", "with objects"):
        table.add_column(name, justify="right")
    table.add_column("size (px)")
    table.add_column("objects per class", ratio=1)
    for count in counts:
        for position, (name, split) in enumerate(count.splits.items()):
            first = position == 0
            table.add_row(
                count.name if first else "",
                count.domain if first else "",
                name,
                str(split.images),
                str(split.with_objects),
                _sizes(split.smallest, split.largest),
                ", ".join(f"{label} {number}" for label, number in split.objects.items()),
                end_section=position + 1 == len(count.splits),
            )
    return table


def _sizes(smallest: tuple[int, int] | None, largest: tuple[int, int] | None) -> str:
    if smallest is None or largest is None:
        return "-"
    low, high = (f"{width}x{height}" for width, height in (smallest, largest))
    return low if low == high else f"{low} to {high}"


def _print_table(table: Table) -> None:
    from rich.console import Console

    Console().print(table)
