"""What a saver gets and offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from duet.detections import Detections
from duet.images import Image


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
