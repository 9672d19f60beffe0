"""The file around a pickle: torch's zip archive, and the stream that torch wrote before 1.6."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

from duet.increments.door.machine import Machine
from duet.increments.door.rebuild import Storage
from duet.increments.door.values import ALLOWANCE, Budget, DamagedError, RefusedError, told

BLOCK = 1 << 20
LONGEST_DIRECTORY = 4 << 20
"""Bytes of an archive's table of contents: some 50 000 tensors."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001


def read_archive(path: Path) -> Any:
    """Read a `.pt` file into plain data.

    At most the file's size and `ALLOWANCE` are taken from memory: tensors share the bytes that are
    read, and everything else is counted while it is built.

    Returns:
        Numbers, text, bytes, lists, tuples, dicts, sets, tensors on the CPU, and
        `duet.increments.door.values.Stub` for each object.

    Raises:
        RefusedError: The file wants something that is no data.
        ValueError: It is not what torch writes.
        OSError: It cannot be read.
    """
    with _Bounded(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size == 0:
            raise DamagedError("the file is empty")
        start = stream.read(4)
        stream.seek(0)
        budget, views = Budget(size + ALLOWANCE), Budget(2 * size + BLOCK)
        if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
            return _read_legacy(stream, size, budget, views)
        if start != b"PK\x03\x04":
            raise DamagedError("it is not a torch file")
        try:
            with zipfile.ZipFile(stream) as archive:
                return _Zip(archive, size, budget, views).read()
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise DamagedError(f"a broken archive: {told(str(error))}") from None


class _Bounded(io.FileIO):
    """A file that gives no more than a table of contents at once, whatever its own fields say."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = os.fstat(self.fileno()).st_size - self.tell()
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > LONGEST_DIRECTORY:
            raise RefusedError(f"a table of contents above {LONGEST_DIRECTORY} bytes")
        return super().read(max(wanted, 0)) or b""


class _Instructions(io.BufferedReader):
    """A pickle as `pickletools` reads it, which asks for as many bytes as an instruction says."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= BLOCK:
            raise RefusedError(f"a text or number of {told(size)} bytes")
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(BLOCK + 1)
        if len(line) > BLOCK:
            raise RefusedError(f"a line of more than {BLOCK} bytes")
        return line

    def tell(self) -> int:
        return 0  # asked for at each instruction, and slow; nobody looks at it


class _Zip:
    """torch's archive: ``NAME/data.pkl``, and one uncompressed record for each storage."""

    def __init__(self, archive: zipfile.ZipFile, size: int, budget: Budget, views: Budget) -> None:
        self._archive, self._budget, self._views = archive, budget, views
        records = archive.infolist()
        self._records = {record.filename: record for record in records}
        if len(self._records) != len(records):
            raise DamagedError("two records of the archive have one name")
        # Else one record could stand for many, and few bytes for any number of them.
        if sum(record.file_size for record in records) > size:
            raise RefusedError("its records overlap or are compressed: torch writes them plainly")
        self._opened: dict[str, tuple[str, Storage]] = {}

    def read(self) -> Any:
        pickles = [name for name in self._records if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise DamagedError(f"{len(pickles)} records are called data.pkl, expected one")
        self._folder = pickles[0].partition("/")[0]
        names = {name.split("/", 2)[1] for name in self._records if name.count("/")}
        if "constants.pkl" in names or "code" in names:
            raise RefusedError("the file is a TorchScript archive, which is a program")
        order = f"{self._folder}/byteorder"
        if order in self._records and self._content(order) != sys.byteorder.encode():
            raise RefusedError("its numbers are in the order of another kind of processor")
        opened: Any = self._archive.open(self._record(pickles[0]))
        with _Instructions(opened) as stream:
            value = Machine(self._open, self._budget).run(stream)
            while stream.read(BLOCK):  # to the end, where the checksum is compared
                pass
        return value

    def _open(self, key: str, dtype: str, count: int) -> Storage:
        if key not in self._opened:
            content = self._content(f"{self._folder}/data/{key}")
            self._opened[key] = dtype, _storage(content, dtype, self._views)
        known, storage = self._opened[key]
        if known != dtype or len(storage.flat) != count:
            raise DamagedError(
                f"storage {told(key)} holds {len(storage.flat)} {known}, the pickle says "
                f"{told(count)} {dtype}"
            )
        return storage

    def _record(self, name: str) -> zipfile.ZipInfo:
        record = self._records.get(name)
        if record is None:
            raise DamagedError(f"the record {told(name)} is missing")
        if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
            raise RefusedError("its records are compressed or encrypted: torch writes them plainly")
        return record

    def _content(self, name: str) -> bytearray:
        record = self._record(name)
        self._budget.spend(record.file_size)
        content = bytearray(record.file_size)
        with self._archive.open(record) as stream:
            _fill(stream, content)
            if stream.read(1):
                raise DamagedError(f"the record {told(name)} is longer than the table says")
        return content


def _fill(stream: Any, content: bytearray) -> None:
    """Read exactly as many bytes as ``content`` has, without a second copy of them."""
    view = memoryview(content)
    for begin in range(0, len(content), BLOCK):
        block = view[begin : begin + BLOCK]
        done = 0
        while done < len(block):
            got = stream.readinto(block[done:])
            if not got:
                raise DamagedError("the file ends within its numbers")
            done += got


def _storage(content: bytearray, dtype: str, views: Budget) -> Storage:
    number: torch.dtype = getattr(torch, dtype)
    if len(content) % number.itemsize:
        raise DamagedError(f"{len(content)} bytes are no whole number of {dtype}")
    # frombuffer does not take empty buffers.
    flat = torch.frombuffer(content, dtype=number) if content else torch.empty(0, dtype=number)
    _require_truth(flat)
    return Storage(flat, views)


def _require_truth(flat: torch.Tensor) -> None:
    if flat.dtype is torch.bool and bool((flat.view(torch.uint8) > 1).any()):
        raise DamagedError("truth values that are neither true nor false")


def _read_legacy(stream: _Bounded, size: int, budget: Budget, views: Budget) -> Any:
    """Read what torch wrote before 1.6: five pickles, then the storages, each with its length."""
    reader = _Instructions(stream)
    pending: dict[str, tuple[str, bytearray, Storage]] = {}

    def open_storage(key: str, dtype: str, count: int) -> Storage:
        number: torch.dtype = getattr(torch, dtype)
        if key not in pending:
            # Taken before its bytes are read, so never more than the whole file has.
            if not 0 <= count <= size // number.itemsize:
                raise DamagedError(f"a storage of {told(count)} numbers in a file of {size} bytes")
            budget.spend(count * number.itemsize)
            content = bytearray(count * number.itemsize)
            pending[key] = dtype, content, _storage(content, dtype, views)
        known, _, storage = pending[key]
        if known != dtype or len(storage.flat) != count:
            raise DamagedError(f"storage {told(key)} has two lengths or types")
        return storage

    def unpickle() -> Any:
        return Machine(open_storage, budget).run(reader)

    for wanted in (_LEGACY_MAGIC, _LEGACY_VERSION):
        found = unpickle()
        if type(found) is not int or found != wanted:
            raise DamagedError("it is not a torch file")
    system = unpickle()
    if not isinstance(system, dict) or system.get("little_endian") is not (
        sys.byteorder == "little"
    ):
        raise RefusedError("its numbers are in the order of another kind of processor")
    value, keys = unpickle(), unpickle()
    texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not texts or set(keys) != pending.keys():
        raise DamagedError("its list of storages names others than its tensors")
    for key in keys:
        dtype, content, storage = pending[key]
        count = int.from_bytes(reader.read(8), "little")
        if count != len(storage.flat):
            raise DamagedError(f"a storage holds {told(count)} {dtype}, the pickle says otherwise")
        _fill(reader, content)
        _require_truth(storage.flat)
    return value
