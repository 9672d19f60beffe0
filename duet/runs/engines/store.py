"""A store that every machine reaches: files by their content, and the last checkpoint of each job.

It is a folder of a shared disk or a bucket (``s3://``, ``gs://``), or whatever else fsspec opens.
A file lies under its SHA-256, so nothing is sent twice and no two writers disagree. A name appears
when its content is whole: a bucket shows an object when its upload ends, anywhere else the file is
written under another name and moved. What is read is hashed, whoever wrote it.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from duet.errors import ConfigError, DuetError, MissingExtraError, ModelError, in_short
from duet.files import atomic_path, sha256_file
from duet.text import masked

BUCKETS = ("s3", "gs", "gcs")
"""Kinds of addresses that pyarrow opens: its clients come with the extra."""

_BLOCK = 1 << 20


class Store:
    """Files by content below one address.

    Args:
        address: A folder, or a URL such as ``s3://bucket/duet``.
        owner: Whose the files are; their names begin with it, so that they can be removed together.

    Raises:
        ConfigError: It is no address of a store.
        MissingExtraError: What opens such addresses is not installed.
    """

    def __init__(self, address: str, owner: str = "") -> None:
        self.address, self.owner = address, owner
        self._files, self._top = _opened(address)
        self._local, self._bucket = False, False
        protocol = self._files.protocol
        names = (protocol,) if isinstance(protocol, str) else tuple(protocol)
        self._local, self._bucket = "file" in names, bool({*names} & {*BUCKETS})

    # ---- files by content ------------------------------------------------------------------------

    def has(self, sha256: str, size: int | None = None) -> bool:
        """Tell whether a content is there; ``size`` in bytes must be right where it is given."""
        with self._told("read"):
            try:
                found = self._files.info(self._content(sha256))
            except FileNotFoundError:
                return False
        return size is None or found["size"] == size

    def put(self, path: Path) -> str:
        """Keep a file under its content, unless it is there; return the SHA-256.

        Raises:
            DuetError: The store cannot be written.
        """
        sha256 = sha256_file(path)
        if not self.has(sha256, path.stat().st_size):
            with path.open("rb") as stream:
                self._write(self._content(sha256), stream)
        return sha256

    def get(self, sha256: str, target: Path) -> None:
        """Write a content into ``target``, atomically.

        Raises:
            ModelError: It is not there, or it is another one than its name says.
            DuetError: The store cannot be read.
        """
        place = self._content(sha256)
        with atomic_path(target) as temporary:
            with self._told("read"):
                try:
                    with self._files.open(place, "rb") as source, temporary.open("wb") as out:
                        shutil.copyfileobj(source, out, _BLOCK)
                except FileNotFoundError:
                    raise ModelError(
                        "a file of this run is gone from the store", where=self._shown(place),
                        remedy="leave the store alone while a run works; the same command resumes",
                    ) from None  # fmt: skip
            if sha256_file(temporary) != sha256:
                raise ModelError(
                    "a file of the store is damaged", where=self._shown(place),
                    remedy="remove it; the same command resumes",
                )  # fmt: skip

    # ---- checkpoints -----------------------------------------------------------------------------

    def checkpoint(self, key: str) -> str | None:
        """Return the SHA-256 of the last checkpoint of a job; None if there is none."""
        with self._told("read"):
            try:
                text = self._files.cat_file(self._checkpoint(key)).decode("ascii", "replace")
            except FileNotFoundError:
                return None
        return text if len(text) == 64 and text.isalnum() else None

    def checkpoints(self) -> dict[str, str]:
        """Return the SHA-256 of the last checkpoint of every unfinished job, by its key."""
        begin = self._name("checkpoint-")
        keys = [name[len(begin) :] for name in self._names() if name.startswith(begin)]
        return {key: sha for key in sorted(keys) if (sha := self.checkpoint(key)) is not None}

    def set_checkpoint(self, key: str, path: Path) -> None:
        """Make a file the last checkpoint of a job; the one before is forgotten."""
        before = self.checkpoint(key)
        sha256 = self.put(path)
        self._write(self._checkpoint(key), io.BytesIO(sha256.encode()))
        if before not in (None, sha256):
            self._remove(self._content(str(before)))

    def forget_checkpoint(self, key: str) -> None:
        """Remove the checkpoint of a job that is finished; its name stays, and says nothing."""
        before = self.checkpoint(key)
        if before is not None:
            self._write(self._checkpoint(key), io.BytesIO())
            self._remove(self._content(before))

    def introduce(self, text: str) -> None:
        """Leave a word for whoever finds the store."""
        self._write(self._place("README.txt"), io.BytesIO(text.encode()))

    def clear(self) -> None:
        """Remove all files of the owner."""
        begin = self._name("")
        for name in self._names():
            if name.startswith(begin):
                self._remove(self._place(name))

    # ---- places ----------------------------------------------------------------------------------
    # No folders: a bucket has none, and clients leave marks in it where they think there is one.

    def _names(self) -> list[str]:
        with self._told("read"):
            try:
                found = self._files.ls(self._top, detail=False)
            except FileNotFoundError:
                return []
        return [str(place).rstrip("/").rpartition("/")[2] for place in found]

    def _name(self, rest: str) -> str:
        return f"{self.owner}-{rest}" if self.owner else rest

    def _place(self, name: str) -> str:
        return f"{self._top}/{name}"

    def _content(self, sha256: str) -> str:
        return self._place(self._name(sha256))

    def _checkpoint(self, key: str) -> str:
        return self._place(self._name(f"checkpoint-{key}"))

    def _shown(self, place: str) -> str:
        return place if self._local else f"{told(self.address)}: {place}"

    def _write(self, place: str, stream: IO[bytes]) -> None:
        with self._told("written"):
            if self._local:
                with atomic_path(Path(place)) as temporary, temporary.open("wb") as out:
                    shutil.copyfileobj(stream, out, _BLOCK)
                return
            first = place if self._bucket else f"{place}.{secrets.token_hex(4)}"
            if not self._bucket:
                self._files.makedirs(place.rpartition("/")[0], exist_ok=True)
            with self._files.open(first, "wb") as out:
                shutil.copyfileobj(stream, out, _BLOCK)
            if first != place:
                self._files.mv(first, place)

    def _remove(self, place: str) -> None:
        with self._told("written"), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(place)

    @contextlib.contextmanager
    def _told(self, done: str) -> Iterator[None]:
        """Say in one error of ours what a library says in many."""
        try:
            yield
        except (DuetError, FileNotFoundError):
            raise
        except Exception as error:  # clients of buckets raise dozens of types
            raise DuetError(
                f"the store cannot be {done}: {in_short(error)}", where=told(self.address),
                remedy="every machine needs to reach it, with rights to write; the same command "
                "resumes",
            ) from error  # fmt: skip


def told(address: str) -> str:
    """Return an address as it may be shown: without logins, keys and queries."""
    return masked(address) if "://" in address else address


def _kind(address: str) -> str:
    return address.partition("://")[0] if "://" in address else "file"


def _opened(address: str) -> tuple[Any, str]:
    """Return a file system of fsspec, and the place in it."""
    kind = _kind(address)
    try:
        if kind in BUCKETS:
            return _bucket(address)
        from fsspec.core import url_to_fs

        files, place = url_to_fs(os.path.abspath(address) if kind == "file" else address)
    except ImportError as error:
        raise MissingExtraError(
            f"'{kind}://' needs a package: {error}", where="--store",
            remedy="pip install 'duet-detect[ray]' for s3:// and gs://, or what is named above",
        ) from None  # fmt: skip
    except Exception as error:  # an unknown kind, an address without a bucket, ...
        raise ConfigError(
            f"no address of a store: {in_short(error)}", where=f"--store {told(address)}",
            remedy="give a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER",
        ) from error  # fmt: skip
    return files, str(place).rstrip("/")


def _bucket(address: str) -> tuple[Any, str]:
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import FileSystem

    kind, _, rest = address.partition("://")
    found, place = FileSystem.from_uri(f"{'gs' if kind == 'gcs' else kind}://{rest}")
    if not place.strip("/"):
        raise ValueError("it names no bucket")
    return ArrowFSWrapper(found), place.rstrip("/")
