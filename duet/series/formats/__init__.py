"""Label formats: one file and one row each; a format is imported only when it is used.

A format reads a data set from its source, a folder or a YAML file that describes it, and writes one
that reads back the same: bit for bit the same boxes, class ids and order of images.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, cast

from duet.errors import ConfigError, DataError, DuetError, did_you_mean
from duet.labels import LabelSpace
from duet.series.images import Verify
from duet.series.model import DomainData
from duet.series.problems import Problem, error
from duet.text import shown

FORMATS = {
    "yolo": "duet.series.formats.yolo",
    "coco": "duet.series.formats.coco",
    "voc": "duet.series.formats.voc",
}
AUTO = "auto"
CHOICES = (AUTO, *FORMATS)

DESCRIPTION = "data.yaml"
"""Name of the file in a folder that describes the data set there."""

Difficult = Literal["ignore", "drop", "keep"]
"""VOC's difficult objects: neither learned nor scored (as VOC does), absent, or like all others."""

Transfer = Literal["copy", "link"]
"""How images get into a written data set: copied, or as symbolic links to the originals."""

Progress = Callable[[int], None]
"""Called with the number of images written since the last call."""


@dataclass(frozen=True)
class Reading:
    """What a format found: all that could be read, and everything that is wrong with it.

    Attributes:
        data: The data set; a part that could not be read is left out and has a problem.
        problems: Errors, warnings and notes of this data set alone.
        unused: What the files hold beyond labelled boxes, such as outlines, with counts: duet does
            not use it and a conversion loses it.
        form: The format, one of `FORMATS`; empty where it cannot be told.
    """

    data: DomainData
    problems: tuple[Problem, ...]
    unused: Mapping[str, int] = field(default_factory=Counter)
    form: str = ""


@dataclass(frozen=True)
class Written:
    """What a format wrote.

    Attributes:
        description: The ``data.yaml`` of the data set, the source to read it from.
        images: Number of image files.
        objects: Number of objects, ignored ones included.
        renamed: Images whose file name had to change, because two would have been the same.
        lost: Ignored objects that the format cannot mark and that were therefore left out.
    """

    description: Path
    images: int
    objects: int
    renamed: int
    lost: int = 0


class Format(Protocol):
    """What a format module offers."""

    LAYOUT: str
    """What a folder in this format holds, in words."""

    HOLDS_IGNORED: bool
    """Whether an object can be marked as ignored."""

    def recognises(self, folder: Path) -> bool:
        """Tell whether a folder without ``data.yaml`` is laid out in this format."""
        ...

    def read(self, source: Path, *, domain: str, verify: Verify | None) -> Reading:
        """Read a data set without writing anything and without raising for bad data."""
        ...

    def write(
        self, data: DomainData, folder: Path, *, transfer: Transfer, progress: Progress
    ) -> Written:
        """Write a data set into an empty folder."""
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


def read(
    source: Path,
    *,
    form: str = AUTO,
    domain: str,
    verify: Verify | None = None,
    difficult: Difficult | None = None,
) -> Reading:
    """Read a data set in any format.

    Args:
        source: A ``data.yaml``, or a folder that holds one or is laid out as a format asks.
        form: One of `CHOICES`.
        domain: Name of the domain.
        verify: How closely images are looked at, see `duet.series.images`.
        difficult: Replaces what a VOC data set says; no other format has such objects.
    """
    try:
        name, place = locate(source, form)
        if difficult is not None and name != "voc":
            what = f"'difficult' is a choice for VOC data, but this is {name}"
            raise DataError(what, remedy="leave it out")
    except DuetError as failure:
        problem = error("data.format", source, failure.what, failure.remedy or "")
        return Reading(DomainData(domain, LabelSpace(()), {}, source), (problem,))
    if difficult is not None:
        from duet.series.formats import voc

        found = voc.read(place, domain=domain, verify=verify, difficult=difficult)
    else:
        found = resolve(name).read(place, domain=domain, verify=verify)
    return replace(found, form=name)


def locate(source: Path, form: str = AUTO) -> tuple[str, Path]:
    """Return the format of a data set and the file or folder that its reader starts from.

    Args:
        source: What a series or a user calls the data set.
        form: One of `CHOICES`; a name forces the format.

    Raises:
        ConfigError: There is no such format.
        DataError: The format cannot be told, or is not the one asked for.
    """
    if form != AUTO:
        resolve(form)
    described = source / DESCRIPTION
    if source.is_dir() and not described.is_file():
        return (form if form != AUTO else _layout(source)), source
    place = described if source.is_dir() else source
    if place.suffix.lower() == ".json":
        raise DataError(
            "a JSON file alone does not say which images are for training and which for evaluation",
            remedy="write a data.yaml with 'format: coco' and, for 'train' and 'val' each, "
            "{images: FOLDER, annotations: FILE.json}; or name the folder of the data set",
        )
    said = _said(place)
    if said is not None and said not in tuple(FORMATS):  # a list has no hash
        what = f"'format' must be one of {', '.join(FORMATS)}, got {shown(said)}"
        raise DataError(what + did_you_mean(str(said), FORMATS), remedy="correct the key 'format'")
    if form != AUTO and said not in (None, form):
        raise DataError(
            f"'{form}' was asked for, but the file says 'format: {said}'",
            remedy="ask for 'auto', or correct one of the two",
        )
    # A file of Ultralytics does not name its format.
    return (form if form != AUTO else str(said or "yolo")), place


def _said(description: Path) -> object:
    """Return the key ``format`` of a description, or None; its reader reports a broken file."""
    from duet.config import load_yaml

    try:
        document = load_yaml(description)
    except DuetError:
        return None
    return document.get("format") if isinstance(document, dict) else None


def _layout(folder: Path) -> str:
    """Return the one format that a folder is laid out in.

    Raises:
        DataError: None or several fit.
    """
    fitting = [name for name in FORMATS if resolve(name).recognises(folder)]
    if len(fitting) == 1:
        return fitting[0]
    looked = "; ".join(f"{name}: {resolve(name).LAYOUT}" for name in fitting or FORMATS)
    kind = "several formats fit" if fitting else "no known format fits"
    raise DataError(
        f"{kind} this folder; looked for {looked}",
        remedy="name the format with the key 'format', or write a data.yaml",
    )
