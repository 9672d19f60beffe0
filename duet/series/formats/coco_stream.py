"""A COCO file as a stream of its parts: the lists of large files would not fit in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from duet.files import require_file

_BUFFER_BYTES = 1 << 14
_DEPTH = 1000
_LISTS = (b'"images"', b'"annotations"', b'"categories"')


class NoStreamError(Exception):
    """A file is better read in one piece."""


def stream(path: Path, prefix: str) -> Iterator[Any]:
    """Yield what stands at a place of a file, such as ``images.item``.

    Raises:
        NoStreamError: The file is better read in one piece.
        ijson.JSONError: It is no JSON, or has NaN.
        OSError: It cannot be read.
    """
    import ijson  # type: ignore[import-untyped]

    require_file(path)
    with path.open("rb") as file:
        doubled: list[str] = []
        how = {"use_float": True, "buf_size": _BUFFER_BYTES, "map_type": _noting(doubled)}
        for item in ijson.items(_Watched(file), prefix, **how):
            if doubled:
                raise NoStreamError(f"'{doubled[0][:80]}' stands twice in one object")
            yield item


def reason(failure: Exception) -> str:
    """Return in one line why a file is no JSON; ijson, in C, gives bytes."""
    said = failure.args[0] if failure.args else ""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(failure)
    return " ".join(text.split())[:200]


def undecodable(failure: UnicodeDecodeError) -> str:
    """Return where a file is no text in the encoding that it seems to have."""
    before = failure.object[: failure.start]
    line, column = before.count(b"\n") + 1, failure.start - before.rfind(b"\n")
    byte = failure.object[failure.start]
    return f"not {failure.encoding.upper()}: line {line}, column {column}: byte {byte:#04x}"


def _noting(doubled: list[str]) -> type[dict[str, Any]]:
    """Return a type of object that puts keys with a second value into a list.

    It does not raise: ijson, in C, would go on.
    """

    class Noting(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            if key in self:
                doubled.append(key)
            super().__setitem__(key, value)

    return Noting


class _Watched:
    """A file that is streamed only as long as it is flat and names each of its lists once.

    A deeply nested file would need memory by the square of the depth; brackets and names that
    stand in texts count, too.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.depth = 0
        self.counts: Counter[bytes] = Counter()
        self.tail = b""

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        block = self.file.read(size)
        self.depth += sum(block.count(sign) for sign in (b"[", b"{"))
        self.depth -= sum(block.count(sign) for sign in (b"]", b"}"))
        if self.depth > _DEPTH:
            raise NoStreamError(f"more than {_DEPTH} brackets are open at once")
        for name in _LISTS:
            # What was cut at the end of the last block is whole with the beginning of this one.
            self.counts[name] += (self.tail[1 - len(name) :] + block).count(name)
            if self.counts[name] > 1:
                raise NoStreamError(f"{name.decode()} stands there twice")
        self.tail = block[-16:]
        return block
