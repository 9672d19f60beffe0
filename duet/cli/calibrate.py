"""`duet calibrate`: scores that mean something, and a threshold per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import (
    NAME_OR_PATH,
    PATH,
    device_option,
    emit,
    hint,
    json_option,
    read_there_told,
    require_place,
    trust_option,
    writing,
)
from duet.progress import note

if TYPE_CHECKING:
    from duet.runs.recalibrate import Calibrated

EPILOG = """\b
Examples:
  duet calibrate MODEL --series series.yaml --out runs/calibrated
  duet calibrate MODEL --series shop/data.yaml --out runs/calibrated
  duet calibrate MODEL --images photos/ --out runs/calibrated
  duet calibrate MODEL --series series.yaml --precision 0.9 --out runs/calibrated
"""


@click.command("calibrate", epilog=EPILOG)
@click.argument("model", type=PATH, metavar="MODEL")
@click.option(
    "--series",
    type=PATH,
    help="Labelled images: a series, of each increment for its own classes, or a data set.",
)
@click.option("--split", default="val", show_default=True, help="Of the labelled images.")
@click.option("--data-root", type=PATH, help="Folder of a series' data.")
@click.option("--images", type=NAME_OR_PATH, help="Without labels: a folder, an image or a glob.")
@click.option(
    "--before", type=PATH, help="Earlier detector, for --images [MODEL less its last increment]."
)
@click.option(
    "--precision", type=click.FloatRange(0, 1, min_open=True),
    help="Share of what is shown that is to be right [thresholds of the best F1].",
)  # fmt: skip
@click.option("--out", type=PATH, required=True, help="Detector folder.")
@click.option("--overwrite", is_flag=True, help="Replace an older detector in --out.")
@device_option
@trust_option
@json_option
def calibrate(
    model: Path, out: Path, overwrite: bool, trust: bool, as_json: bool, **options: Any
) -> None:
    """Make the scores of MODEL mean something: a map and a threshold per class.

    Weights, the order of detections and AP stay as they are. With labels (--series), scores become
    the share of detections that are right. Without (--images), the scores of older classes are
    brought back to those of the detector before the last increment.
    """
    from duet.families.foreign import open_model
    from duet.increments.manifest import MANIFEST
    from duet.increments.store import load_traces, save_detector
    from duet.recipes.model import Model
    from duet.runs.recalibrate import recalibrate

    require_place(out, overwrite=overwrite)
    series, data_root = options.pop("series"), options.pop("data_root")
    loaded = open_model(model, trust=trust, notify=note)
    there = None
    if series is not None:
        there = read_there_told(series, loaded.state.labels.names, data_root)
    traces = load_traces(model) if (model / MANIFEST).is_file() else ()
    found = Model(loaded, model, True, traces)
    made = recalibrate(found, out, series=there.series if there else None, **options)
    with writing(out, overwrite=overwrite):
        manifest = save_detector(
            out, made.model.state, made.model.manifest, traces=made.model.traces,
            overwrite=overwrite,
        )  # fmt: skip
    _tell(made, there.unknown if there else (), options["precision"])
    result = {
        "schema": 1,
        "detector": str(out),
        "fingerprint": manifest.fingerprint,
        "scores": {name: one.model_dump() for name, one in made.scores.items()},
        "unfitted": list(made.unfitted),
        "short": dict(made.short),
    }
    emit(result, as_json, _text)
    hint("duet", "predict", out, "IMAGES")


def _tell(made: Calibrated, unknown: Sequence[str], precision: float | None) -> None:
    """Say which classes were not calibrated, or not as was asked."""
    for name in made.unfitted:
        note(f"warning: {name}: not found on these images, its scores stay as they are")
    every = made.model.state.labels
    others = [name for name in every if name not in made.scores and name not in made.unfitted]
    if others:
        note(f"not looked for, their scores stay as they are: {', '.join(others)}")
    if unknown:
        note(f"not calibrated, the detector does not know them: {', '.join(unknown)}")
    for name, share in made.short.items():
        note(
            f"warning: {name}: {share:.1%} of what its threshold shows is right on these images, "
            f"less than the {precision:.1%} asked for"
        )


def _text(result: dict[str, Any]) -> str:
    if not result["scores"]:
        return f"no class was calibrated\n-> {result['detector']}"
    width = max((len(name) for name in result["scores"]), default=5)
    lines = [f"{'class':<{width}}  threshold   scale  offset"]
    for name, one in result["scores"].items():
        threshold = f"{one['threshold']:.3f}" if one["threshold"] is not None else "0.25"
        lines.append(f"{name:<{width}}  {threshold:>9}  {one['scale']:6.3f}  {one['offset']:+6.3f}")
    return "\n".join([*lines, f"-> {result['detector']}"])
