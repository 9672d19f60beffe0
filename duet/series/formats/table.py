"""The label formats: one file and one row each; a format is imported only when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from duet.registry import Table

if TYPE_CHECKING:
    from duet.series.formats.base import Format

FORMATS = Table(
    "format",
    "formats",
    {
        "yolo": "duet.series.formats.yolo",
        "coco": "duet.series.formats.coco",
        "voc": "duet.series.formats.voc",
    },
)

AUTO = "auto"
"""In place of a format's name: what the data look like."""

UNNAMED = "yolo"
"""The format of a description that names none: a file of Ultralytics does not."""


def choices() -> tuple[str, ...]:
    """Return what may be asked for when data are read."""
    return (AUTO, *FORMATS)


def resolve(name: str) -> Format:
    """Import the format called ``name``.

    Raises:
        ConfigError: There is no such format.
    """
    return cast("Format", FORMATS.load(name))
