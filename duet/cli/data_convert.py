"""`duet data convert`: write a data set in another format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.aliases import VOCABULARIES
from duet.cli.common import PATH, emit, json_option, writing
from duet.progress import note, stages
from duet.text import printable, shell_line

if TYPE_CHECKING:
    from duet.series.convert import Converted

EPILOG = """\b
Examples:
  duet data convert VOCdevkit/VOC2007 datasets/voc --to yolo --images link --lossy
  duet data convert coco/data.yaml datasets/coco-voc --to voc
  duet data convert night.yaml datasets/night --to coco --rename motor=motorbike
  duet data convert series.yaml datasets/all --to yolo --aliases voc
"""


@click.command("convert", epilog=EPILOG)
@click.argument("source", type=PATH, metavar="SOURCE")
@click.argument("out", type=PATH, metavar="OUT")
@click.option("--to", required=True, metavar="FORMAT", help="Label format to write.")
@click.option(
    "--from", "form", default="auto", show_default=True, metavar="FORMAT", help="The one to read."
)
@click.option(
    "--images",
    "transfer",
    type=click.Choice(["copy", "link"]),
    default="copy",
    show_default=True,
    help="link: symbolic links to the originals, which must stay where they are.",
)
@click.option(
    "--rename",
    multiple=True,
    metavar="OLD=NEW",
    help="Rename a class; one that exists is joined. Repeatable.",
)
@click.option(
    "--aliases",
    "vocabulary",
    type=click.Choice([*VOCABULARIES]),
    help="Spell classes as this data set does where they mean the same.",
)
@click.option(
    "--difficult",
    type=click.Choice(["ignore", "drop", "keep"]),
    help="VOC's difficult objects: neither learned nor scored, left out, or like all others. "
    "By default as the data say, else ignore.",
)
@click.option("--lossy", is_flag=True, help="Leave out objects that the format cannot hold.")
@json_option
def convert(
    source: Path, out: Path, rename: tuple[str, ...], difficult: str | None, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Write a data set, or all data sets of a series, in another format.

    SOURCE is a data.yaml, a folder in VOC's or COCO's layout, or a series.yaml. OUT must not exist,
    or be what this command wrote before. Boxes, class ids and the order of the images stay exactly
    the same; what duet does not read (outlines, poses, ...) is counted and not written.
    """
    from duet.series.convert import Conversion
    from duet.series.convert import convert as run
    from duet.series.reader import is_series

    choices = {"difficult": difficult} if difficult else {}
    wanted = Conversion(rename=_renames(rename), options=choices, **options)
    note(f"reading {source}")
    with writing(out), stages() as show:
        done = run(
            source, out, wanted, lambda title, n, total: show(title, {"done": n, "total": total})
        )
    series = str(out / "series.yaml") if is_series(source) else None
    result = {
        "schema": 1,
        "format": wanted.to,
        "out": str(out),
        "series": series,
        "datasets": [one.as_dict() for one in done],
    }
    lines = [*(_describe(one, out) for one in done), _next(out, series)]
    emit(result, as_json, lambda _: "\n".join(lines))


def _renames(pairs: tuple[str, ...]) -> dict[str, str]:
    """Return old names and new."""
    from duet.errors import ConfigError

    found: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = (part.strip() for part in pair.partition("="))
        if not (old and equals and new):
            raise ConfigError(f"expected OLD=NEW, got '{pair}'", where="--rename")
        if found.setdefault(old, new) != new:
            raise ConfigError(f"'{old}' cannot become '{found[old]}' and '{new}'", where="--rename")
    return found


def _describe(one: Converted, out: Path) -> str:
    splits = ", ".join(
        f"{name} {count} images {one.objects[name]} objects" for name, count in one.images.items()
    )
    classes = f"{len(one.classes)} classes"
    lines = [f"{one.source} ({one.read_as}) -> {out / one.data}: {splits}, {classes}"]
    ignored = sum(one.ignored.values()) - one.lost
    facts = {
        f"{ignored} objects are marked as ignored (difficult, or crowds)": ignored,
        f"{one.lost} ignored objects were left out: the format cannot mark them": one.lost,
        f"{one.joined} objects were the same as another after joining classes": one.joined,
        f"{one.renamed_images} images have a new file name": one.renamed_images,
        f"{one.warnings} warnings about the source, see `duet data check`": one.warnings,
        **{f"not written: {count} {kind}": count for kind, count in one.unused.items()},
        "classes renamed: " + ", ".join(f"{a} -> {b}" for a, b in one.renamed_classes.items()): len(
            one.renamed_classes
        ),
    }
    return "\n".join(map(printable, [*lines, *(f"  {t}" for t, count in facts.items() if count)]))


def _next(out: Path, series: str | None) -> str:
    if series:
        return f"next: {shell_line('duet', 'data', 'check', series)}"
    data = printable(str(out / "data.yaml"))
    return f"next: name {data} as 'data' of an increment, then `duet data check`"
