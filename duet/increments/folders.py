"""Replacing a whole folder in one step."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import stat
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from duet.errors import DuetError, write_remedy
from duet.files import atomic_folder, hidden_folder, read_json
from duet.increments.manifest import FORMATS, MANIFEST

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextlib.contextmanager
def new_folder(target: Path, form: str, *, overwrite: bool, again: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``target`` when the block succeeds.

    Args:
        target: The folder to appear.
        form: A key of `duet.increments.manifest.FORMATS`: what it will be, and what alone it may
            replace. A detector in the place of an increment would cost its training.
        again: See `duet.files.atomic_folder`.
        overwrite: Replace a folder that duet wrote before, as its manifest.json says. What its
            manifest does not name, such as exported files, is kept. On Linux old and new change
            places in one system call, so that a reader sees one or the other.

    Raises:
        DuetError: ``target`` is in the way, or the file system refuses the write.
    """
    if not (overwrite and target.is_dir() and any(target.iterdir())):
        with atomic_folder(target, again=again) as temporary:
            yield temporary
        return
    # A mistyped path must not delete somebody's data.
    with replacing(target, ours=_files_of(target, form)) as temporary:
        yield temporary


@contextlib.contextmanager
def replacing(target: Path, *, ours: Collection[str] | None = None) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of a folder when the block succeeds.

    Args:
        target: The folder to replace; until then it is untouched.
        ours: Names in it that go; all else is the user's and stands in the new folder before that
            takes the place, so that no kill can lose it. Default: all goes.

    Raises:
        DuetError: The file system refuses the write, or the new folder has a file of the same name
            as one of the user's.
    """
    # The new folder is built by atomic_folder under a sibling name, then put in place.
    try:
        with hidden_folder(target) as stage:
            fresh = stage / "new"
            with atomic_folder(fresh) as temporary:
                yield temporary
            if ours is not None:
                _keep_others(target, fresh, ours)
            _make_removable(_swap(fresh, target))
    except DuetError as error:  # the hidden sibling's name means nothing to the user
        if not (error.where or "").startswith(str(target.with_name(f".{target.stem}-"))):
            raise
        raise type(error)(error.what, where=str(target), remedy=error.remedy) from error
    except OSError as error:
        raise DuetError(
            f"cannot replace: {error.strerror or error}",
            where=str(target),
            remedy=f"{write_remedy(error)}; the old one is untouched",
        ) from error


def _files_of(folder: Path, form: str) -> set[str]:
    """Return the names of the files that duet wrote into a folder of a form."""
    manifest: dict[str, Any] = {}
    with contextlib.suppress(DuetError):
        manifest = read_json(folder / MANIFEST)
    found = str(manifest.get("format"))
    if found in FORMATS and found != form:
        raise DuetError(
            f"this is {FORMATS[found]}, and only {FORMATS[form]} may be replaced here",
            where=str(folder),
            remedy="choose another folder or remove this one first",
        )
    if found not in FORMATS:
        raise DuetError(
            f"already exists and is not a folder that duet wrote (no {MANIFEST} of duet's)",
            where=str(folder),
            remedy="choose another folder or remove this one first",
        )
    files = manifest.get("files")
    return {MANIFEST, *(files if isinstance(files, dict) else ())}


def _keep_others(old: Path, fresh: Path, ours: Collection[str]) -> None:
    """Let a new folder hold what is the user's in the old one, too, by hard links."""
    others = sorted(entry for entry in old.iterdir() if entry.name not in ours)
    if taken := [entry for entry in others if os.path.lexists(fresh / entry.name)]:
        raise DuetError(
            f"'{taken[0].name}' is not of duet's making, and the new folder has one of that name",
            where=str(old),
            remedy="move it elsewhere; the old folder is untouched",
        )
    for entry in others:
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, fresh / entry.name, symlinks=True, copy_function=_link)
        else:
            _link(str(entry), str(fresh / entry.name))


def _link(source: str, target: str) -> None:
    """Give a file a second name; where the file system has no such thing, a copy must do."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)


def _make_removable(folder: Path) -> None:
    """Let what only holds second names now be removed: a folder may forbid changes to itself."""
    for place, names, _ in os.walk(folder):
        for inner in (Path(place), *(Path(place, name) for name in names)):
            if not inner.is_symlink():
                with contextlib.suppress(OSError):
                    inner.chmod(inner.stat().st_mode | stat.S_IRWXU)


def _swap(fresh: Path, target: Path) -> Path:
    """Let two folders change places; return where the old one is now."""
    if _exchange(fresh, target):
        return fresh
    # Without the system call there is a moment without target; a failure puts the old one back.
    old = fresh.with_name("old")
    os.replace(target, old)
    try:
        os.replace(fresh, target)
    except OSError:
        os.replace(old, target)
        raise
    return old


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two paths with Linux's renameat2; False where it does not exist."""
    if sys.platform != "linux":
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    done = call(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    return bool(done == 0)
