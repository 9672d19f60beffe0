"""Run a detector folder over images; write annotated copies and `predictions.json`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from duet.detections import Detections
from duet.errors import ConfigError, DuetError
from duet.files import atomic_path, read_json, refuse_links, write_json
from duet.images import Image, read_groups, seen_suffix
from duet.inference.annotate import annotate
from duet.inference.detector import LoadedDetector, check_thresholds
from duet.inference.load import detector_folder as detector_folder
from duet.inference.saving import CLASSES, DRAWN, Shot, label_name, open_savers, records
from duet.inference.sources import Source, find_images
from duet.trees import resolved

SCHEMA_VERSION = 1
PREDICTIONS = "predictions.json"
FORMAT = "duet-predictions"

_UNFINISHED = ".duet-unfinished"
"""File of a folder of annotated copies that are not all there: the same command goes on."""

Step = Callable[[int, int], None]
"""Called with images done and images in all."""

_WRITTEN = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of images whose annotated copies keep the format."""

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


def predict_source(
    detector: LoadedDetector,
    source: Path | str | Source,
    *,
    confidence: float = 0.25,
    iou: float = 0.7,
    out: Path | None = None,
    tell: bool = False,
    progress: Step | None = None,
) -> list[ImageResult]:
    """Detect objects in every image of a source.

    Args:
        detector: What `duet.load` returned.
        source: An image, a folder or a glob (see `find_images`), or what `find_images` returned.
        confidence: Only detections that score above it, ``[0, 1]``.
        iou: Boxes of one class that overlap more are one object, ``[0, 1]``.
        out: Folder for annotated copies and `predictions.json`; nothing is written without it.
        tell: Write the increment of its class at each box.
        progress: Called after each group of images.

    Raises:
        ConfigError: A threshold is out of range, or ``out`` would overwrite images of the source.
        DataError: Images are missing or damaged: all are named before anything is detected.
        DuetError: ``out`` cannot be written, or holds files that are not predictions.
    """
    check_thresholds(confidence, iou)
    images = source if isinstance(source, Source) else find_images(source)
    if out is not None:
        check_out(out, images)
        make_out(out)
        (out / _UNFINISHED).touch()
        (out / PREDICTIONS).unlink(missing_ok=True)  # of older copies than those that now come
    results: list[ImageResult] = []
    for group, pictures in read_groups(images.paths, _GROUP):
        results += _predict_group(detector, images, group, pictures, confidence, iou, out, tell)
        if progress is not None:
            progress(len(results), len(images.paths))
    if out is not None:
        document = predictions(detector, results, confidence=confidence, iou=iou)
        write_json(out / PREDICTIONS, document)
        (out / _UNFINISHED).unlink()
    return results


def predictions(
    detector: LoadedDetector, results: Sequence[ImageResult], *, confidence: float, iou: float
) -> dict[str, Any]:
    """Return the content of `predictions.json`."""
    classes = [
        {"name": name, "increment": increment}
        for increment, names in detector.facts.increments
        for name in names
    ]
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "model": detector.facts.fingerprint,
        "licence": detector.facts.licence,
        "classes": classes,
        "confidence": confidence,
        "iou": iou,
        "image_size": detector.facts.image_size,
        "boxes": "xyxy, pixels of the original upright image",
        "images": [result.as_record() for result in results],
    }


def save_results(
    results: Sequence[ImageResult],
    detector: LoadedDetector,
    formats: Sequence[str],
    out: Path | None,
    *,
    lines: IO[str] | None = None,
) -> None:
    """Write detections of images as ``txt``, ``coco`` or ``jsonl`` (annotated copies exist).

    Args:
        results: What `predict_source` returned.
        detector: What found them.
        formats: Of `duet.inference.saving.FORMATS`.
        out: Folder; None writes nothing but ``lines``.
        lines: Where ``jsonl`` goes if not into a file.

    Raises:
        ConfigError: Two images would share one label file.
    """
    formats = [name for name in formats if name not in DRAWN]
    _refuse_shared([result.name for result in results], formats)
    savers = open_savers(formats, out, detector, lines=lines)
    for result in results:
        name = result.name.as_posix()
        for saver in savers:
            saver.add(Shot(name, result.width, result.height, result.detections))
    for saver in savers:
        saver.close()


def copy_name(name: Path) -> Path:
    """Return the name of an annotated copy: the image's own, but ``x.avif.png`` of ``x.avif``.

    OpenCV does not write every format that it reads, and some only with losses that show.
    """
    return name if name.suffix.lower() in _WRITTEN else Path(f"{name}{seen_suffix(name)}")


def check_out(out: Path, source: Source, formats: Sequence[str] = ()) -> None:
    """Refuse a folder for annotated images that holds anything else; writes nothing.

    Args:
        out: Folder for results; need not exist.
        source: The images.
        formats: What `save_results` will be asked for.

    Raises:
        ConfigError: ``out`` is the folder of the source, copies would replace its images, or two
            images would share a file of results.
        DuetError: ``out`` holds files that are not predictions.
    """
    names = [source.name_of(path) for path in source.paths]
    _refuse_shared(names, formats)
    originals = {resolved(path) for path in source.paths}
    copies = {resolved(out / copy_name(name)) for name in names}
    if resolved(out) in {path.parent for path in originals} or originals & copies:
        raise ConfigError(
            "annotated images would overwrite or join the originals",
            where=str(out),
            remedy="choose a folder of its own for --out",
        )
    if out.is_dir() and any(out.iterdir()) and not _is_ours(out):
        raise DuetError(
            "already exists and does not hold predictions of duet",
            where=str(out),
            remedy="choose another folder or remove this one first",
        )


def _refuse_shared(names: Sequence[Path], formats: Sequence[str]) -> None:
    """Refuse images of which two would share a file of results.

    Raises:
        ConfigError: Two do; both are named.
    """
    kinds: list[tuple[str, Callable[[Path], Path], dict[Path, str]]] = [("--out", copy_name, {})]
    if "txt" in formats:
        kinds.append(("--save txt", label_name, {Path(CLASSES): "the list of classes"}))
    for where, place, taken in kinds:
        for name in names:
            if (file := place(name)) in taken:
                raise ConfigError(
                    f"'{name}' and {taken[file]} would share the file '{file}'",
                    where=where,
                    remedy="rename the image"
                    + (", or use --save coco" if where != "--out" else ""),
                )
            taken[file] = f"'{name}'"


def make_out(out: Path) -> None:
    """Make the folder and write to it once: a refusal must not come after an hour of detecting.

    Raises:
        DuetError: The file system refuses, or a folder in it is a link.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        refuse_links(out, [entry.name for entry in out.iterdir() if entry.is_dir()])
        with tempfile.NamedTemporaryFile(dir=out):
            pass
    except OSError as error:
        raise DuetError(
            f"cannot write: {error.strerror or error}",
            where=str(out),
            remedy="choose another folder for --out; nothing was detected yet",
        ) from error


def _is_ours(out: Path) -> bool:
    if (out / _UNFINISHED).is_file():
        return True
    try:
        return bool(read_json(out / PREDICTIONS).get("format") == FORMAT)
    except DuetError:
        return False


def _predict_group(
    detector: LoadedDetector,
    source: Source,
    paths: Sequence[Path],
    pictures: Sequence[Image],
    confidence: float,
    iou: float,
    out: Path | None,
    tell: bool,
) -> list[ImageResult]:
    found = detector.many(pictures, confidence=confidence, iou=iou)
    results = []
    for path, picture, detections in zip(paths, pictures, found, strict=True):
        height, width = picture.shape[:2]
        name = source.name_of(path)
        results.append(ImageResult(path, name, width, height, detections, detector.increments))
        if out is not None:
            drawn = annotate(picture, detections, detector.increments, tell=tell)
            write_image(out / copy_name(name), drawn)
    return results


def write_image(target: Path, image_BGR: Image) -> None:
    """Write an image atomically in the format of its suffix.

    Raises:
        DuetError: The file system refuses the write.
    """
    import cv2

    with atomic_path(target) as temporary:
        done, encoded = cv2.imencode(target.suffix.lower(), image_BGR)
        if not done:
            raise DuetError(f"cannot encode an image as {target.suffix}", where=str(target))
        temporary.write_bytes(encoded.tobytes())
