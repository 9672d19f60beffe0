"""`duet drop-class`: a detector without some of its classes; exact, no training, no data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duet.cli.common import PATH, emit, hint, json_option, writing
from duet.progress import note

EPILOG = """\b
Examples:
  duet drop-class runs/demo/models/duet-plus/2-comic aeroplane --out runs/demo/no-aeroplane
  duet drop-class DETECTOR cat dog --out DIR --json
"""


@click.command("drop-class", epilog=EPILOG)
@click.argument("detector", type=PATH, metavar="DETECTOR")
@click.argument("classes", nargs=-1, required=True, metavar="CLASS...")
@click.option("--out", type=PATH, required=True, help="Detector folder.")
@click.option("--overwrite", is_flag=True, help="Replace an older detector in --out.")
@json_option
def drop_class(
    detector: Path, classes: tuple[str, ...], out: Path, overwrite: bool, as_json: bool
) -> None:
    """Remove classes from DETECTOR; the weights of all others stay the same to the bit.

    Needs neither increments nor start weights. Later merges of the result keep the drop.
    """
    from duet.recipes.drop import drop_classes

    with writing(out, overwrite=overwrite):
        dropped = drop_classes(detector, classes, out, overwrite=overwrite)
    for remark in dropped.remarks:
        note(f"note: {remark}")
    left = [name for part in dropped.manifest.parts for name in part.classes]
    result = {
        "schema": 1,
        "detector": str(out),
        "fingerprint": dropped.manifest.fingerprint,
        "classes": left,
        "dropped": {increment: list(names) for increment, names in dropped.classes.items()},
        "gone": list(dropped.gone),
        "remerge": dropped.manifest.recipe is not None,
        "remarks": list(dropped.remarks),
    }
    emit(result, as_json, _text)
    hint("duet", "predict", out, "IMAGES")


def _text(result: dict[str, Any]) -> str:
    lines = [f"{len(result['classes'])} classes left -> {result['detector']}"]
    for increment, names in result["dropped"].items():
        rest = " (none is left of it)" if increment in result["gone"] else ""
        lines.append(f"  dropped of {increment}: {', '.join(names)}{rest}")
    return "\n".join(lines)
