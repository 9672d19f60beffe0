"""Run a detector over images; write annotated copies, `predictions.json` and other formats."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from duet.defaults import AGNOSTIC, IOU, Agnostic
from duet.detections import Detections
from duet.errors import DataError, together
from duet.files import write_json
from duet.images import Image, read_groups, write_image
from duet.inference.annotate import annotate
from duet.inference.detector import LoadedDetector, Model, opened
from duet.inference.options import Notify, check_looking
from duet.inference.outputs import FORMAT, PREDICTIONS, UNFINISHED, check_out, copy_name, make_out
from duet.inference.savers.base import Shot, records
from duet.inference.savers.table import SAVERS, open_savers
from duet.inference.sources import Source, find_images
from duet.series.images import Verify, read_sound

SCHEMA_VERSION = 1

Step = Callable[[int, int], None]
"""Called with images done and images in all."""

_GROUP = 8  # images held in memory at a time


@dataclass(frozen=True)
class ImageResult:
    """What was found in one image.

    Attributes:
        image: Path of the image.
        name: The path relative to the source, see `copy_name`.
        width: Pixels of the upright image.
        height: Pixels of the upright image.
        detections: Boxes in pixels of that image.
        increments: Increment of each class of ``detections.labels``.
    """

    image: Path
    name: Path
    width: int
    height: int
    detections: Detections
    increments: tuple[str, ...]

    def as_record(self) -> dict[str, object]:
        """Return JSON-ready data; boxes are xyxy in pixels of the original image."""
        return {
            "image": str(self.image),
            "name": self.name.as_posix(),
            "width": self.width,
            "height": self.height,
            "detections": records(self.detections, self.increments),
        }


@dataclass(frozen=True)
class Predicted:
    """What was found in the images of a source.

    Attributes:
        detector: What looked.
        confidence: Lowest score that counted; None: see `LoadedDetector.thresholds`.
        iou: Overlap from which two boxes of a class were one object.
        agnostic: Which classes suppressed each other.
        results: Of every image that could be read, in order.
        damaged: Why each of the others could not be read.
    """

    detector: LoadedDetector
    confidence: float | None
    iou: float
    agnostic: Agnostic
    results: list[ImageResult] = field(default_factory=list)
    damaged: dict[Path, DataError] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of `predictions.json`."""
        facts, thresholds = self.detector.facts, self.detector.thresholds(self.confidence)
        classes = [
            {"name": name, "increment": increment}
            for increment, names in facts.increments
            for name in names
        ]
        found: dict[str, Any] = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "model": facts.fingerprint,
            "licence": facts.licence,
            "classes": classes,
            "confidence": min(thresholds.values()),
            "thresholds": thresholds,
            "iou": self.iou,
            "agnostic_nms": self.agnostic,
            "image_size": facts.image_size,
            "runtime": self.detector.runtime,
            "boxes": "xyxy, pixels of the original upright image",
            "images": [result.as_record() for result in self.results],
        }
        if self.damaged:
            found["damaged"] = [
                {"image": str(path), "reason": error.what} for path, error in self.damaged.items()
            ]
        return found

    def require_all(self) -> None:
        """Check that every image was looked at.

        Raises:
            DataError: Some are damaged; all are named.
        """
        if self.damaged:
            problems = [f"{path}: {error.what}" for path, error in self.damaged.items()]
            done = f"the other {len(self.results)} are done" if self.results else "nothing is done"
            raise DataError(
                together(problems, summary="some images cannot be read"),
                remedy=f"replace or remove them; {done}",
            )


def plan_source(
    model: Model,
    source: Path | str,
    *,
    out: Path | None = None,
    formats: Sequence[str] = (),
    notify: Notify | None = None,
) -> tuple[LoadedDetector, Source]:
    """Check all that `predict_source` needs, and every image to its end; nothing is written.

    Raises:
        ConfigError: As `predict_source`.
        DataError: As there, or an image is damaged: all are named.
        DuetError: As there.
    """
    images = _checked(source, out, formats, "full", notify)
    return opened(model), images


def predict_source(
    model: Model,
    source: Path | str,
    *,
    confidence: float | None = None,
    iou: float = IOU,
    agnostic: Agnostic = AGNOSTIC,
    out: Path | None = None,
    formats: Sequence[str] = (),
    lines: IO[str] | None = None,
    tell: bool = False,
    progress: Step | None = None,
    notify: Notify | None = None,
) -> Predicted:
    """Detect objects in every image of a source; each file is read and decoded once.

    An image that turns out to be damaged is left out and told (`Predicted.damaged`): one bad file
    must not cost the night in which thousands of good ones were looked at.

    Args:
        model: What `duet.load` returned, or what opens it once all else is checked.
        source: An image, a folder or a glob, see `find_images`.
        confidence: Only detections that score above it, ``[0, 1]``; None: above the detector's own
            thresholds, see `LoadedDetector.thresholds`.
        iou: Boxes of one class that overlap more are one object, ``[0, 1]``.
        agnostic: Which classes suppress each other's boxes, see `LoadedDetector`.
        out: Folder for annotated copies and `predictions.json`; nothing is written without it.
        formats: Of `duet.inference.savers.table.SAVERS`, written beside them.
        lines: Where ``jsonl`` goes in place of a file.
        tell: Write the increment of its class at each box.
        progress: Called after each group of images.
        notify: Called with one line about pictures of kinds that are not read.

    Raises:
        ConfigError: A threshold is out of range, ``out`` would overwrite images of the source, or
            two results would share a file.
        DataError: Images are missing, of no kind that is read, or all damaged: nothing is written.
        DuetError: ``out`` cannot be written, or holds files that are not predictions.
    """
    check_looking(confidence, iou, agnostic)
    # What kind of files these are takes a second for thousands, and tells most mistakes.
    images = _checked(source, out, formats, "kind", notify)
    predicted = Predicted(opened(model), confidence, iou, agnostic)
    _detect(predicted, images, out, tell, progress)
    if not predicted.results:
        predicted.require_all()
    _save(predicted, out, formats, lines)
    return predicted


def _checked(
    source: Path | str, out: Path | None, formats: Sequence[str], verify: Verify,
    notify: Notify | None,
) -> Source:  # fmt: skip
    images = find_images(source, verify=verify)
    if notify is not None and (omission := images.omission()):
        notify(omission)
    if out is not None:
        check_out(out, images, formats)
    return images


def _detect(
    predicted: Predicted, images: Source, out: Path | None, tell: bool, progress: Step | None
) -> None:
    """Look at every image that can be read, and write its annotated copy."""
    detector, results, damaged = predicted.detector, predicted.results, predicted.damaged
    groups = read_groups(images.paths, _GROUP, read_sound, damaged.__setitem__)
    with ThreadPoolExecutor(1) as pool, contextlib.closing(groups):
        writing: list[Future[None]] = []
        for group, pictures in groups:
            if out is not None and not results:  # nothing is left where no image can be read
                _begin(out)
            found = detector.many(
                pictures, confidence=predicted.confidence, iou=predicted.iou,
                agnostic=predicted.agnostic,
            )  # fmt: skip
            _finish(writing)  # of the group before: never more than two are in memory
            for path, picture, detections in zip(group, pictures, found, strict=True):
                (height, width), name = picture.shape[:2], images.name_of(path)
                result = ImageResult(path, name, width, height, detections, detector.increments)
                results.append(result)
                if out is not None:
                    writing.append(pool.submit(_draw, out, result, picture, tell))
            if progress is not None:
                progress(len(results) + len(damaged), len(images.paths))
        _finish(writing)


def _finish(writing: list[Future[None]]) -> None:
    """Wait for the copies that are being written; errors are those of `write_image`."""
    for one in writing:
        one.result()
    writing.clear()


def _draw(out: Path, result: ImageResult, picture: Image, tell: bool) -> None:
    drawn = annotate(picture, result.detections, result.increments, tell=tell)
    write_image(out / copy_name(result.name), drawn)


def _begin(out: Path) -> None:
    make_out(out)
    (out / UNFINISHED).touch()
    (out / PREDICTIONS).unlink(missing_ok=True)  # of older copies than those that now come


def _save(
    predicted: Predicted, out: Path | None, formats: Sequence[str], lines: IO[str] | None
) -> None:
    """Write `predictions.json` and the formats asked for; the annotated copies are there."""
    if out is not None:
        write_json(out / PREDICTIONS, predicted.as_dict())
    texts = [name for name in formats if not SAVERS.find(name).drawn]
    savers = open_savers(texts, out, predicted.detector, lines=lines)
    for result in predicted.results:
        name = result.name.as_posix()
        for saver in savers:
            saver.add(Shot(name, result.width, result.height, result.detections))
    for saver in savers:
        saver.close()
    if out is not None:
        (out / UNFINISHED).unlink()
