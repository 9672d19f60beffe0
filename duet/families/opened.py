"""A model of another program on its way into duet: opened once, whoever asks what is in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from duet.errors import DataError, ModelError
from duet.files import sha256_file, sha256_json
from duet.labels import LabelSpace

Content = TypeVar("Content")


@dataclass(frozen=True)
class ForeignModel:
    """A file such as `best.pt`, or a folder such as transformers writes.

    Attributes:
        path: File or folder.
        trust: **Dangerous**, see `duet.increments.guard.load_pt`.
    """

    path: Path
    trust: bool = False
    _read: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, read: Callable[[Path, bool], Content]) -> Content:
        """Return what ``read(path, trust)`` returns; it is called once, and nobody changes that.

        Families of one engine share its reader, and so the file that several of them look into.
        """
        if read not in self._read:
            self._read[read] = read(self.path, self.trust)
        return cast("Content", self._read[read])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the file, or one over the names and contents of a folder's files."""
        return foreign_fingerprint(self.path)


def stated_classes(names: Sequence[object], where: str, remedy: str) -> tuple[str, ...]:
    """Return the class names that a file states; numbers become their text, as in YAML.

    Raises:
        ModelError: Names are blank or not unique.
    """
    classes = tuple(str(one).strip() if isinstance(one, (str, int)) else "" for one in names)
    try:
        LabelSpace(classes)
    except DataError as error:
        raise ModelError(error.what, where=where, remedy=remedy) from None
    return classes


def foreign_fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, or one over the names and contents of a folder's files."""
    if path.is_file():
        return sha256_file(path)
    files = sorted(entry for entry in path.iterdir() if entry.is_file())
    return sha256_json({entry.name: sha256_file(entry) for entry in files})
