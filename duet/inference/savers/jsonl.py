"""One JSON line per picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from duet.files import vacated
from duet.inference.detector import LoadedDetector
from duet.inference.savers.base import Shot, records


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


def open_saver(out: Path, detector: LoadedDetector) -> JsonLines:
    """Return what writes ``detections.jsonl`` in ``out``."""
    return JsonLines(out / "detections.jsonl", detector.increments)
