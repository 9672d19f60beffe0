"""Which files of a folder are images: told by the suffix, as Ultralytics tells them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from duet.series.problems import Problem, warning

# What Ultralytics counts as images; one that Pillow cannot decode is reported, not passed over.
IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpeg2000"),
        *("jpg", "mpo", "png", "tif", "tiff", "webp"),
    )
)

KNOWN = ", ".join(sorted(IMAGE_SUFFIXES))
"""The same for messages."""

_JPEG = frozenset({".jfif", ".jif", ".jpe", ".pjp", ".pjpeg"})
_RAW = frozenset(
    f".{name}"
    for name in (
        *("3fr", "arw", "cr2", "cr3", "crw", "dcr", "erf", "iiq", "kdc", "mef", "mos", "mrw"),
        *("nef", "nrw", "orf", "pef", "raf", "raw", "rw2", "rwl", "sr2", "srf", "srw", "x3f"),
    )
)
_OTHERS = frozenset({".exr", ".hdr", ".heics", ".hif", ".jxl", ".jxr", ".psb", ".xcf"})
_NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF"})
"""Pillow's names of formats that are documents, recordings or tables of numbers."""


def is_image(name: str) -> bool:
    """Tell whether a file of this name is read as an image.

    What is hidden was left behind by other programs (macOS: ._photo.jpg).
    """
    return _suffix(name) in IMAGE_SUFFIXES and not name.startswith(".")


def is_picture(name: str) -> bool:
    """Tell whether a file of this name is an image or a picture of a kind that is not read."""
    suffix = _suffix(name)
    return (suffix in IMAGE_SUFFIXES or suffix in _unread()) and not name.startswith(".")


def unread(pictures: Iterable[Path]) -> list[Path]:
    """Return the pictures that are not read, but for those beside an image of their name.

    Cameras write a JPEG beside the raw file: then nothing is lost.
    """
    found = list(dict.fromkeys(pictures))
    read = {path.with_suffix("") for path in found if is_image(path.name)}
    return [p for p in found if not is_image(p.name) and p.with_suffix("") not in read]


def unread_problems(pictures: Iterable[Path]) -> Iterator[Problem]:
    """Yield one warning per folder and suffix of pictures that are not read, see `unread`."""
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in pictures:
        groups[path.parent, _suffix(path.name)].append(path)
    for (folder, _), files in groups.items():
        what = f"{named(files)} not read: duet, as Ultralytics, reads {KNOWN}"
        yield warning("image.unread", folder, what, readable_as(files))


def named(files: Sequence[Path]) -> str:
    """Return a count of files and the name of one, up to the verb: ``2 files such as a.gif are``.

    Args:
        files: At least one.
    """
    name = files[0].name
    return f"{len(files)} files such as {name} are" if len(files) > 1 else f"the file {name} is"


def readable_as(files: Iterable[Path]) -> str:
    """Return what makes pictures readable: another name for a JPEG, else another format."""
    suffixes = {_suffix(path.name) for path in files}
    ways = ["rename to .jpg what is JPEG inside"] if suffixes & _JPEG else []
    ways += ["save as PNG or JPEG"] if suffixes - _JPEG else []
    return ", else ".join(ways)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


@cache
def _unread() -> frozenset[str]:
    """Return the suffixes of pictures that are not read: those of Pillow, and those of cameras."""
    from PIL import Image

    Image.init()
    kinds = Image.registered_extensions().items()
    known = {suffix for suffix, kind in kinds if kind not in _NO_PICTURES}
    return frozenset(known | _JPEG | _RAW | _OTHERS) - IMAGE_SUFFIXES
