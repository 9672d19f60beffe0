"""`duet data check`: is a series fit to learn from?"""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import PATH, device_option, json_option, say
from duet.text import laid_out, printable, short_list

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table
    from rich.text import Text

    from duet.doctor import Diagnosis, Finding
    from duet.doctor.repair import Repair
    from duet.series import IncrementCounts

EPILOG = """\b
Examples:
  duet data check series.yaml
  duet data check series.yaml --strict --json | jq .findings
  duet data check series.yaml --detector runs/demo/detector --crops unlabelled
  duet data check series.yaml --fix repaired
"""

_CLASSES = 2000
"""Classes that a row of the table names with their objects; it says how many more there are."""

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command("check", epilog=EPILOG)
@click.argument("series", type=PATH, metavar="SERIES.yaml")
@click.option(
    "--data-root",
    type=PATH,
    help="Folder of the data, in place of the file's 'root'.",
)
@click.option(
    "--detector",
    type=PATH,
    help="Look for unlabelled objects of the classes that this detector knows.",
)
@click.option(
    "--conf",
    "confidence",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Lowest score of these objects.",
)
@device_option
@click.option("--crops", type=PATH, help="Write pictures of these objects to a folder.")
@click.option("--fix", type=PATH, help="Write a repaired copy to a folder.")
@json_option
@click.option("--strict", is_flag=True, help="Count warnings as errors; notes never count.")
def check(
    series: Path,
    data_root: Path | None,
    detector: Path | None,
    confidence: float,
    device: str,
    crops: Path | None,
    fix: Path | None,
    as_json: bool,
    strict: bool,
) -> None:
    """Check the images and labels of a series before any training.

    Decodes every image, reads every label and shows all problems at once; the data are never
    changed. Exit code 3 means that the series (with --fix: its repaired copy) cannot be used.
    """
    from duet.doctor.crops import holds_crops, write_crops
    from duet.doctor.repair import is_copy
    from duet.errors import ConfigError
    from duet.files import refuse_occupied

    if crops is not None and detector is None:
        remedy = "name the detector that knows the old classes"
        what = "there is nothing to cut out without --detector"
        raise ConfigError(what, where="--crops", remedy=remedy)
    if crops is not None:
        refuse_occupied(crops, again=holds_crops(crops))
    if fix is not None:
        refuse_occupied(fix, again=is_copy(fix))
    diagnosis = _examine(series, data_root, detector, confidence, device)
    extra: dict[str, Any] = {}
    if crops is not None:
        extra["crops"] = {"folder": str(crops), "count": write_crops(diagnosis.shifts, crops)}
    repaired = _repair(diagnosis, fix) if fix is not None else None
    if repaired is not None:
        extra["fix"] = repaired.as_dict() | {"series": str(repaired.series)}
    if as_json:
        _show_json(diagnosis, repaired, extra, strict=strict)
    else:
        _show(diagnosis, repaired, extra, strict=strict)


def _examine(
    series: Path, data_root: Path | None, detector: Path | None, confidence: float, device: str
) -> Diagnosis:
    from duet.doctor import examine
    from duet.progress import counted

    if detector is None:
        return examine(series, data_root=data_root)
    from duet.inference.load import load

    with counted("looking for old objects") as step:
        return examine(
            series,
            data_root=data_root,
            detector=load(detector, device),
            confidence=confidence,
            progress=step,
        )


def _repair(diagnosis: Diagnosis, folder: Path) -> Repair:
    from duet.cli.common import writing
    from duet.doctor.repair import repair
    from duet.progress import counted

    total, done = sum(len(data.images) for data in diagnosis.series.data_sets), 0
    with writing(folder), counted("copying images") as show:

        def step(images: int) -> None:
            nonlocal done
            done += images
            show(done, total)

        return repair(diagnosis, folder, progress=step)


def _show_json(
    diagnosis: Diagnosis, repaired: Repair | None, extra: dict[str, Any], *, strict: bool
) -> None:
    from duet.doctor import findings
    from duet.errors import DataError
    from duet.series import summarise
    from duet.series.problems import fatal

    stopping = fatal(repaired.left if repaired else diagnosis.problems, strict=strict)
    counted = [problem for problem in diagnosis.problems if problem.severity != "note"]
    notes = [problem for problem in diagnosis.problems if problem.severity == "note"]
    document = {
        "schema": 1,
        "series": diagnosis.series.name,
        "ok": not stopping,
        "domains": list(diagnosis.series.domains),
        "increments": [asdict(count) for count in summarise(diagnosis.series)],
        "findings": [asdict(finding) for finding in findings(diagnosis.problems)],
        "problems": [problem.as_dict() for problem in counted],
        "notes": [problem.as_dict() for problem in notes],
        "background": [shift.as_dict() for shift in diagnosis.shifts],
        **extra,
    }
    click.echo(json_module.dumps(document, indent=2))
    if stopping:  # the problems themselves are in the JSON
        where = str(repaired.series if repaired else diagnosis.path)
        raise DataError(f"{len(stopping)} problems, see 'problems'", where=where)


def _show(
    diagnosis: Diagnosis, repaired: Repair | None, extra: dict[str, Any], *, strict: bool
) -> None:
    from duet.doctor import findings
    from duet.series import raise_problems, summarise
    from duet.series.problems import fatal, listing

    _print_table(_table(diagnosis.series.name, summarise(diagnosis.series)))
    if found := findings(diagnosis.problems):
        _print_table(_findings_table(found))
    if "crops" in extra:
        say(f"{extra['crops']['count']} crops and contact sheets in {extra['crops']['folder']}")
    problems, where = diagnosis.problems, str(diagnosis.path)
    if repaired is not None:
        problems, where = repaired.left, str(repaired.series)
        for action, count in sorted(repaired.as_dict()["counts"].items()):  # type: ignore[attr-defined]
            say(f"{action}: {count}")
        say(f"repaired copy: {repaired.series}")
    stopping = set(fatal(problems, strict=strict))
    for severity in ("warning", "note"):
        lines = [p for p in problems if p.severity == severity and p not in stopping]
        for line in listing(lines):
            say(laid_out(f"{severity} {line}"))
    raise_problems(problems, where=where, strict=strict)
    say("no errors: the series can be used")


def _findings_table(found: Sequence[Finding]) -> Table:
    """Return one row per kind of problem."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="findings", title_justify="left")
    table.add_column("severity")
    table.add_column("code", no_wrap=True)
    table.add_column("count", justify="right")
    table.add_column("for example", ratio=1, overflow="fold")
    for row in found:
        colour = _COLOURS[row.severity]
        table.add_row(
            Text(row.severity, style=colour),
            row.code,
            str(row.count),
            Text("\n".join(map(printable, row.examples)))
            + Text("\n..." if row.count > len(row.examples) else ""),
        )
    return table


def _table(title: str, counts: Sequence[IncrementCounts]) -> Table:
    """Return one row per increment and split."""
    from rich.table import Table

    table = Table(title=_text(title), title_justify="left")
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
                _text(count.name if first else ""),
                _text(count.domain if first else ""),
                name,
                str(split.images),
                str(split.with_objects),
                _sizes(split.smallest, split.largest),
                _text(short_list((f"{k} {n}" for k, n in split.objects.items()), limit=_CLASSES)),
                end_section=position + 1 == len(count.splits),
            )
    return table


def _text(words: str) -> Text:
    """Return what a table shows of names: as they are, without the markup that rich would read."""
    from rich.text import Text

    return Text(printable(words))


def _sizes(smallest: tuple[int, int] | None, largest: tuple[int, int] | None) -> str:
    if smallest is None or largest is None:
        return "-"
    low, high = (f"{width}x{height}" for width, height in (smallest, largest))
    return low if low == high else f"{low} to {high}"


def _print_table(table: Table) -> None:
    from rich.console import Console

    Console().print(table)
