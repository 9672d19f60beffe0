"""The formats of kept detections; what writes one is imported only when it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from duet.registry import Table

if TYPE_CHECKING:
    from duet.inference.detector import LoadedDetector
    from duet.inference.savers.base import Saver


@dataclass(frozen=True)
class Row:
    """One format.

    Attributes:
        module: Holds its `Saver`.
        kind: The class of it, made as ``kind(out, detector)``.
        drawn: Whether it needs pictures with the boxes on them.
    """

    module: str
    kind: str
    drawn: bool = False


SAVERS = Table(
    "format",
    "formats",
    {
        "video": Row("duet.inference.savers.movie", "Movie", drawn=True),
        "frames": Row("duet.inference.savers.pictures", "Frames", drawn=True),
        "txt": Row("duet.inference.savers.txt", "YoloText"),
        "coco": Row("duet.inference.savers.coco", "Coco"),
        "jsonl": Row("duet.inference.savers.jsonl", "JsonLines"),
    },
    module=lambda row: row.module,
)


def open_savers(
    formats: Sequence[str],
    out: Path | None,
    detector: LoadedDetector,
    *,
    lines: IO[str] | None = None,
) -> list[Saver]:
    """Open the formats asked for.

    Args:
        formats: Names of `SAVERS`; each counts once.
        out: Folder, made by `duet.inference.outputs.make_out`; None if only ``lines`` are wanted.
        detector: Whose detections these are.
        lines: Where ``jsonl`` goes if not into a file, and nothing else anywhere.

    Raises:
        DuetError: The file system refuses.
    """
    if lines is not None:
        from duet.inference.savers.jsonl import JsonLines

        return [JsonLines(lines, detector)]
    return [
        getattr(SAVERS.load(name), SAVERS[name].kind)(out, detector)
        for name in dict.fromkeys(formats)
        if out is not None
    ]
