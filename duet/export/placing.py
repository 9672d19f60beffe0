"""Put an exported file or folder in its place when it is complete and checked."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from duet.errors import ConfigError
from duet.families.runtimes import METADATA
from duet.files import atomic_folder, atomic_path
from duet.increments.folders import replacing
from duet.trees import resolved

_OWN = (METADATA, "Manifest.json")
"""One of these lies in every folder that an exporter wrote: OpenVINO's, Core ML's."""


@contextlib.contextmanager
def new_export(target: Path, *, folder: bool, room: int = 0) -> Iterator[Path]:
    """Yield a temporary file or folder that becomes ``target`` when the block succeeds.

    An older file or exported folder is replaced; until then it is untouched.

    Args:
        target: What to write.
        folder: Whether it is a folder.
        room: Bytes that must be free: torch ends the whole process where it cannot write.

    Raises:
        ConfigError: ``target`` is a folder that no exporter wrote.
        DuetError: The file system refuses the write.
    """
    if not folder:
        place = atomic_path(target)
    elif not target.is_dir() or not any(target.iterdir()):
        place = atomic_folder(target)
    elif any((target / name).is_file() for name in _OWN):
        place = replacing(target)
    else:  # a mistyped path must not delete somebody's data
        raise ConfigError(
            f"this folder is no export: it holds none of {', '.join(_OWN)}",
            where=str(target),
            remedy="choose another --out, or remove it first",
        )
    with place as temporary:
        if shutil.disk_usage(temporary.parent).free < room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary))
        yield temporary


@contextlib.contextmanager
def user_lock(path: Path) -> Iterator[None]:
    """Hold back this user's other processes that would change ``path`` at the same time.

    The lock lies in the user's cache, so that no folder of results gets one; without a cache that
    can be written there is none.
    """
    from filelock import FileLock
    from platformdirs import user_cache_path

    name = hashlib.sha256(os.fsencode(resolved(path))).hexdigest()
    lock = user_cache_path("duet") / "locks" / name
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(lock))
        yield
