"""Looking at files and folders: which are links, which hold the same."""

from __future__ import annotations

import filecmp
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from duet.errors import DuetError

_KERNEL = (Path("/proc"), Path("/sys"))


def same_files(fresh: Path, held: Path) -> bool:
    """Tell whether all that ``fresh`` holds at its top is the same in ``held``; links are followed.

    What else ``held`` has at its top, such as an exported file, is the user's.
    """

    def files(top: Path) -> set[Path]:
        below = (top / entry.name for entry in fresh.iterdir())
        found = (path for one in below for path in (one, *one.rglob("*")))
        return {path.relative_to(top) for path in found if path.exists() and not path.is_dir()}

    names = files(fresh)
    return names == files(held) and all(
        filecmp.cmp(fresh / name, held / name, shallow=False) for name in names
    )


def is_link(path: Path) -> bool:
    """Tell a symbolic link, or a junction of Windows, which `Path.is_symlink` does not know."""
    try:
        tag = getattr(path.lstat(), "st_reparse_tag", 0)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return False
    return path.is_symlink() or bool(tag == getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", None))


def lost_link(path: Path) -> str:
    """Say where a link leads whose target is not there; empty for all else."""
    if not is_link(path) or os.path.exists(path):
        return ""
    return f"a link that leads nowhere: there is no {os.readlink(path)}"


def resolved(path: Path) -> Path:
    """Return the absolute path without links; unlike `Path.resolve` also where they go round."""
    return Path(os.path.realpath(path))


def is_whole_system(path: Path) -> bool:
    """Tell the drive of the system, or what the kernel shows as files, which may have no end."""
    place = resolved(path)
    top = Path(f"{os.environ.get('SYSTEMDRIVE', 'C:')}\\" if os.name == "nt" else "/")
    return place == top or any(place.is_relative_to(folder) for folder in _KERNEL)


def refuse_among(target: Path, images: Iterable[Path]) -> None:
    """Refuse a folder of results that lies among a data set's images, which it would then add to.

    Args:
        target: What will be written; need not exist.
        images: Of the data set.

    Raises:
        DuetError: ``target`` is a folder of ``images``, or below one.
    """
    above = {resolved(target), *resolved(target).parents}
    folders = sorted(above.intersection(map(resolved, {image.parent for image in images})))
    if folders:
        raise DuetError(
            f"lies in {folders[0]}, a folder of images: what is written there would count as data",
            where=str(target),
            remedy="choose a folder beside the data set",
        )


def stamp(path: Path) -> tuple[int, ...]:
    """Return what tells one state of a file from the next without reading it.

    Raises:
        OSError: There is no such file.
    """
    about = path.stat()
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns
