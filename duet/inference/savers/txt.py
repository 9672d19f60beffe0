"""Text files as YOLO writes and reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from duet.files import vacated, write_text
from duet.inference.detector import LoadedDetector
from duet.inference.savers.base import Shot
from duet.inference.tracking import NO_TRACK, TrackedDetections
from duet.text import printable

CLASSES = "classes.txt"
"""Beside the label files: the names of the classes."""


def label_name(name: Path) -> Path:
    """Return the name of the label file of a picture called ``name``."""
    return name.with_suffix(".txt")


class YoloText:
    """One text file per picture: ``class cx cy w h score [track]``, relative to the picture.

    Args:
        out: Its folder ``labels`` gets one file per picture, and `CLASSES`.
        detector: Whose classes these are.
    """

    def __init__(self, out: Path, detector: LoadedDetector) -> None:
        self._folder = out / "labels"
        # One name a line: one that holds a line end is written with an escape instead.
        lines = (n if len(n.splitlines()) == 1 else printable(n) for n in detector.facts.classes)
        write_text(self._folder / CLASSES, "".join(f"{line}\n" for line in lines))

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
