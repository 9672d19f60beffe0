"""One JSON line per picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from duet.files import vacated
from duet.inference.detector import LoadedDetector
from duet.inference.savers.base import Shot, records


class JsonLines:
    """One line per frame, written through at once.

    Args:
        out: Folder that gets ``detections.jsonl``, or an open text stream (left open).
        detector: Whose increments these are.
    """

    def __init__(self, out: Path | IO[str], detector: LoadedDetector) -> None:
        self._own = isinstance(out, Path)
        self._stream = (
            vacated(out / "detections.jsonl").open("x", encoding="utf-8")
            if isinstance(out, Path)
            else out
        )
        self._increments = detector.increments

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
