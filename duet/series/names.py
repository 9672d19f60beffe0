"""File names that look the same to people but not to a file system."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path


def composed(name: str) -> str:
    """Return a name with its accents in one piece with their letters; macOS takes them apart."""
    return unicodedata.normalize("NFC", name)


def as_stored(path: Path) -> Path:
    """Return a path under the names that its folder and file have on the disk.

    A list that was written on one system and files that were copied from another can differ in the
    bytes of letters with accents. A path without such letters is returned as it is.
    """
    if str(path).isascii() or os.path.lexists(path):
        return path
    parent = as_stored(path.parent)
    return parent / _stored(parent, composed).get(composed(path.name), path.name)


def other_spelling(path: Path) -> str | None:
    """Return the name of the file that differs from ``path`` in capitals only, or None."""
    return _stored(path.parent, _folded).get(_folded(path.name))


def _folded(name: str) -> str:
    return composed(name).casefold()


def _stored(folder: Path, key: Callable[[str], str]) -> dict[str, str]:
    try:
        return _listing(str(folder), folder.stat().st_mtime_ns, key)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return {}


@lru_cache(maxsize=64)
def _listing(folder: str, _mtime_ns: int, key: Callable[[str], str]) -> dict[str, str]:
    return {key(name): name for name in sorted(os.listdir(folder), reverse=True)}
