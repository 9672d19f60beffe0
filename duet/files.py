"""Files that are either complete or absent: atomic writes, hashes, locks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from duet.errors import DuetError

_FOREIGN_DISK_ERROR = re.compile(
    r"os error \d+|PytorchStreamWriter|inline_container|iostream error"
)


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``target`` that replaces it when the block succeeds.

    A kill or a full disk leaves the old file (or none) in place, never a part of the new one.

    Raises:
        DuetError: The file system refuses the write (disk full, read-only, ...).
    """
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The suffix survives because writers such as matplotlib choose the format by it.
        handle, name = tempfile.mkstemp(
            prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)  # mkstemp makes files private; results are meant to be shared
        os.replace(temporary, target)
    except DuetError:
        raise
    except (
        Exception
    ) as error:  # safetensors, torch and numpy report a full disk in ways of their own
        if not _refused_by_disk(error):
            raise
        raise _cannot_write(target, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes ``target`` when the block succeeds.

    Raises:
        DuetError: ``target`` already holds files, or the file system refuses the write.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DuetError(
            "already exists and is not empty",
            where=str(target),
            remedy="choose another folder or remove this one first",
        )
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        temporary.chmod(0o755)
        yield temporary
        if target.exists():
            target.rmdir()
        os.replace(temporary, target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _refused_by_disk(error: BaseException | None) -> bool:
    """Tell a refused write from a bug: libraries dress it in errors of their own.

    safetensors raises `SafetensorError("... (os error 28)")`, torch a `RuntimeError` of its zip
    writer, and numpy a `ValueError` while it closes the archive that it could not write.
    """
    while error is not None:
        if isinstance(error, OSError) or _FOREIGN_DISK_ERROR.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _cannot_write(target: Path, error: Exception) -> DuetError:
    reason = error.strerror if isinstance(error, OSError) else None
    return DuetError(
        f"cannot write: {reason or ' '.join(str(error).split())[:200]}",
        where=str(target),
        remedy="free some disk space or choose another folder; nothing was left half-written",
    )


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write JSON atomically, readable and with a final newline; NaN is refused."""
    write_text(target, json.dumps(value, indent=2, allow_nan=False, sort_keys=False) + "\n")


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of ``value`` as canonical JSON: equal content, equal hash."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``folder``; the kernel drops it when the process dies.

    Raises:
        DuetError: Another live process holds the lock, or the folder cannot be written.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("w")
    except OSError as error:
        raise _cannot_write(folder, error) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DuetError(
                "another duet process is writing here",
                where=str(folder),
                remedy="wait for it to end, or choose another --out",
            ) from error
        yield
