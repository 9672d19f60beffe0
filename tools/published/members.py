"""Reading an archive (zip, tar, or an unpacked folder) without trusting a byte of it.

No name of an archive is ever used as a path to write to: callers read members as streams and choose
the place themselves. So links, devices and ``..`` could do no harm; they are refused all the same,
because no published data set has them, and what has them is something else.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from duet.errors import DataError
from duet.trees import resolved

MAX_MEMBERS = 1_000_000
"""The largest published archive (Watercolor2k with its extra images) has about 110 000."""

MAX_SIZE = 64 * 2**20
"""Bytes of one unpacked member that is read; a published image has at most a few MB."""

MAX_RATIO = 200
"""Unpacked to packed bytes of a large zip member or a whole tar; a JPEG has about 1, XML of labels
below 20."""

MAX_HEADER = 2**20
"""Bytes of a tar header that is read into memory: a long name, or the notes of pax."""

_RATIO_COUNTS_ABOVE = 2**20
_TAR_RATIO_COUNTS_ABOVE = 2**30
_BLOCK = tarfile.BLOCKSIZE
_ENCRYPTED = 0x1
_BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, RuntimeError,
    NotImplementedError, OSError, RecursionError,
)  # fmt: skip
_AGAIN = "get the archive again from its authors and compare its size; see docs/published.md"
_UNPACK = "unpack it yourself and give the folder"


@dataclass(frozen=True)
class Member:
    """A regular file of an archive: its POSIX name and its unpacked size in bytes."""

    name: str
    size: int


class Archive(Protocol):
    """An open archive; both methods go through it in its own order."""

    def scan(self) -> Iterator[Member]:
        """Yield every regular file, after checking it."""
        ...

    def each(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of the files that are wanted."""
        ...


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive by its content, whatever its name ends in.

    Raises:
        DataError: There is none, it is something else, or it is damaged (then also while reading).
    """
    if path.is_dir():
        yield _Folder(path)
        return
    head = _head(path)
    with _damage_told(path):
        # A tar may end in a zip and so look like one; the reverse cannot happen.
        opened: tarfile.TarFile | zipfile.ZipFile | None = None
        # Not `is_tarfile`, which reads a first header of any size.
        with contextlib.suppress(tarfile.ReadError, tarfile.CompressionError):
            opened = tarfile.open(path, tarinfo=_Header)  # noqa: SIM115  # closed below
        if opened is None and zipfile.is_zipfile(path):
            opened = zipfile.ZipFile(path)
    if opened is None:
        raise DataError(_what_it_is(head), where=str(path), remedy=_AGAIN)
    with opened:
        yield _Tar(path, opened) if isinstance(opened, tarfile.TarFile) else _Zip(path, opened)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Turn every error of the archive libraries into one that names the archive.

    Raises:
        DataError: The archive is damaged.
    """
    try:
        yield
    except _RefusedError as error:
        raise DataError(f"refused: {error}", where=str(path), remedy=_AGAIN) from None
    except NotImplementedError as error:  # such as Deflate64, which Windows writes
        what = f"packed in a way that cannot be read here: {error}"
        raise DataError(what, where=str(path), remedy=_UNPACK) from error
    except _BROKEN as error:
        if isinstance(error, OSError) and error.strerror:  # the file system's, not a decoder's
            raise _unreadable(path, error) from error
        detail = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"damaged or cut off: {detail}", where=str(path), remedy=_AGAIN) from error


class _RefusedError(Exception):
    """What no published archive has, and what would take memory or time without end."""


class _Header(tarfile.TarInfo):
    """A tar header that is looked at before what it announces is read into memory.

    `tarfile` limits neither the length of names and notes nor the map of a file with holes.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        found = super().frombuf(buf, encoding, errors)
        if found.type in _READ_WHOLE and found.size > MAX_HEADER:
            raise _RefusedError(f"a header of {found.size} bytes")
        if found.type == tarfile.GNUTYPE_SPARSE:
            raise _RefusedError(f"'{found.name}' is a file with holes")
        return found

    def _proc_gnusparse_10(self, *_: object) -> None:  # the map lies in the content there
        raise _RefusedError(f"'{self.name}' is a file with holes")


_READ_WHOLE = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip


class _Zip:
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive

    def scan(self) -> Iterator[Member]:
        for count, info in enumerate(self.archive.infolist()):
            # Unix mode bits, 0 where another system packed; 0xA000 is a symbolic link.
            mode = info.external_attr >> 16
            regular = stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)
            _check(self.path, info.filename, regular=regular, count=count)
            if info.flag_bits & _ENCRYPTED:
                what = f"'{info.filename}' is encrypted"
                raise DataError(what, where=str(self.path), remedy=_UNPACK)
            packed = max(info.compress_size, 1)
            if info.file_size > _RATIO_COUNTS_ABOVE and info.file_size > MAX_RATIO * packed:
                what = f"'{info.filename}' unpacks to {info.file_size // packed} times its size"
                raise DataError(f"refused: {what}", where=str(self.path), remedy=_AGAIN)
            if not info.is_dir():
                yield Member(info.filename, info.file_size)

    def each(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        for info in self.archive.infolist():
            if not info.is_dir() and wanted(info.filename):
                with _damage_told(self.path), self.archive.open(info) as stream:
                    content = _limited(self.path, info.filename, stream)
                    if len(content) != info.file_size:
                        raise zipfile.BadZipFile(f"'{info.filename}' has another size than stated")
                yield info.filename, content


class _Tar:
    def __init__(self, path: Path, archive: tarfile.TarFile) -> None:
        self.path, self.archive = path, archive

    def scan(self) -> Iterator[Member]:
        packed, unpacked = self.path.stat().st_size, 0
        for count, info in enumerate(self._infos()):
            _check(self.path, info.name, regular=info.isreg() or info.isdir(), count=count)
            unpacked += info.size
            if unpacked > max(_TAR_RATIO_COUNTS_ABOVE, MAX_RATIO * packed):
                what = f"refused: unpacks to more than {MAX_RATIO} times its size"
                raise DataError(what, where=str(self.path), remedy=_AGAIN)
            if info.isreg():
                yield Member(_tidy(info.name), info.size)

    def each(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        for info in self._infos():
            if info.isreg() and wanted(_tidy(info.name)):
                with _damage_told(self.path):
                    stream = self.archive.extractfile(info)
                    assert stream is not None  # a regular file has content
                    content = _limited(self.path, info.name, stream)
                yield _tidy(info.name), content

    def _infos(self) -> Iterator[tarfile.TarInfo]:
        infos = iter(self.archive)
        while True:
            with _damage_told(self.path):
                info = next(infos, None)
            if info is None:
                with _damage_told(self.path):
                    self._check_end()
                return
            yield info

    def _check_end(self) -> None:
        """Raise if what follows the last member is neither whole empty blocks nor nothing.

        `tarfile` takes a damaged header for the end. Reading to the end of the file also makes the
        decompressors compare their checksums. Some programs write no end mark: where an archive
        is cut off exactly between two members, the lists tell what is missing.
        """
        stream = self.archive.fileobj
        assert stream is not None  # open for reading
        stream.seek(self.archive.offset)
        mark, rest = stream.read(_BLOCK), 0
        while block := stream.read(_RATIO_COUNTS_ABOVE):
            rest += len(block)
            if rest > MAX_SIZE:
                raise _RefusedError("more than a block of zeros behind the last member")
        if mark not in (b"", bytes(_BLOCK)) or rest % _BLOCK:
            raise tarfile.ReadError("a header of the tar is damaged, or its end is missing")


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def scan(self) -> Iterator[Member]:
        count = 0
        # Links to folders are followed: people keep the images on another disk. A link into one of
        # its own parents would not end.
        for folder, folders, files in os.walk(self.path, onerror=self._refuse, followlinks=True):
            above = {resolved(Path(folder)), *resolved(Path(folder)).parents}
            folders[:] = sorted(n for n in folders if resolved(Path(folder, n)) not in above)
            for name in sorted(files):
                file = Path(folder, name)
                relative = file.relative_to(self.path).as_posix()
                _check(self.path, relative, regular=file.is_file(), count=count)
                count += 1
                with _damage_told(file):
                    size = file.stat().st_size
                yield Member(relative, size)

    def _refuse(self, error: OSError) -> None:
        raise _unreadable(Path(error.filename or self.path), error) from error

    def each(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        for member in self.scan():
            if wanted(member.name):
                file = self.path / member.name
                with _damage_told(file), file.open("rb") as stream:
                    content = _limited(self.path, member.name, stream)
                yield member.name, content


def _limited(path: Path, name: str, stream: IO[bytes]) -> bytes:
    """Return a member's content.

    Raises:
        DataError: It is larger than any member of a published archive.
    """
    content = stream.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        what = f"refused: '{name}' is larger than {MAX_SIZE} bytes"
        raise DataError(what, where=str(path), remedy=_AGAIN)
    return content


def _tidy(name: str) -> str:
    """Return a name without the leading ``./`` that some programs write."""
    return name[2:] if name.startswith("./") else name


def _check(path: Path, name: str, *, regular: bool, count: int) -> None:
    """Refuse a member that no data set has.

    Raises:
        DataError: An unsafe name or kind, or too many members.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    unsafe_name = not name or name.startswith(("/", "\\")) or ".." in parts or "\0" in name
    unsafe_name |= bool(parts) and parts[0].endswith(":")  # C:
    if unsafe_name or not regular:
        what = "an unsafe name" if unsafe_name else "a link, a device or another special file"
        raise DataError(
            f"refused: '{name}' is {what}",
            where=str(path),
            remedy="no published archive has such a member; get it from its authors",
        )
    if count >= MAX_MEMBERS:
        raise DataError(f"refused: more than {MAX_MEMBERS} members", where=str(path), remedy=_AGAIN)


def _head(path: Path) -> bytes:
    """Return the first bytes of a file.

    Raises:
        DataError: There is no such file, or it cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or device may never end
            what = "neither a file nor a folder; an archive is read more than once"
            raise DataError(what, where=str(path), remedy="save it as a file")
        with path.open("rb") as stream:
            return stream.read(512)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    what = f"cannot read: {error.strerror}"
    return DataError(what, where=str(path), remedy="check the path, its rights and the disk")


def _what_it_is(head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    expected = "expected a zip or tar archive, got"
    if not head:
        return f"{expected} an empty file"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return (
            f"{expected} a web page (HTML or XML): the download saved a page that asks to log in, "
            "asks to confirm or refuses, not the archive"
        )
    if start.startswith(b"version https://git-lfs"):
        return f"{expected} a Git LFS pointer"
    if start.startswith((b"rar!", b"7z\xbc\xaf")):
        return f"{expected} a RAR or 7z archive: unpack it and give its folder"
    if head.startswith(b"PK\x03\x04"):
        return f"{expected} a zip archive that is cut off (its end is missing)"
    return f"{expected} neither (first bytes: {head[:8].hex(' ')})"
