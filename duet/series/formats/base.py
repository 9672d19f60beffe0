"""What a label format offers to duet, and the values that it gives and takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias

from duet.series.formats.mending import Change
from duet.series.images import Verify
from duet.series.model import DomainData
from duet.series.problems import Problem

Transfer = Literal["copy", "link"]
"""How images get into a written data set: copied, or as symbolic links to the originals."""

Progress = Callable[[int], None]
"""Called with the number of images written since the last call."""

Options: TypeAlias = Mapping[str, str]
"""Choices of a format's own about how its files are read, by name, in place of what these say."""

NO_OPTIONS: Options = MappingProxyType({})


@dataclass(frozen=True)
class Reading:
    """What a format found: all that could be read, and everything that is wrong with it.

    Attributes:
        data: The data set; a part that could not be read is left out and has a problem.
        problems: Errors, warnings and notes of this data set alone.
        unused: What the files hold beyond labelled boxes, such as outlines, with counts: duet does
            not use it and a conversion loses it.
    """

    data: DomainData
    problems: tuple[Problem, ...]
    unused: Mapping[str, int] = field(default_factory=Counter)


class Format(Protocol):
    """What a format module offers.

    Nothing outside `duet.series.formats` asks for a format by its name: whatever differs between
    two of them stands here.
    """

    LAYOUT: str
    """What a folder in this format holds, in words."""

    LABELS_LIE: str
    """Where label files lie, in words; empty where every layout says so itself."""

    HOLDS_IGNORED: bool
    """Whether an object can be marked as ignored."""

    COUNTED: str
    """What makes ignored objects count, as advice; empty without `HOLDS_IGNORED`."""

    TELLS_OVERSHOOTS: bool
    """Whether `read` reports boxes that stick out of their image; else the doctor does."""

    KEEPS_ROWS: bool
    """Whether `mend` copies label files as text, so that rows which `read` refused are still there.

    Else these objects, and the images whose labels cannot be read at all, are gone once the data
    were read.
    """

    OPTIONS: Mapping[str, tuple[str, ...]]
    """The names of the `Options` that `read` knows, and the values of each."""

    def recognises(self, folder: Path) -> bool:
        """Tell whether a folder without ``data.yaml`` is laid out in this format."""
        ...

    def read(
        self, source: Path, *, domain: str, verify: Verify | None, options: Options = NO_OPTIONS
    ) -> Reading:
        """Read a data set without writing anything and without raising for bad data."""
        ...

    def write(
        self, data: DomainData, folder: Path, *, transfer: Transfer, progress: Progress
    ) -> int:
        """Write a data set, described by a ``data.yaml``, into an empty folder.

        Returns:
            How many images had to change their file name, because two would have been the same.
        """
        ...

    def mend(
        self, data: DomainData, folder: Path, *, transfer: Transfer, progress: Progress
    ) -> list[Change]:
        """Write a data set into an empty folder without what is wrong beyond doubt.

        Args:
            data: What was read.
            folder: Where to write.
            transfer: See `write`.
            progress: See `write`.

        Returns:
            The rows and objects that were left out or clipped; where the format does not
            `KEEPS_ROWS`, without those that `read` left out already.
        """
        ...

    def label_file(self, image: Path) -> Path | None:
        """Return where the labels of one image lie; None where a file holds those of many."""
        ...

    def check_files(self, data: DomainData, broken: Collection[Path]) -> Iterator[Problem]:
        """Yield what only a look at the folders tells: images and labels that miss each other.

        Args:
            data: What was read.
            broken: Images that have a problem of their own and are therefore not in ``data``.
        """
        ...
