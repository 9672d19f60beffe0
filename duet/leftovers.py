"""Hidden siblings that killed processes left: files and folders that never got their names."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

# As `duet.files.hidden_sibling` names them, and what others name after those.
_SIBLING = re.compile(r"\.+(?P<name>.+?)-(?P<pid>\d+)-[0-9a-f]{8}(?:[.-].*)?", re.DOTALL)
_MOST_PROCESSES = 9_999_999  # more than any system numbers; a date has eight digits
_CLOCK = 2.0  # seconds by which the start of a process and the time of a file may be off


def leftovers(target: Path) -> list[Path]:
    """Return what killed processes left of ``target`` beside it.

    What a living process of this machine writes is not among it.
    """
    target = Path(os.path.abspath(target))
    names = {name.lstrip(".") for name in (target.stem, target.name)}
    return [path for name, path in _abandoned(target.parent) if name in names]


def leftovers_below(folder: Path, only: Collection[str] | None = None) -> list[Path]:
    """Return what killed processes left in a folder and below; it follows no links.

    Args:
        folder: Where to look.
        only: Folders in it to look into; default all.
    """
    found: list[Path] = []
    for place, names, _ in os.walk(folder):
        here = [path for _, path in _abandoned(Path(place))]
        known = only if only is not None and Path(place) == folder else names
        names[:] = sorted(set(names).intersection(known) - {path.name for path in here})
        found += here
    return found


def remove(leftover: Path) -> None:
    """Remove a leftover; what cannot be removed stays, and is found again."""
    if leftover.is_dir() and not leftover.is_symlink():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            leftover.unlink(missing_ok=True)


def _abandoned(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name of the target without its suffix, leftover) in a folder."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        match = _SIBLING.fullmatch(name)
        if match is None or int(match["pid"][:10]) > _MOST_PROCESSES:
            continue
        if not _lives(int(match["pid"]), folder / name):
            yield match["name"], folder / name


def _lives(process: int, path: Path) -> bool:
    """Tell whether the process that made ``path`` still runs; its number may have a new owner."""
    import psutil

    try:
        began: float = psutil.Process(process).create_time()
        return began <= path.lstat().st_ctime + _CLOCK
    except (psutil.Error, OverflowError, ValueError):
        return False
    except OSError:  # it has just been put in its place
        return True
