"""`duet eval`: mAP of a detector on every domain of a series, or on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import (
    PATH,
    LocalPath,
    device_option,
    json_option,
    read_there_told,
    tell_leftovers,
    trust_option,
)
from duet.cli.options import gate_of, gate_options
from duet.cli.running import emit_gated
from duet.progress import note
from duet.text import short_list

if TYPE_CHECKING:
    from duet.evaluation.cells import Cell
    from duet.increments.manifest import DetectorManifest
    from duet.increments.store import DetectorFile
    from duet.runs.there import There

EPILOG = """\b
Examples:
  duet eval runs/demo/models/duet-plus/2-comic configs/series/emoji-2phase.yaml \
      --data-root runs/demo/data
  duet eval MODEL photos/data.yaml --domain night
  duet eval MODEL series.yaml --split val --min-map50 0.6
  duet eval MODEL series.yaml --out before.json
  duet eval LATER series.yaml --against before.json --max-drop ap50=5,f1=8
  duet eval best.pt series.yaml
"""


@click.command("eval", epilog=EPILOG)
@click.argument("model", type=PATH, metavar="MODEL")
@click.argument("data", type=PATH, metavar="DATA")
@click.option("--data-root", type=PATH, help="Folder of a series' data.")
@click.option(
    "--domain", metavar="NAME", help="Of a data set: what its images are called [its folder]."
)
@click.option("--split", default="", help="[test if there is one, else val]")
@click.option(
    "--out",
    type=LocalPath(dir_okay=False, path_type=Path),
    help="Also write the JSON, for --against.",
)
@gate_options
@device_option
@trust_option
@json_option
def evaluate(
    model: Path, data: Path, data_root: Path | None, domain: str | None, split: str,
    out: Path | None, device: str, trust: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Evaluate a detector on a series or a data set, per increment and per class.

    MODEL is a detector folder, or a model of another program as `duet import` takes it. DATA is a
    series YAML, a data.yaml or a folder in a format that duet reads; of a series, domains whose
    images are gone are left out. What the increments of MODEL remember stands beside it.
    """
    from duet.families.foreign import open_model
    from duet.files import write_json
    from duet.results.gated import require_place
    from duet.runs import gated
    from duet.runs.cells import evaluate_cells
    from duet.runs.remember import recollect

    gate = gate_of(options)
    if out is not None:
        tell_leftovers(out)
        require_place(out)
    loaded = open_model(model, trust=trust, notify=note)
    there = read_there_told(data, loaded.state.labels.names, data_root, domain)
    memory, lost = recollect(model, loaded.manifest, note), _lost(model, loaded.manifest)
    if gate is not None:
        gate.require_known(there.classes, there.domains)
    before = gated.standings_before(gated.open_before(gate, note), there.series, split, device)
    if before is None:
        before = gated.recollected_standings(memory, loaded.manifest, there)
    cells = evaluate_cells(loaded.state, there.series, split, loaded.manifest.image_size, device)
    kept = [one.cell for one in memory.values()]
    result = {
        "schema": 1,
        "model": str(model),
        "fingerprint": loaded.manifest.fingerprint,
        "cells": [cell.model_dump(mode="json") for cell in cells],
        "remembered": [cell.model_dump(mode="json") for cell in kept],
        "not_remembered": lost,
        "unread": there.reasons,
    }
    if out is not None:
        write_json(out, result)
    verdict = gated.judge_cells(gate, cells, before, there.reasons) if gate is not None else None
    emit_gated(result, verdict, as_json, lambda _: _text(cells, kept))
    _tell_unmeasured(there, loaded, cells)
    _tell_others(cells, kept)
    if verdict is not None:
        verdict.require(model)


def _text(cells: list[Cell], kept: list[Cell]) -> str:
    from duet.report.cells import cells_table, classes_table

    return f"{cells_table(cells, kept).as_text()}\n\n{classes_table(cells, kept).as_text()}"


def _lost(model: Path, manifest: DetectorManifest) -> dict[str, str]:
    """Return the increments that lie elsewhere, and say so: gates compare with their memories."""
    from duet.runs.remember import not_near

    lost = {name: str(place) for name, place in not_near(model, manifest).items()}
    if lost:
        note(
            f"warning: nothing is remembered of {short_list(lost)}: the folders of these "
            "increments were not found, looked for at "
            f"{short_list(dict.fromkeys(lost.values()), limit=5)}; copy the whole run folder, not "
            "the detector alone, or name what was measured before with --against"
        )
    return lost


def _tell_unmeasured(there: There, model: DetectorFile, cells: list[Cell]) -> None:
    for item in there.series.increments:
        if not any(name in model.state.labels for name in item.classes):
            note(f"{item.name}: not measured, the detector knows none of {', '.join(item.classes)}")
    if there.unknown:
        note(f"not measured, the detector does not know them: {', '.join(there.unknown)}")
    for cell in cells:
        if cell.absent:
            note(cell.absent)


def _tell_others(cells: list[Cell], kept: list[Cell]) -> None:
    """Say where what is remembered was seen on other images."""
    older = {(one.domain, one.increment): one for one in kept}
    for cell in cells:
        was = older.get((cell.domain, cell.increment))
        if was is not None and (was.split, was.images) != (cell.split, cell.images):
            note(
                f"{cell.increment}: other images than when it was learned, then {was.images} of "
                f"{was.split} and now {cell.images} of {cell.split}"
            )
