"""`duet predict`: detect objects in images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import counting, emit, json_option, note

if TYPE_CHECKING:
    from duet.inference.predict import ImageResult, LoadedDetector

EPILOG = """\b
Examples:
  duet predict runs/demo/models/duet-plus/2-comic photo.jpg
  duet predict MODEL photos/ --out found/ --conf 0.4
  duet predict MODEL 'shop/*/*.png' --json | jq '.images[].detections'
"""

_LISTED = 20  # images that the summary names one by one


@click.command("predict", epilog=EPILOG)
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")
@click.argument("source", metavar="SOURCE")
@click.option(
    "--conf",
    type=click.FloatRange(0, 1),
    default=0.25,
    show_default=True,
    help="Lowest score that counts.",
)
@click.option(
    "--iou",
    type=click.FloatRange(0, 1),
    default=0.7,
    show_default=True,
    help="Boxes of one class that overlap more are one object.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for annotated images.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 or mps.")
@click.option("--dry-run", is_flag=True, help="Check everything, detect nothing.")
@json_option
def predict(
    model: Path, source: str, conf: float, iou: float, out: Path | None, device: str,
    dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Detect objects in an image, a folder or a quoted glob.

    With --out, annotated copies and predictions.json are written there; originals are never
    changed. Boxes are left, top, right, bottom in pixels of the original image.
    """
    from duet.inference.predict import check_out, load_detector, predict_source, predictions
    from duet.inference.sources import find_images

    images = find_images(source)
    if out is not None:
        check_out(out, images)
    detector = load_detector(model, device)
    if dry_run:
        plan = {
            "schema": 1,
            "dry_run": True,
            "model": detector.manifest.fingerprint,
            "images": [str(path) for path in images.paths],
            "out": None if out is None else str(out),
        }
        count = len(images.paths)
        emit(plan, as_json, lambda: f"would look at {_number(count, 'image')}; nothing was done")
        return
    with counting("detecting") as step:
        results = predict_source(detector, images, confidence=conf, iou=iou, out=out, progress=step)
    document = predictions(detector, results, confidence=conf, iou=iou)
    emit({"schema": 1, **document}, as_json, lambda: _text(detector, results))
    if out is None:
        note("next: add --out DIR for annotated images")
    else:
        note(f"written: {out} (annotated images, predictions.json)")
        note(f"next: duet export {model} --to onnx")


def _text(detector: LoadedDetector, results: Sequence[ImageResult]) -> str:
    """Return one line per image (of a few) and one per class found."""
    lines = [f"{r.image}: {_found(r)}" for r in results[:_LISTED]]
    if len(results) > _LISTED:
        lines.append(f"... and {len(results) - _LISTED} more images (--json lists all)")
    counts = Counter(name for result in results for name in result.detections.names)
    total = sum(counts.values())
    lines.append(f"{_number(total, 'object')} in {_number(len(results), 'image')}")
    for part in detector.manifest.parts:
        found = [f"{counts[name]} {name}" for name in part.classes if counts[name]]
        if found:
            lines.append(f"  {part.increment}: {', '.join(found)}")
    return "\n".join(lines)


def _found(result: ImageResult) -> str:
    pairs: list[Any] = list(zip(result.detections.names, result.detections.scores, strict=True))
    shown = ", ".join(f"{name} {score:.2f}" for name, score in pairs[:5])
    rest = f", and {len(pairs) - 5} more" if len(pairs) > 5 else ""
    return (shown or "nothing found") + rest


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
