"""`duet eval`: mAP of a detector on every domain of a series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duet.cli.common import (
    PATH,
    device_option,
    json_option,
    read_told,
    tell_leftovers,
    trust_option,
)
from duet.cli.options import gate_of, gate_options
from duet.cli.running import emit_gated
from duet.progress import note

EPILOG = """\b
Examples:
  duet eval runs/demo/models/duet-plus/2-comic configs/series/emoji-2phase.yaml \
      --data-root runs/demo/data
  duet eval MODEL series.yaml --split val --min-map50 0.6
  duet eval MODEL series.yaml --out before.json
  duet eval LATER series.yaml --against before.json --max-drop ap50=5,f1=8
  duet eval best.pt series.yaml
"""


@click.command("eval", epilog=EPILOG)
@click.argument("model", type=PATH, metavar="MODEL")
@click.argument("series", type=PATH, metavar="SERIES.yaml")
@click.option("--data-root", type=PATH, help="Folder of the data.")
@click.option("--split", default="", help="[test if there is one, else val]")
@click.option("--out", type=PATH, help="Also write the JSON, for --against.")
@gate_options
@device_option
@trust_option
@json_option
def evaluate(
    model: Path,
    series: Path,
    data_root: Path | None,
    split: str,
    out: Path | None,
    device: str,
    trust: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Evaluate a detector on every domain of a series, per increment and per class.

    MODEL is a detector folder, or a model of another program as `duet import` takes it.
    """
    from duet.families.foreign import open_model
    from duet.files import write_json
    from duet.report.cells import cells_table
    from duet.runs.cells import evaluate_cells
    from duet.runs.gated import judge_cells, open_before, require_gate, standings_before

    gate = gate_of(options)
    loaded = open_model(model, trust=trust, notify=note)
    data = read_told(series, data_root)
    require_gate(gate, data)
    before = standings_before(open_before(gate, note), data, split, device)
    cells = evaluate_cells(loaded.state, data, split, loaded.manifest.image_size, device)
    result = {
        "schema": 1,
        "model": str(model),
        "fingerprint": loaded.manifest.fingerprint,
        "cells": [cell.model_dump(mode="json") for cell in cells],
    }
    if out is not None:
        tell_leftovers(out)
        write_json(out, result)
    verdict = judge_cells(gate, cells, before) if gate is not None else None
    emit_gated(result, verdict, as_json, lambda _: cells_table(cells).as_text())
    for item in data.increments:
        if not any(name in loaded.state.labels for name in item.classes):
            note(f"{item.name}: not measured, the detector knows none of {', '.join(item.classes)}")
    for cell in cells:
        if cell.absent:
            note(cell.absent)
    if verdict is not None:
        verdict.require(model)
