"""Files: written whole or not at all, JSON of strangers, hashes, locks.

Nothing here writes through a link: a file that is written is a new file, put in the place of
whatever had its name. New files and folders get the rights that the user's umask leaves.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import reprlib
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from duet.errors import DataError, DuetError, write_remedy
from duet.trees import is_link, resolved, same_files

JSON_DEPTH = 64
"""Levels of lists and objects that a JSON file may have: everything of ours has fewer than ten."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
Document = TypeVar("Document", dict[str, Any], list[Any])

LOCK = ".lock"

OWN = ("lab", "increments", "models", "evaluations", "gallery", "plots")
"""Folders that duet keeps in a run folder."""

_FOREIGN_DISK_ERROR = re.compile(
    r"os error \d+|PytorchStreamWriter|inline_container|iostream error"
)


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``target`` that replaces it when the block succeeds.

    A kill or a full disk leaves the old file (or none) in place, never a part of the new one.
    No package that duet needs does this; `atomicwrites`, which did, is given up by its author.

    Raises:
        DuetError: The file system refuses the write (disk full, read-only, ...).
    """
    with _writing(target):
        temporary = hidden_sibling(target, lambda path: path.open("xb").close())
        try:
            yield temporary
            with temporary.open("r+b") as written:  # Windows flushes only what is open for writing
                os.fsync(written.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(target: Path, *, again: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes ``target`` when the block succeeds.

    Args:
        target: Absent or empty.
        again: It may also hold this very result, say of a command that was killed when all was
            done. Then every file must be equal, and ``target`` stays as it is.

    Raises:
        DuetError: ``target`` holds something else, or the file system refuses the write.
    """
    held = refuse_occupied(target, again=again)
    with _writing(target), hidden_folder(target) as temporary:
        yield temporary
        if held and not same_files(temporary, target):
            raise _occupied(target)
        if not held:
            if target.exists():
                target.rmdir()
            os.replace(temporary, target)


def require_writable(target: Path) -> None:
    """Refuse a target as a write would, before long work is done for it; its folder is made."""
    with _writing(target):
        hidden_sibling(target, lambda path: path.open("xb").close()).unlink()


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Make the folder of ``target``, and say in one error what the file system refuses."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except Exception as error:  # libraries dress a refused write in errors of their own
        if isinstance(error, DuetError) or not refused_by_disk(error):
            raise
        raise _cannot_write(target, error) from error


def is_occupied(target: Path) -> bool:
    """Tell whether a path is a file, or a folder that holds something."""
    return target.exists() and (not target.is_dir() or any(target.iterdir()))


def refuse_occupied(target: Path, *, again: bool = False) -> bool:
    """Refuse a target that holds files, unless these may be its result; return whether it does.

    Raises:
        DuetError: It does, and ``again`` is false or it is no folder.
    """
    held = is_occupied(target)
    if held and not (again and target.is_dir()):
        raise _occupied(target)
    return held


def _occupied(target: Path) -> DuetError:
    return DuetError(
        "already exists and is not empty",
        where=str(target),
        remedy="choose another folder or remove this one first",
    )


@contextlib.contextmanager
def hidden_folder(target: Path) -> Iterator[Path]:
    """Yield a folder beside ``target``, for work on it; it is removed in the end."""
    folder = hidden_sibling(target, Path.mkdir)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def hidden_sibling(target: Path, make: Callable[[Path], object]) -> Path:
    """Make a file or folder beside ``target`` under a hidden name that nothing has.

    Not with `tempfile`, which makes private what is meant to be shared: here the umask decides.
    The suffix survives, because writers such as matplotlib choose the format by it. The number of
    the process is part of the name, so that `duet.leftovers` can tell what a killed one left.

    Args:
        target: What it will become.
        make: Makes the path, or raises FileExistsError.
    """
    if target.name in ("", ".."):  # nothing can be made beside it under such a name
        what, remedy = "this folder cannot be replaced by results", "name a new one, say in it"
        raise DuetError(what, where=str(target), remedy=remedy)
    while True:
        # A name may be as long as the file system takes, 255 bytes.
        stem = target.stem if len(os.fsencode(target.name)) <= 200 else target.stem[:40]
        name = f".{stem}-{os.getpid()}-{secrets.token_hex(4)}{target.suffix}"
        with contextlib.suppress(FileExistsError):
            make(target.with_name(name))
            return target.with_name(name)


def vacated(target: Path) -> Path:
    """Remove the file or link called ``target``, and return it for opening with mode "x".

    For files that grow where they lie. Opening them with "w" would empty or overwrite whatever
    file of the user's a link of that name leads to.
    """
    target.unlink(missing_ok=True)
    return target


def relative_path(path: Path, folder: Path) -> str:
    """Return ``path`` as seen from ``folder``, so that both can be moved together.

    With slashes on any system. Two drives of Windows have no common root: there it stays absolute.
    """
    try:
        return Path(os.path.relpath(resolved(path), resolved(folder))).as_posix()
    except ValueError:
        return resolved(path).as_posix()


def refused_by_disk(error: BaseException | None) -> bool:
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
        remedy=f"{write_remedy(error)}; nothing was left half-written",
    )


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")  # equal bytes everywhere


def write_json(target: Path, value: Any) -> None:
    """Write JSON atomically, readable and with a final newline; NaN is refused."""
    write_text(target, json.dumps(value, indent=2, allow_nan=False, sort_keys=False) + "\n")


def require_file(path: Path) -> None:
    """Refuse what is no regular file before it is opened: a FIFO or a device may never end.

    Raises:
        OSError: There is nothing, or a folder, a FIFO or a device; the message says it.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "neither a file nor a folder; it may never end", str(path))


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file; raises as `require_file`."""
    require_file(path)
    return path.read_bytes()


def read_json(
    path: Path,
    *,
    error: type[DuetError] = DataError,
    remedy: str = "take the file from its source again",
) -> dict[str, Any]:
    """Read a JSON file that anybody may have written, which holds an object.

    Args:
        path: The file.
        error: What is raised.
        remedy: What the user can do if the file cannot be read.

    Raises:
        DuetError: ``error``: the file is missing or unreadable, is not UTF-8, not JSON, nested
            deeper than `JSON_DEPTH`, holds halves of characters, or is no object.
    """
    try:
        return parse_json(read_bytes(path))
    except OSError as found:
        told = f"cannot read: {found.strerror or found}"
    except ValueError as found:
        told = str(found)
    raise error(told, where=str(path), remedy=remedy)


def parse_json(
    text: str | bytes,
    *,
    expected: type[Document] = dict,  # type: ignore[assignment]
) -> Document:
    """Parse JSON that anybody may have written.

    Raises:
        ValueError: As `read_json` says; the message is one line for the user.
    """
    try:
        value = json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=once)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not valid JSON: not UTF-8 text: {error.reason} at byte {error.start}"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"not valid JSON: nested deeper than {JSON_DEPTH} levels") from None
    except TwiceError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    except ValueError:  # the only other one: Python bounds the digits of whole numbers
        raise ValueError("not valid JSON: a number has too many digits") from None
    if not isinstance(value, expected):
        names = {dict: "object", list: "list", str: "text", type(None): "null"}
        told = names.get(type(value), type(value).__name__)
        raise ValueError(f"expected a JSON {names[expected]}, got {told}")
    _require_shallow(value)
    return value


class TwiceError(ValueError):
    """An object has two values of one name."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; Python would take the last of two values and say nothing."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise TwiceError(f"the key {reprlib.repr(twice)} stands there twice")
    return found


def _require_shallow(value: Any) -> None:
    """Refuse what later code would stumble over: deep nesting, and text that UTF-8 cannot hold."""
    level: list[Any] = [value]
    for _ in range(JSON_DEPTH):
        texts = [item for item in level if isinstance(item, str)]
        for entry in level:
            texts += entry if isinstance(entry, dict) else ()
        if any(not text.isascii() and _LONE_SURROGATE.search(text) for text in texts):
            raise ValueError("not valid JSON: it holds halves of characters")
        lists = [item.values() if isinstance(item, dict) else item for item in level
                 if isinstance(item, (dict, list))]  # fmt: skip
        level = [item for items in lists for item in items]
        if not level:
            return
    raise ValueError(f"not valid JSON: nested deeper than {JSON_DEPTH} levels")


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    require_file(path)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_path(path: Path) -> str:
    """Return the SHA-256 of a file; of a folder, that of the JSON that maps its files to theirs."""
    if not path.is_dir():
        return sha256_file(path)
    files = sorted(inner for inner in path.rglob("*") if inner.is_file())
    return sha256_json({inner.relative_to(path).as_posix(): sha256_file(inner) for inner in files})


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of ``value`` as canonical JSON: equal content, equal hash."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``folder``; the kernel drops it when the process dies.

    Raises:
        DuetError: Another live process holds the lock, the folder cannot be written, or it holds
            a link where duet writes.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        refuse_links(folder)
        held = FileLock(folder / LOCK).acquire(timeout=0)
    except Timeout:
        raise DuetError(
            "another duet process is writing here",
            where=str(folder),
            remedy="wait for it to end, or choose another --out",
        ) from None
    except OSError as error:
        raise _cannot_write(folder, error) from error
    with held:
        yield


def refuse_links(folder: Path, names: Iterable[str] = OWN) -> None:
    """Check that no folder in a folder of results leads out of it.

    The folder itself may be a link of the user's, say to a larger disk. A link inside may have
    been left there by somebody else, to have duet overwrite what it leads to. Links to files do no
    harm: results are new files that take their names.

    Args:
        folder: Of results.
        names: What duet writes in it.

    Raises:
        DuetError: The lock file, one of ``names``, or a folder in them, is a link.
    """
    lock = folder / LOCK
    links = [lock] if lock.is_symlink() or (lock.is_file() and lock.stat().st_nlink > 1) else []
    for top in (folder / name for name in names):
        below = (Path(place, name) for place, names, _ in os.walk(top) for name in names)
        links += [path for path in (top, *below) if is_link(path)]
    if links:
        raise DuetError(
            f"duet writes through no link, but {links[0].relative_to(folder)} is one",
            where=str(folder),
            remedy="remove it, or move what it leads to here; the folder itself may be a link",
        )
