"""Folders of duet's own for what other packages keep: never the user's or a stranger's."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from pathlib import Path


def own_folder(name: str, *inner: str) -> Path:
    """Return the folder ``name`` of duet's cache, made with the folders ``inner`` in it.

    A cache that cannot be written (containers, CI), or that others may write (packages run files
    that lie there), is replaced by a new folder of this process.
    """
    from platformdirs import user_cache_path

    folder = user_cache_path("duet") / name
    wanted = (folder, *(folder / one for one in inner))
    try:
        for one in wanted:
            one.mkdir(parents=True, exist_ok=True)
        usable = all(map(is_mine, wanted))
    except OSError:
        usable = False
    if usable:
        return folder
    fresh = Path(tempfile.mkdtemp(prefix=f"duet-{name}-"))
    atexit.register(shutil.rmtree, fresh, ignore_errors=True)
    for below in inner:
        (fresh / below).mkdir()
    return fresh


def is_mine(folder: Path) -> bool:
    """Tell whether only this user can write to a folder, and this process can."""
    about = folder.stat()
    if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & stat.S_IWOTH):
        return False
    return os.access(folder, os.W_OK | os.X_OK)
