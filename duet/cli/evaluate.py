"""`duet eval`: mAP of a detector on every domain of a series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duet.cli.common import emit, json_option

EPILOG = """\b
Examples:
  duet eval runs/demo/models/duet-plus/2-comic configs/series/emoji-2phase.yaml \
      --data-root runs/demo/data
  duet eval MODEL series.yaml --split val --min-map50 0.6
"""


@click.command("eval", epilog=EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("series", type=click.Path(path_type=Path), metavar="SERIES.yaml")
@click.option("--data-root", type=click.Path(path_type=Path), help="Folder of the data.")
@click.option("--split", default="", help="[test if there is one, else val]")
@click.option("--min-map50", type=click.FloatRange(0, 1), help="Exit 6 if a known cell is below.")
@json_option
def evaluate(
    model: Path,
    series: Path,
    data_root: Path | None,
    split: str,
    min_map50: float | None,
    as_json: bool,
) -> None:
    """Evaluate a detector on every domain of a series, per increment and per class."""
    from duet.errors import GateError
    from duet.increments.store import load_detector
    from duet.runs.evaluate import evaluate_cells
    from duet.series import read_series

    loaded = load_detector(model)
    cells = evaluate_cells(
        loaded.state, read_series(series, data_root=data_root), split, loaded.manifest.image_size
    )
    result = {
        "schema": 1,
        "model": str(model),
        "fingerprint": loaded.manifest.fingerprint,
        "cells": cells,
    }
    emit(result, as_json, lambda: _text(cells))
    low = [
        c
        for c in cells
        if min_map50 is not None and c["map50"] is not None and c["map50"] < min_map50
    ]
    if low:
        worst = min(low, key=lambda cell: cell["map50"])
        raise GateError(
            f"mAP50 of {worst['domain']}[{worst['increment']}] is {worst['map50']:.3f}, "
            f"--min-map50 is {min_map50}",
            where=str(model),
            remedy=f"{len(low)} of {len(cells)} cells are below; see the table",
        )


def _text(cells: list[dict[str, Any]]) -> str:
    lines = [f"{'domain':<14}{'classes of':<14}{'split':<7}{'images':>7}{'mAP50':>8}{'mAP':>8}"]
    for cell in cells:
        numbers = [f"{100 * cell[k]:.1f}" if cell[k] is not None else "-" for k in ("map50", "map")]
        lines.append(
            f"{cell['domain']:<14}{cell['increment']:<14}{cell['split']:<7}{cell['images']:>7}"
            f"{numbers[0]:>8}{numbers[1]:>8}"
        )
    return "\n".join(lines)
