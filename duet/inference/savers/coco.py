"""One document as COCO's results are, with their images and categories."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import IO, Any

from duet.files import atomic_path
from duet.inference.detector import LoadedDetector
from duet.inference.savers.base import Shot
from duet.inference.tracking import NO_TRACK, TrackedDetections

_IN_MEMORY = 1 << 24  # bytes of entries before they move to a temporary file


class Coco:
    """One COCO document: images, categories, and annotations with a score (and ``track_id``).

    Args:
        out: Folder that gets ``coco.json`` at the end.
        detector: Its classes become the categories, from 1; their increment the supercategory.
    """

    def __init__(self, out: Path, detector: LoadedDetector) -> None:
        self._target = out / "coco.json"
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
