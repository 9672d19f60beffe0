"""Label formats: one file and one row each; a format is imported only when it is used."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from duet.errors import ConfigError, did_you_mean
from duet.series.images import Verify
from duet.series.model import DomainData
from duet.series.problems import Problem

FORMATS = {
    "yolo": "duet.series.formats.yolo",
}


@dataclass(frozen=True)
class Reading:
    """What a format found: all that could be read, and everything that is wrong with it.

    Attributes:
        data: The data set; a part that could not be read is left out and has a problem.
        problems: Errors and warnings of this data set alone.
    """

    data: DomainData
    problems: tuple[Problem, ...]


class Format(Protocol):
    """What a format module offers."""

    def read(self, source: Path, *, domain: str, verify: Verify | None) -> Reading:
        """Read a data set without writing anything and without raising for bad data."""
        ...


def resolve(name: str) -> Format:
    """Import the format called ``name``.

    Raises:
        ConfigError: There is no such format.
    """
    if name not in FORMATS:
        raise ConfigError(
            f"unknown format '{name}'{did_you_mean(name, FORMATS)}",
            remedy=f"known formats: {', '.join(FORMATS)}",
        )
    return cast(Format, importlib.import_module(FORMATS[name]))
