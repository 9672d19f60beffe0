"""`duet export`: a detector as a file that other programs run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import counting, emit, json_option, note

if TYPE_CHECKING:
    from duet.increments.store import DetectorFile

EPILOG = """\b
Examples:
  duet export runs/demo/models/duet-plus/2-comic --to pt
  duet export MODEL --to onnx --out detector.onnx --check photos/
  duet export MODEL --to onnx --dry-run --json
"""


@click.command("export", epilog=EPILOG)
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")
@click.option(
    "--to",
    "form",
    type=click.Choice(["pt", "onnx"]),
    required=True,
    help="pt: Ultralytics checkpoint; onnx: one graph.",
)
@click.option("--out", type=click.Path(path_type=Path), help="File [MODEL/export/model.pt|onnx].")
@click.option("--check", metavar="IMAGES", help="Image, folder or glob to compare outputs on.")
@click.option("--overwrite", is_flag=True, help="Replace an older export.")
@click.option("--dry-run", is_flag=True, help="Check everything, write nothing.")
@json_option
def export(
    model: Path, form: str, out: Path | None, check: str | None, overwrite: bool, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Write a detector as one file and prove that it computes the same.

    The file is kept only if its outputs equal the detector's (boxes within 0.001 px, scores within
    0.00001); the measured differences go to parity.json beside it.
    """
    from duet.export.export import check_export, export_detector
    from duet.inference.predict import detector_folder
    from duet.inference.sources import find_images

    folder = detector_folder(model)
    target = out if out is not None else folder / "export" / f"model.{form}"
    detector = check_export(folder, target, form, overwrite=overwrite)
    images = find_images(check).paths if check is not None else ()
    if dry_run:
        plan = _plan(detector, target, form, len(images))
        emit(plan, as_json, lambda: f"would write {target} and parity.json; nothing was written")
        return
    with counting(f"exporting {form}") as step:
        report = export_detector(
            folder, target, form, images=images, overwrite=overwrite, progress=step
        )
    result = {"schema": 1, "path": str(target), **report.as_dict()}
    emit(result, as_json, lambda: _text(result))
    if form == "pt":
        note(f"next: yolo predict model={target} source=IMAGES imgsz={report.image_size}")
    else:
        note(f"next: load {target} with ONNX Runtime; class names are in its metadata")


def _plan(detector: DetectorFile, target: Path, form: str, images: int) -> dict[str, Any]:
    return {
        "schema": 1,
        "dry_run": True,
        "path": str(target),
        "form": form,
        "model": detector.manifest.fingerprint,
        "image_size": detector.manifest.image_size,
        "classes": list(detector.state.labels),
        "check_images": images,
    }


def _text(result: dict[str, Any]) -> str:
    parity, classes = result["parity"], result["classes"]
    needs = "; loading it needs duet installed" if result["needs_duet"] else ""
    return (
        f"{result['path']}: {result['bytes'] / 1e6:.1f} MB, {len(classes)} classes, "
        f"input {result['image_size']} x {result['image_size']} px{needs}\n"
        f"same detector: boxes within {parity['max_box_px']:.1e} px, scores within "
        f"{parity['max_score']:.1e} on {parity['images']} images\n"
        f"licence: {result['licence']}"
    )
