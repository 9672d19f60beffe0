"""A partial download: what it is a part of, and how much of it is known to be as it came."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

from duet.errors import DataError
from duet.files import read_json, sha256_json, write_json

_SAVE_EVERY = 16 << 20
"""Bytes after which the memory is brought up to date, and the most that a kill can lose."""


def memory_of(part: Path) -> Path:
    """Return the file that says what a partial download is a part of."""
    return part.with_name(f"{part.name}.resume.json")


def forget(part: Path) -> None:
    """Remove a partial file and what is known about it."""
    part.unlink(missing_ok=True)
    memory_of(part).unlink(missing_ok=True)


def length(part: Path) -> int:
    """Return the bytes that are here; a link is no download of ours, and is never written to."""
    try:
        about = part.lstat()
    except OSError:
        return 0
    return about.st_size if stat.S_ISREG(about.st_mode) and about.st_nlink == 1 else 0


class Memory:
    """What is known of one partial download; the file beside it says so to the next process.

    Bytes that lie there are kept only if they have the hash that they came with: where nobody
    knows the hash of the whole file, a damaged part would be taken for what the publisher offers.

    Attributes:
        kept: Bytes that may be kept.
        validator: What the server must confirm for that; empty: nothing is kept.
    """

    def __init__(self, part: Path, url: str) -> None:
        self._part, self._address = part, sha256_json(url)
        self._digest, self.kept, self.validator = hashlib.sha256(), 0, ""
        self._saved = 0
        try:
            memory = read_json(memory_of(part))
        except DataError:
            return
        validator, kept = memory.get("validator"), memory.get("bytes")
        if memory.get("address") != self._address or not isinstance(validator, str):
            return
        if validator and isinstance(kept, int) and 0 < kept <= length(part):
            digest = _digest_of(part, kept)
            if digest.hexdigest() == memory.get("sha256"):
                self._digest, self.kept, self.validator = digest, kept, validator

    def begin(self, start: int, validator: str) -> None:
        """Say from which byte on the next ones come, 0 or `kept`, and what file they are of."""
        if start == 0:
            self._digest, self.kept = hashlib.sha256(), 0
        self.validator = validator
        self.save()

    def add(self, block: bytes) -> bool:
        """Take the next bytes; return whether it is time to `save`, once they are on the disk."""
        self._digest.update(block)
        self.kept += len(block)
        return self.kept - self._saved >= _SAVE_EVERY

    def save(self) -> None:
        """Write down what is known; the address as its hash, since it may hold a login."""
        content = {
            "address": self._address, "validator": self.validator,
            "bytes": self.kept, "sha256": self._digest.hexdigest(),
        }  # fmt: skip
        write_json(memory_of(self._part), content)
        self._saved = self.kept


def _digest_of(path: Path, count: int) -> hashlib._Hash:
    """Return the SHA-256 of the first bytes of a file, to go on with."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while count > 0 and (block := stream.read(min(count, 1 << 20))):
            digest.update(block)
            count -= len(block)
    return digest
