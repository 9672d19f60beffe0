"""`duet eval`: mAP of a detector on every domain of a series."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from duet.cli.common import PATH, emit, json_option, read_told, trust_option
from duet.progress import note

EPILOG = """\b
Examples:
  duet eval runs/demo/models/duet-plus/2-comic configs/series/emoji-2phase.yaml \
      --data-root runs/demo/data
  duet eval MODEL series.yaml --split val --min-map50 0.6
  duet eval best.pt series.yaml
"""


@click.command("eval", epilog=EPILOG)
@click.argument("model", type=PATH, metavar="MODEL")
@click.argument("series", type=PATH, metavar="SERIES.yaml")
@click.option("--data-root", type=PATH, help="Folder of the data.")
@click.option("--split", default="", help="[test if there is one, else val]")
@click.option(
    "--min-map50", type=click.FloatRange(0, 1),
    help="Exit 6 if a cell is below, or has no object to measure it on.",
)  # fmt: skip
@trust_option
@json_option
def evaluate(
    model: Path,
    series: Path,
    data_root: Path | None,
    split: str,
    min_map50: float | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Evaluate a detector on every domain of a series, per increment and per class.

    MODEL is a detector folder, or a model of another program as `duet import` takes it.
    """
    from duet.families.foreign import open_model
    from duet.runs.evaluate import evaluate_cells

    loaded = open_model(model, trust=trust, notify=note)
    data = read_told(series, data_root)
    cells = evaluate_cells(loaded.state, data, split, loaded.manifest.image_size)
    result = {
        "schema": 1,
        "model": str(model),
        "fingerprint": loaded.manifest.fingerprint,
        "cells": cells,
    }
    emit(result, as_json, lambda seen: _text(seen["cells"]))
    for item in data.increments:
        if not any(name in loaded.state.labels for name in item.classes):
            note(f"{item.name}: not measured, the detector knows none of {', '.join(item.classes)}")
    for cell in cells:
        if absent := [name for name, value in cell["ap50"].items() if value is None]:
            note(_unmeasured(cell, absent))
    if min_map50 is not None:
        _gate(model, cells, min_map50)


def _gate(model: Path, cells: list[dict[str, Any]], least: float) -> None:
    """Raise unless every cell was measured and is high enough."""
    from duet.errors import GateError

    nothing = [cell for cell in cells if cell["map50"] is None]
    if nothing:  # a gate that passes on nothing would pass on a broken data set
        raise GateError(
            "; ".join(_unmeasured(cell, cell["ap50"]) for cell in nothing),
            where=str(model),
            remedy="--min-map50 asks for a number in every cell: label objects in this split, "
            "choose another with --split, or leave the increment out of the series",
        )
    low = [cell for cell in cells if cell["map50"] < least]
    if low:
        worst = min(low, key=lambda cell: cell["map50"])
        raise GateError(
            f"mAP50 of {worst['domain']}[{worst['increment']}] is {worst['map50']:.3f}, "
            f"--min-map50 is {least}",
            where=str(model),
            remedy=f"{len(low)} of {len(cells)} cells are below; see the table",
        )


def _unmeasured(cell: dict[str, Any], names: Iterable[str]) -> str:
    place = f"the {cell['split']} split of {cell['domain']}"
    return f"{cell['increment']}: no labelled object of {', '.join(names)} in {place}"


def _text(cells: list[dict[str, Any]]) -> str:
    lines = [f"{'domain':<14}{'classes of':<14}{'split':<7}{'images':>7}{'mAP50':>8}{'mAP':>8}"]
    for cell in cells:
        numbers = [f"{100 * cell[k]:.1f}" if cell[k] is not None else "-" for k in ("map50", "map")]
        lines.append(
            f"{cell['domain']:<14}{cell['increment']:<14}{cell['split']:<7}{cell['images']:>7}"
            f"{numbers[0]:>8}{numbers[1]:>8}"
        )
    return "\n".join(lines)
