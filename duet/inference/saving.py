"""Keep detections: text files as YOLO and COCO know them, one JSON line per frame, pictures.

Every format is written while the source runs, and what is written stays readable if the process is
killed; only `coco.json` is one document and appears when the source ends.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from duet.detections import Detections
from duet.errors import DuetError
from duet.files import atomic_path, vacated, write_text
from duet.images import Image
from duet.inference.detector import LoadedDetector
from duet.inference.tracking import NO_TRACK, TrackedDetections
from duet.text import printable

FORMATS = ("video", "frames", "txt", "coco", "jsonl")
DRAWN = ("video", "frames")
"""Formats that need the drawn picture."""

VIDEO, FRAMES, LABELS, COCO, JSONL = (
    "video.mp4",
    "frames",
    "labels",
    "coco.json",
    "detections.jsonl",
)

CLASSES = "classes.txt"
"""Beside the label files: the names of the classes."""

_IN_MEMORY = 1 << 24  # bytes of COCO entries before they move to a temporary file


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture and what was found in it.

    Attributes:
        name: File name of an image, or number of a frame; names files of results.
        width: Pixels.
        height: Pixels.
        detections: Boxes in pixels of the picture.
        drawn: ``(H, W, 3)`` uint8 BGR with the boxes on it, if a format needs it.
        index: Number of the frame in its source; None for an image.
        time: Seconds since the first frame; None for an image.
        dropped: Frames skipped before this one.
    """

    name: str
    width: int
    height: int
    detections: Detections
    drawn: Image | None = None
    index: int | None = None
    time: float | None = None
    dropped: int = 0


class Saver(Protocol):
    """One format."""

    def add(self, shot: Shot) -> None:
        """Write one picture's part."""
        ...

    def close(self) -> None:
        """Finish the files."""
        ...


def records(detections: Detections, increments: Sequence[str]) -> list[dict[str, object]]:
    """Return JSON-ready records ``{name, score, xyxy, increment}``, with ``track`` if tracked."""
    pairs = zip(detections.as_records(), detections.class_ids, strict=True)
    return [{**record, "increment": increments[class_id]} for record, class_id in pairs]


class JsonLines:
    """One line per frame, written through at once.

    Args:
        target: File to create, or an open text stream (left open).
        increments: Increment of each class.
    """

    def __init__(self, target: Path | IO[str], increments: Sequence[str]) -> None:
        self._own = isinstance(target, Path)
        self._stream = (
            vacated(target).open("x", encoding="utf-8") if isinstance(target, Path) else target
        )
        self._increments = increments

    def add(self, shot: Shot) -> None:
        """Write a line."""
        where: dict[str, Any] = {"image": shot.name}
        if shot.index is not None and shot.time is not None:
            where = {"frame": shot.index, "time": round(shot.time, 6), "dropped": shot.dropped}
        where |= {"width": shot.width, "height": shot.height}
        line = {**where, "detections": records(shot.detections, self._increments)}
        self._stream.write(json.dumps(line, allow_nan=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        if self._own:
            self._stream.close()


def label_name(name: Path) -> Path:
    """Return the name of the label file of a picture called ``name``."""
    return name.with_suffix(".txt")


class YoloText:
    """One text file per picture: ``class cx cy w h score [track]``, relative to the picture.

    Args:
        folder: Gets one file per picture, and `CLASSES`.
        classes: Class names in order.
    """

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self._folder = folder
        # One name a line: one that holds a line end is written with an escape instead.
        lines = (n if len(n.splitlines()) == 1 else printable(n) for n in classes)
        write_text(folder / CLASSES, "".join(f"{line}\n" for line in lines))

    def add(self, shot: Shot) -> None:
        """Write a file; an empty one where nothing was found."""
        found = shot.detections
        tracks = found.track_ids if isinstance(found, TrackedDetections) else None
        left, top, right, bottom = found.xyxy.T.astype(np.float64)
        size = np.array([shot.width, shot.height] * 2)
        boxes = np.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], 1)
        lines = []
        for row, box in enumerate(boxes / size):
            numbers = " ".join(f"{value:.6f}" for value in (*box, found.scores[row]))
            number = "" if tracks is None or tracks[row] == NO_TRACK else f" {tracks[row]}"
            lines.append(f"{found.class_ids[row]} {numbers}{number}\n")
        target = self._folder / label_name(Path(shot.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        with vacated(target).open("x", encoding="utf-8") as stream:
            stream.write("".join(lines))

    def close(self) -> None:
        """Nothing is open."""


class Coco:
    """One COCO document: images, categories, and annotations with a score (and ``track_id``).

    Args:
        target: File to write at the end.
        detector: Its classes become the categories, from 1; their increment the supercategory.
    """

    def __init__(self, target: Path, detector: LoadedDetector) -> None:
        self._target = target
        pairs = zip(detector.labels, detector.increments, strict=True)
        self._categories = [
            {"id": number, "name": name, "supercategory": increment}
            for number, (name, increment) in enumerate(pairs, start=1)
        ]
        self._images, self._annotations = _Spool(), _Spool()

    def add(self, shot: Shot) -> None:
        """Keep the picture's entries for the end."""
        image = self._images.count + 1
        entry = {"id": image, "file_name": shot.name, "width": shot.width, "height": shot.height}
        if shot.time is not None:
            entry |= {"frame": shot.index, "time": round(shot.time, 6)}
        self._images.add(entry)
        found = shot.detections
        tracks = found.track_ids if isinstance(found, TrackedDetections) else None
        for row, (left, top, right, bottom) in enumerate(found.xyxy.tolist()):
            width, height = max(0.0, right - left), max(0.0, bottom - top)
            annotation = {
                "id": self._annotations.count + 1,
                "image_id": image,
                "category_id": int(found.class_ids[row]) + 1,
                "bbox": [round(value, 3) for value in (left, top, width, height)],
                "area": round(width * height, 3),
                "iscrowd": 0,
                "score": round(float(found.scores[row]), 6),
            }
            if tracks is not None and tracks[row] != NO_TRACK:
                annotation["track_id"] = int(tracks[row])
            self._annotations.add(annotation)

    def close(self) -> None:
        """Write the document."""
        with atomic_path(self._target) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(f'{{"categories": {json.dumps(self._categories)},\n"images": [\n')
            self._images.pour(file)
            file.write('],\n"annotations": [\n')
            self._annotations.pour(file)
            file.write("]}\n")


class _Spool:
    """JSON values of a list, kept in memory while they are few."""

    def __init__(self) -> None:
        self.count = 0
        self._file: Any = tempfile.SpooledTemporaryFile(_IN_MEMORY, mode="w+", encoding="utf-8")  # noqa: SIM115

    def add(self, value: object) -> None:
        self._file.write(("," if self.count else "") + json.dumps(value, allow_nan=False) + "\n")
        self.count += 1

    def pour(self, target: IO[str]) -> None:
        self._file.seek(0)
        shutil.copyfileobj(self._file, target)
        self._file.close()


class Frames:
    """Drawn pictures as JPEG files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, shot: Shot) -> None:
        """Write one picture."""
        from duet.inference.predict import write_image

        if shot.drawn is not None:
            write_image(self._folder / f"{shot.name}.jpg", shot.drawn)

    def close(self) -> None:
        """Nothing is open."""


def open_savers(
    formats: Sequence[str], out: Path | None, detector: LoadedDetector, *, lines: IO[str] | None
) -> list[Saver]:
    """Open the formats asked for.

    Args:
        formats: Of `FORMATS`; each counts once.
        out: Folder, made by `duet.inference.predict.make_out`; None if only ``lines`` are wanted.
        detector: Whose detections these are.
        lines: Where ``jsonl`` goes if not into a file.

    Raises:
        DuetError: The file system refuses.
    """
    from duet.inference.movie import Movie

    makers: dict[str, Callable[[Path], Saver]] = {
        "video": lambda folder: Movie(folder / VIDEO),
        "frames": lambda folder: Frames(folder / FRAMES),
        "txt": lambda folder: YoloText(folder / LABELS, detector.facts.classes),
        "coco": lambda folder: Coco(folder / COCO, detector),
        "jsonl": lambda folder: JsonLines(folder / JSONL, detector.increments),
    }
    if lines is not None:
        return [JsonLines(lines, detector.increments)]
    return [makers[name](out) for name in dict.fromkeys(formats) if out is not None]


def check_new(out: Path) -> None:
    """Refuse a folder that holds anything: what a camera saw cannot be recorded again.

    Raises:
        DuetError: ``out`` is a file, or not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DuetError(
            "already exists and is not empty",
            where=str(out),
            remedy="choose another folder for --out or remove this one first",
        )
