"""Safetensors files, memory-mapped: checked when read, complete or absent when written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from duet.errors import ModelError, together
from duet.files import atomic_path, require_file, sha256_file
from duet.text import shown
from duet.vectors.tensors import Tensors, require_finite

_AGAIN = "the file was edited, damaged or only partly copied: take it from its source again"
_DTYPES = {
    torch.int64: "I64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL", torch.float64: "F64",
    torch.int16: "I16", torch.int8: "I8",
}  # fmt: skip

_NUMBERS = {text: dtype for dtype, text in _DTYPES.items()}

MOST_TENSORS = 50_000
"""Tensors that a file may hold: the largest detectors have some thousand."""

LONGEST_HEADER = 16 << 20
"""Bytes of names, shapes and metadata that a file may begin with; of 50 000 tensors: half of it."""

Layout = Mapping[str, tuple[torch.dtype, torch.Size]]
"""Data type and shape by tensor name."""


def write_tensors(
    path: Path, tensors: Tensors, *, metadata: Mapping[str, str] | None = None
) -> str:
    """Write ``tensors`` atomically, with text ``metadata``; return the SHA-256 of the file.

    Raises:
        ModelError: A tensor holds NaN or infinity.
        DuetError: The file system refuses the write; nothing is left half-written.
    """
    require_finite(tensors, str(path))
    with atomic_path(path) as temporary:
        with mapped_output(temporary, layout_of(tensors), metadata=metadata) as out:
            for name, tensor in tensors.items():
                out[name].copy_(tensor.detach())
        return sha256_file(temporary)


def layout_of(tensors: Tensors) -> Layout:
    """Return data types and shapes."""
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


@contextlib.contextmanager
def mapped_output(
    path: Path, layout: Layout, *, metadata: Mapping[str, str] | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield tensors whose memory is the safetensors file at ``path``.

    What is written into them goes to the page cache and the disk, not to the process's own memory,
    so a model larger than memory can be written.

    Args:
        path: File to create or overwrite.
        layout: What it will hold.
        metadata: Text for the header.

    Raises:
        ModelError: A type of numbers that detectors do not have, such as complex ones.
        OSError: The file system refuses the write.
    """
    _require_plain({name: dtype for name, (dtype, _) in layout.items()}, str(path))
    # Largest items first, so that every tensor is aligned; then by name: equal content, equal file.
    names = sorted(layout, key=lambda name: (-layout[name][0].itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end, places = 0, {}
    for name in names:
        dtype, shape = layout[name]
        begin, end = end, end + shape.numel() * dtype.itemsize
        places[name] = begin
        header[name] = {
            "dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [begin, end],
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        # Reserved now: a full disk is an error here, not a crash of the process later.
        _reserve(stream.fileno(), start, end)
    try:
        content = torch.from_file(str(path), shared=True, size=start + end, dtype=torch.uint8)
    except RuntimeError as error:
        raise OSError(errno.EIO, f"cannot map: {error}", str(path)) from error
    yield {
        name: content[start + places[name] :][: shape.numel() * dtype.itemsize]
        .view(dtype)
        .view(shape)
        for name, (dtype, shape) in layout.items()
    }


def _reserve(handle: int, start: int, size: int) -> None:
    if size == 0:
        return
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, start, size)
    else:
        os.ftruncate(handle, start + size)


def read_tensors(
    path: Path, sha256: str | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Map a safetensors file: its tensors, read from disk as they are used, and its text metadata.

    Args:
        path: The file. Replacing it later does no harm; the mapping keeps the old content.
        sha256: Its expected hash; not checked if None.

    Raises:
        ModelError: The file is missing, unreadable, has another hash, is not safetensors, or
            holds NaN, infinity, or numbers or names that no detector has.
    """
    try:
        before = path.stat()
        length = _header_length(path)
    except FileNotFoundError:
        raise ModelError(
            "the file is missing", where=str(path), remedy="check the path, or copy the file again"
        ) from None
    except OSError as error:
        raise ModelError(f"cannot read: {error.strerror or error}", where=str(path)) from None
    try:
        content, tensors, metadata = _mapped(path, 8 + length, before.st_size)
        digest = hashlib.sha256(content).hexdigest() if sha256 is not None else None
        after = path.stat()
    except (SafetensorError, ValueError, KeyError, RuntimeError, OSError) as error:
        if sha256 is not None:
            _require_hash(path, sha256_file(path), sha256)
        raise ModelError(
            f"not a complete safetensors file: {error}", where=str(path), remedy=_AGAIN
        ) from None
    _require_hash(path, digest, sha256)
    if (before.st_ino, before.st_mtime_ns, before.st_size) != (
        after.st_ino, after.st_mtime_ns, after.st_size,
    ):  # fmt: skip
        raise ModelError(
            "the file was replaced while it was read", where=str(path), remedy="try again"
        )
    _require_plain({name: tensor.dtype for name, tensor in tensors.items()}, str(path))
    require_finite(tensors, str(path))
    return tensors, metadata


def _require_plain(dtypes: Mapping[str, torch.dtype], where: str) -> None:
    """Refuse numbers that detectors do not have, and names that are more than a name."""
    problems = [
        f"{shown(name)}: {str(dtype).removeprefix('torch.')}"
        for name, dtype in dtypes.items()
        if dtype not in _DTYPES or not name.isprintable()
    ]
    if problems:
        raise ModelError(
            together(problems, summary="no tensors of a detector"), where=where,
            remedy="expected plain names, and floats of 16 or more bits, whole numbers or booleans",
        )  # fmt: skip


def _require_hash(path: Path, got: str | None, expected: str | None) -> None:
    if got != expected:
        raise ModelError(
            f"the content changed since it was written: got SHA-256 {got}, expected {expected}",
            where=str(path),
            remedy=_AGAIN,
        )


def _header_length(path: Path) -> int:
    require_file(path)
    with path.open("rb") as stream:
        return int.from_bytes(stream.read(8), "little")


def _mapped(
    path: Path, start: int, size: int
) -> tuple[mmap.mmap, dict[str, torch.Tensor], dict[str, str]]:
    """Return the bytes of a file, its tensors in the same memory, and its metadata.

    One mapping for all tensors: one for each, as safetensors has them, takes a kilobyte apiece.
    To torch each has a storage of its own: pickled, it takes along no other.
    """
    if start - 8 > LONGEST_HEADER:  # parsing it alone would take seconds and memory of its own
        raise ValueError(f"a header of {start - 8} bytes, more than {LONGEST_HEADER}")
    with safe_open(path, framework="pt") as stored:  # refuses a header that does not fit the file
        metadata = dict(stored.metadata() or {})
        with path.open("rb") as stream:
            content = mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_COPY)
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        if len(header) > MOST_TENSORS:
            raise ValueError(f"{len(header)} tensors, more than {MOST_TENSORS}")
        tensors, numbers = {}, np.frombuffer(content, np.uint8)
        for name, row in header.items():
            dtype = _NUMBERS.get(row["dtype"])
            if dtype is None:  # what no detector has, told by its name in torch
                tensors[name] = stored.get_tensor(name)
                continue
            first, last = row["data_offsets"]
            piece = torch.from_numpy(numbers[start + first : start + last])
            if (start + first) % dtype.itemsize:  # written by others: not aligned
                piece = piece.clone()
            tensors[sys.intern(name)] = piece.view(dtype).view(row["shape"])
    return content, tensors, metadata


def split(
    tensors: Tensors, prefixes: tuple[str, ...], where: str
) -> dict[str, dict[str, torch.Tensor]]:
    """Sort flat tensors by the part of their key before the first slash.

    Args:
        tensors: Tensors with keys `<prefix>/<name>`.
        prefixes: The prefixes allowed; each gets an entry, empty if no tensor has it.
        where: File shown in the error.

    Raises:
        ModelError: A key has another prefix.
    """
    groups: dict[str, dict[str, torch.Tensor]] = {prefix: {} for prefix in prefixes}
    for key, tensor in tensors.items():
        prefix, _, name = key.partition("/")
        if prefix not in groups or not name:
            raise ModelError(
                f"unknown tensor '{key}', expected names that begin with "
                f"{', '.join(f'{known}/' for known in prefixes)}",
                where=where,
                remedy=_AGAIN,
            )
        groups[prefix][name] = tensor
    return groups
