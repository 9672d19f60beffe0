"""Headers of a tar that would fill the memory or never end are refused before they are read."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from duet.errors import DataError
from published.members import MAX_HEADER, MAX_SIZE, open_archive

GIB = 2**30


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def member(name: str, content: bytes) -> bytes:
    return header(tarfile.REGTYPE, len(content), name) + content + bytes(-len(content) % 512)


def notes(**records: str) -> bytes:
    """Return a pax header with its records."""
    lines = b""
    for key, value in records.items():
        rest = f" {key.replace('_', '.')}={value}\n".encode()
        length = next(n for n in range(len(rest), len(rest) + 9) if len(str(n)) + len(rest) == n)
        lines += str(length).encode() + rest
    return header(tarfile.XHDTYPE, len(lines)) + lines + bytes(-len(lines) % 512)


END = bytes(1024)
SOUND = member("a.txt", b"a")
HOLES = notes(GNU_sparse_major="1", GNU_sparse_minor="0")

BAD: dict[str, bytes] = {
    "pax": header(tarfile.XHDTYPE, 4 * GIB - 1) + bytes(4096),
    "pax-global": header(tarfile.XGLTYPE, 4 * GIB - 1) + bytes(4096),
    "pax-solaris": header(tarfile.SOLARIS_XHDTYPE, 4 * GIB - 1) + bytes(4096),
    "long-name": header(tarfile.GNUTYPE_LONGNAME, 4 * GIB - 1) + bytes(4096),
    "long-link": header(tarfile.GNUTYPE_LONGLINK, 4 * GIB - 1) + bytes(4096),
    "behind-a-sound-one": SOUND + header(tarfile.XHDTYPE, MAX_HEADER + 1) + bytes(4096),
    "holes": SOUND + header(tarfile.GNUTYPE_SPARSE, 512) + bytes(512) + END,
    "map-without-end": SOUND + HOLES + member("b.txt", b"9" * 512),
    "map-of-numbers": SOUND + HOLES + member("b.txt", b"99999999\n" + b"1\n" * 4096) + END,
    "chain": b"".join([header(tarfile.GNUTYPE_LONGNAME, 512) + bytes(512)] * 3000) + SOUND + END,
    "zeros": SOUND + bytes(MAX_SIZE + 4096),
}

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes, "gz": lambda content: gzip.compress(content, 1),
    "xz": lambda content: lzma.compress(content, preset=0),
}  # fmt: skip


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("name", BAD)
def test_headers_without_measure_are_refused(name: str, packing: str, tmp_path: Path) -> None:
    path = tmp_path / "comic.tar"
    path.write_bytes(PACKED[packing](BAD[name]))
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught, open_archive(path) as archive:
            list(archive.scan())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert ("refused" if name != "chain" else "damaged") in caught.value.what
    assert peak < 64 * 2**20


@pytest.mark.parametrize("packing", PACKED)
def test_long_names_and_notes_of_usual_length_pass(packing: str, tmp_path: Path) -> None:
    names = ["short.txt", "d/" * 200 + "long.txt", "ä" * 150 + ".txt"]
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = 1
                archive.addfile(info, io.BytesIO(b"x"))
        path = tmp_path / "sound"
        path.write_bytes(PACKED[packing](stream.getvalue()))
        with open_archive(path) as opened:
            assert [one.name for one in opened.scan()] == names
