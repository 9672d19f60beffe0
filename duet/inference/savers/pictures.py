"""Drawn pictures as JPEG files."""

from __future__ import annotations

from pathlib import Path

from duet.images import write_image
from duet.inference.detector import LoadedDetector
from duet.inference.savers.base import Shot


class Frames:
    """Drawn pictures as JPEG files in the folder ``frames`` of ``out``."""

    def __init__(self, out: Path, _detector: LoadedDetector) -> None:
        self._folder = out / "frames"

    def add(self, shot: Shot) -> None:
        """Write one picture."""
        if shot.drawn is not None:
            write_image(self._folder / f"{shot.name}.jpg", shot.drawn)

    def close(self) -> None:
        """Nothing is open."""
