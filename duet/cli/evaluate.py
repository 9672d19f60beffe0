"""`duet eval`: mAP of a detector on every domain of a series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duet.cli.common import PATH, device_option, emit, json_option, read_told, trust_option
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
@device_option
@trust_option
@json_option
def evaluate(
    model: Path,
    series: Path,
    data_root: Path | None,
    split: str,
    min_map50: float | None,
    device: str,
    trust: bool,
    as_json: bool,
) -> None:
    """Evaluate a detector on every domain of a series, per increment and per class.

    MODEL is a detector folder, or a model of another program as `duet import` takes it.
    """
    from duet.evaluation.gate import require_map50, unmeasured
    from duet.families.foreign import open_model
    from duet.runs.evaluate import evaluate_cells

    loaded = open_model(model, trust=trust, notify=note)
    data = read_told(series, data_root)
    cells = evaluate_cells(loaded.state, data, split, loaded.manifest.image_size, device)
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
            note(unmeasured(cell, absent))
    if min_map50 is not None:
        require_map50(cells, min_map50, where=str(model))


def _text(cells: list[dict[str, Any]]) -> str:
    lines = [f"{'domain':<14}{'classes of':<14}{'split':<7}{'images':>7}{'mAP50':>8}{'mAP':>8}"]
    for cell in cells:
        numbers = [f"{100 * cell[k]:.1f}" if cell[k] is not None else "-" for k in ("map50", "map")]
        lines.append(
            f"{cell['domain']:<14}{cell['increment']:<14}{cell['split']:<7}{cell['images']:>7}"
            f"{numbers[0]:>8}{numbers[1]:>8}"
        )
    return "\n".join(lines)
