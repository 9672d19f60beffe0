"""Which files duet wrote for this user: TorchScript, which is a program, and what duet keeps.

What lies beside a file cannot vouch for it, because whoever sends the one sends the other. The
record is therefore a folder of the user's own cache, with one empty file for each export, called by
its SHA-256. Where it cannot be written, or somebody else could have written it, nothing is known.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path


def remember(sha256: str) -> None:
    """Record that duet wrote a file with this hash; without a writable cache, do nothing."""
    folder = _folder()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / sha256).touch(mode=0o600)


def can_remember() -> bool:
    """Tell whether `is_ours` will know what `remember` is told."""
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _is_private(folder) and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


def is_ours(sha256: str) -> bool:
    """Tell whether duet recorded, for this user, that it wrote a file with this hash."""
    folder = _folder()
    try:
        record = folder / sha256
        return record.is_file() and all(_is_private(path) for path in (folder, record))
    except OSError:
        return False


def _folder() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("duet") / "exports"


def _is_private(path: Path) -> bool:
    """Tell whether nobody but this user can have made or changed an entry of the file system."""
    if not hasattr(os, "getuid"):  # Windows: the profile's folder is the user's
        return True
    found = path.lstat()
    others = stat.S_IWGRP | stat.S_IWOTH
    return found.st_uid == os.getuid() and not found.st_mode & others
