"""`duet export`: a detector as a file that other programs run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from duet.cli.common import (
    NAME_OR_PATH,
    PATH,
    WHOLE,
    emit,
    hint,
    json_option,
    tell_leftovers,
    trust_option,
)
from duet.export.formats import FORMATS
from duet.progress import counted, note

EPILOG = """\b
Examples:
  duet export runs/demo/models/duet-plus/2-comic --to onnx
  duet export MODEL --to openvino --out detector_openvino_model --check photos/
  duet export MODEL --to pt --dry-run --json
  duet export best.pt --to onnx
  duet export --formats
"""


@click.command("export", epilog=EPILOG)
@click.argument("model", type=PATH, metavar="MODEL", required=False)
@click.option("--to", "form", metavar="FORM", help=f"{', '.join(FORMATS)}; see --formats.")
@click.option(
    "--out",
    type=PATH,
    help="File [MODEL/export/model.FORM; of a foreign MODEL ./export/NAME.FORM].",
)
@click.option(
    "--check",
    type=NAME_OR_PATH,
    metavar="IMAGES",
    help="Image, folder or glob to compare outputs on.",
)
@click.option("--dynamic", is_flag=True, help="Take batches of any size [one image].")
@click.option(
    "--device", help="GPU that a TensorRT engine is built for [0]; all other forms: cpu [cpu]."
)
@trust_option
@click.option("--overwrite", is_flag=True, help="Replace an older export.")
@click.option("--dry-run", is_flag=True, help="Check everything, write nothing.")
@click.option("--formats", "--list", "formats", is_flag=True, help="List the formats and stop.")
@json_option
def export(
    model: Path | None, form: str | None, formats: bool, as_json: bool, **options: Any
) -> None:
    """Write a detector as one file and prove that it computes the same.

    MODEL is a detector folder, or a model of another program as `duet import` takes it. The file is
    kept only if its outputs equal the detector's (boxes within 0.001 px, scores within 0.00001;
    OpenVINO: boxes within 0.01 px; more only as far as float32 rounding moves this detector); the
    measured differences go to parity.json beside it.
    """
    if formats:
        _list(as_json)
        return
    if model is None:
        raise click.UsageError("Missing argument 'MODEL'.", click.get_current_context())
    if form is None:
        raise click.UsageError(
            f"Missing option '--to'. Choose from: {', '.join(FORMATS)}.",
            click.get_current_context(),
        )
    _export(model, form, as_json, **options)


def _export(
    model: Path, form: str, as_json: bool, *, out: Path | None, check: str | None, dry_run: bool,
    **options: Any,
) -> None:  # fmt: skip
    from duet.export.model import export_model, target_of
    from duet.families.runtimes import PARITY
    from duet.inference.load import detector_folder
    from duet.inference.sources import find_images

    model = detector_folder(model)
    target = target_of(model, form, out)
    images: Sequence[Path] = ()
    if check is not None:
        found = find_images(check)
        images = found.paths
        if omission := found.omission():
            note(omission)
    tell_leftovers(target, target.parent / PARITY)
    with counted(f"exporting {form}") as step:
        done = export_model(
            model, target, form, images=images, dry_run=dry_run, notify=note, progress=step,
            **options,
        )  # fmt: skip
    result = {"schema": 1, **done.document}
    if done.held:
        emit(result, as_json, _text)
        note(WHOLE.format(target))
    elif dry_run:
        emit(result, as_json, lambda _: f"would write {target} and parity.json")
    else:
        emit(result, as_json, _text)
        hint(*_next(target, form, result["image_size"]))


def _next(target: Path, form: str, image_size: int) -> tuple[str | Path, ...]:
    if form in ("onnx", "torchscript", "openvino"):
        return ("duet", "predict", target, "SOURCE")
    task = () if form == "pt" else ("task=detect",)
    size = f"imgsz={image_size}"
    return ("yolo", "predict", *task, f"model={target}", "source=IMAGES", size)


def _text(result: dict[str, Any]) -> str:
    parity, classes = result["parity"], result["classes"]
    needs = "; loading it needs duet installed" if result["needs_duet"] else ""
    batch = ", any batch" if result["dynamic"] else ""
    side = result["image_size"]
    size = f"{result['bytes'] / 1e6:.1f} MB, {len(classes)} classes, input {side} x {side} px"
    lines = [f"{result['path']}: {size}{batch}{needs}"]
    if parity is None:
        lines.append(f"not compared with the detector: duet cannot run {result['form']} files")
    else:
        lines.append(
            f"same detector: boxes within {parity['max_box_px']:.1e} px, scores within "
            f"{parity['max_score']:.1e} on {parity['images']} images"
        )
        if "tolerance_why" in parity:
            limit = f"{parity['tolerance_box_px']:.2g} px, {parity['tolerance_score']:.2g}"
            lines.append(f"tolerance {limit}: {parity['tolerance_why']}")
        if "lowered" in parity:
            low = parity["lowered"]
            lines.append(
                f"in {low['precision']}, which other programs get from OpenVINO on this machine "
                f"unless they set INFERENCE_PRECISION_HINT: f32, boxes move by up to "
                f"{low['max_box_px']:.2g} px, scores by {low['max_score']:.1e}"
            )
    return "\n".join([*lines, f"licence: {result['licence']}"])


def _list(as_json: bool) -> None:
    rows = [row.as_dict() for row in FORMATS.values()]
    emit({"schema": 1, "formats": rows}, as_json, lambda _: "\n".join(_line(row) for row in rows))


def _line(row: dict[str, Any]) -> str:
    lines = [f"{row['name']:<12} {row['summary']} ({row['suffix']})"]
    if row["needs"]:
        lines.append(f"{'':<12} needs {row['needs']}")
    if row["missing"]:
        lines.append(f"{'':<12} not installed: pip install {row['install']}")
    if row["tolerance_why"]:
        lines.append(
            f"{'':<12} boxes within {row['tolerance_box_px']:g} px: {row['tolerance_why']}"
        )
    if row["tolerance_box_px"] is None:
        lines.append(f"{'':<12} written by the engine; not compared, not run by duet")
    return "\n".join(lines)
