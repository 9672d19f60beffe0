"""A small assembler of pickles and of torch's archives, for files that no library would write.

Each function returns the bytes that leave one value on the stack.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STOP = b"."
START = b"\x80\x02"


def glob(path: str) -> bytes:
    """A class or function by its name, as protocol 2 writes it."""
    module, _, name = path.rpartition(".")
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def stack_glob(path: str) -> bytes:
    """The same as protocol 4 writes it."""
    module, _, name = path.rpartition(".")
    return text(module) + text(name) + b"\x93"


def text(value: str) -> bytes:
    """A text."""
    content = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(content)) + content


def number(value: int) -> bytes:
    """A whole number of any size."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(content) < 256:
        return b"\x8a" + bytes([len(content)]) + content
    return b"\x8b" + struct.pack("<i", len(content)) + content


def group(*items: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(items) + b"t"


def row(*items: bytes) -> bytes:
    """A list."""
    return b"](" + b"".join(items) + b"e"


def table(pairs: Mapping[str, bytes]) -> bytes:
    """A dict with text keys."""
    return b"}(" + b"".join(text(key) + value for key, value in pairs.items()) + b"u"


def call(path: str, *arguments: bytes) -> bytes:
    """A call of a function or class."""
    return glob(path) + group(*arguments) + b"R"


def new(path: str, state: bytes | None = None, arguments: bytes = b")") -> bytes:
    """An object made without its constructor, with its attributes."""
    return glob(path) + arguments + b"\x81" + (b"" if state is None else state + b"b")


def module(path: str, **parts: bytes) -> bytes:
    """A module of torch; ``parts`` are further attributes."""
    own = {"_parameters": b"}", "_buffers": b"}", "_modules": b"}"}
    return new(path, table({**own, **parts}))


def storage(key: str, count: int, kind: str = "torch.FloatStorage") -> bytes:
    """A reference to a record of numbers."""
    return group(text("storage"), glob(kind), text(key), text("cpu"), number(count)) + b"Q"


def tensor(
    size: bytes, stride: bytes, *, count: int = 4, offset: int = 0, key: str = "0",
    kind: str = "torch.FloatStorage", hooks: bytes = b"}", rebuild: str = "_rebuild_tensor_v2",
) -> bytes:  # fmt: skip
    """A tensor over a record."""
    arguments = [storage(key, count, kind), number(offset), size, stride]
    if rebuild != "_rebuild_tensor":
        arguments += [b"\x89", hooks]
    return call(f"torch._utils.{rebuild}", *arguments)


FOUR = struct.pack("<4f", 1, 2, 3, 4)
GOOD = tensor(group(number(4)), group(number(1)))
"""A tensor of the numbers one to four, over record "0"."""


def pickled(value: bytes) -> bytes:
    """A whole pickle."""
    return START + value + STOP


def archive(
    value: bytes, records: Mapping[str, bytes] | None = None, *, compress: bool = False,
    extra: Mapping[str, bytes] | None = None,
) -> bytes:  # fmt: skip
    """torch's archive around a value: ``records`` are the storages, ``extra`` other entries."""
    stream = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", kind) as written:
        written.writestr("a/data.pkl", pickled(value))
        for name, content in (records if records is not None else {"0": FOUR}).items():
            written.writestr(f"a/data/{name}", content)
        for name, content in (extra or {}).items():
            written.writestr(name, content)
    return stream.getvalue()


LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def legacy(
    value: bytes, *, keys: bytes = b"]", after: bytes = b"", magic: int = LEGACY_MAGIC
) -> bytes:
    """What torch wrote before 1.6."""
    numbers = [magic, 1001]
    system = b"}" + text("little_endian") + b"\x88s"
    return b"".join(map(pickled, (*map(number, numbers), system, value, keys))) + after


class Payload:
    """Creates a file when it is unpickled: the harmless stand-in for any program."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)
