"""Run a detector folder over images; write annotated copies and `predictions.json`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duet.detections import Detections
from duet.errors import ConfigError, DuetError
from duet.files import atomic_path, write_json
from duet.images import Image, read_image
from duet.inference.annotate import annotate
from duet.inference.sources import Source, find_images

if TYPE_CHECKING:
    from duet.families.protocol import Detector
    from duet.increments.manifest import DetectorManifest

SCHEMA_VERSION = 1
PREDICTIONS = "predictions.json"
FORMAT = "duet-predictions"

Step = Callable[[int, int], None]
"""Called with images done and images in all."""

_GROUP = 8  # images held in memory at a time


@dataclass(frozen=True)
class LoadedDetector:
    """A detector folder, ready to look at images.

    Attributes:
        detector: The detector itself.
        manifest: Where it comes from.
        increments: Increment of each class, in the order of the detector's classes.
    """

    detector: Detector
    manifest: DetectorManifest
    increments: tuple[str, ...]


@dataclass(frozen=True)
class ImageResult:
    """What was found in one image.

    Attributes:
        image: Path of the image.
        name: The path relative to the source: the name of the annotated copy.
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
        objects = [
            {**record, "increment": self.increments[class_id]}
            for record, class_id in zip(
                self.detections.as_records(), self.detections.class_ids, strict=True
            )
        ]
        return {
            "image": str(self.image),
            "name": self.name.as_posix(),
            "width": self.width,
            "height": self.height,
            "detections": objects,
        }


def load_detector(model: Path, device: str = "cpu") -> LoadedDetector:
    """Build a detector from its folder.

    Args:
        model: The folder, or a file in it.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.

    Raises:
        ModelError: The folder is missing, incomplete or damaged.
        ConfigError: There is no such device.
    """
    from duet.families.table import resolve_family
    from duet.increments import store

    file = store.load_detector(detector_folder(model))
    check_device(device)
    family = resolve_family(file.state.family)
    detector = family.detector(file.state, image_size=file.manifest.image_size, device=device)
    owners = [part.increment for part in file.state.parts for _ in part.classes]
    return LoadedDetector(detector, file.manifest, tuple(owners))


def detector_folder(model: Path) -> Path:
    """Return the detector folder that ``model`` names: itself, or the folder of a file of it."""
    inside = model.is_file() and (model.parent / "manifest.json").is_file()
    return model.parent if inside else model


def check_device(device: str) -> None:
    """Check that torch can use a device.

    Raises:
        ConfigError: It cannot.
    """
    import torch

    try:
        torch.empty(0, device=torch.device(device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"cannot use device '{device}': {reason}",
            where="--device",
            remedy="cpu works everywhere; cuda or mps need the hardware and a torch built for it",
        ) from None


def predict_source(
    detector: LoadedDetector,
    source: Path | str | Source,
    *,
    confidence: float = 0.25,
    iou: float = 0.7,
    out: Path | None = None,
    progress: Step | None = None,
) -> list[ImageResult]:
    """Detect objects in every image of a source.

    Args:
        detector: What `load_detector` returned.
        source: An image, a folder or a glob (see `find_images`), or what `find_images` returned.
        confidence: Only detections that score above it, ``[0, 1]``.
        iou: Boxes of one class that overlap more are one object, ``[0, 1]``.
        out: Folder for annotated copies and `predictions.json`; nothing is written without it.
        progress: Called after each group of images.

    Raises:
        ConfigError: A threshold is out of range, or ``out`` would overwrite images of the source.
        DataError: Images are missing or damaged: all are named before anything is detected.
        DuetError: ``out`` cannot be written, or holds files that are not predictions.
    """
    for key, value in (("confidence", confidence), ("iou", iou)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{key} must be in [0, 1], but got {value}", where=key)
    images = source if isinstance(source, Source) else find_images(source)
    if out is not None:
        check_out(out, images)
        _make_out(out)
    results: list[ImageResult] = []
    for start in range(0, len(images.paths), _GROUP):
        group = images.paths[start : start + _GROUP]
        results += _predict_group(detector, images, group, confidence, iou, out)
        if progress is not None:
            progress(len(results), len(images.paths))
    if out is not None:
        document = predictions(detector, results, confidence=confidence, iou=iou)
        write_json(out / PREDICTIONS, document)
    return results


def predictions(
    detector: LoadedDetector, results: Sequence[ImageResult], *, confidence: float, iou: float
) -> dict[str, Any]:
    """Return the content of `predictions.json`."""
    classes = [
        {"name": name, "increment": part.increment}
        for part in detector.manifest.parts
        for name in part.classes
    ]
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "model": detector.manifest.fingerprint,
        "licence": detector.manifest.licence,
        "classes": classes,
        "confidence": confidence,
        "iou": iou,
        "image_size": detector.manifest.image_size,
        "boxes": "xyxy, pixels of the original upright image",
        "images": [result.as_record() for result in results],
    }


def check_out(out: Path, source: Source) -> None:
    """Refuse a folder for annotated images that holds anything else; writes nothing.

    Raises:
        ConfigError: ``out`` is the folder of the source, or copies would replace its images.
        DuetError: ``out`` holds files that are not predictions.
    """
    originals = {path.resolve() for path in source.paths}
    copies = {(out / source.name_of(path)).resolve() for path in source.paths}
    if out.resolve() in {path.parent for path in originals} or originals & copies:
        raise ConfigError(
            "annotated images would overwrite or join the originals",
            where=str(out),
            remedy="choose a folder of its own for --out",
        )
    if out.is_dir() and any(out.iterdir()) and not _is_ours(out / PREDICTIONS):
        raise DuetError(
            "already exists and does not hold predictions of duet",
            where=str(out),
            remedy="choose another folder or remove this one first",
        )


def _make_out(out: Path) -> None:
    """Make the folder and write to it once: a refusal must not come after an hour of detecting."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out):
            pass
    except OSError as error:
        raise DuetError(
            f"cannot write: {error.strerror or error}",
            where=str(out),
            remedy="choose another folder for --out; nothing was detected yet",
        ) from error


def _is_ours(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("format") == FORMAT)
    except (OSError, ValueError, AttributeError):
        return False


def _predict_group(
    detector: LoadedDetector,
    source: Source,
    paths: Sequence[Path],
    confidence: float,
    iou: float,
    out: Path | None,
) -> list[ImageResult]:
    pictures = [read_image(path) for path in paths]
    found = detector.detector(pictures, confidence=confidence, iou=iou)
    results = []
    for path, picture, detections in zip(paths, pictures, found, strict=True):
        height, width = picture.shape[:2]
        name = source.name_of(path)
        results.append(ImageResult(path, name, width, height, detections, detector.increments))
        if out is not None:
            write_image(out / name, annotate(picture, detections, detector.increments))
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
