"""Class identity is the name: `LabelSpace` is the only place where names become indices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from duet.errors import DataError, did_you_mean
from duet.text import NAME_LENGTH, short_list, shown

MOST_CLASSES = 250_000
"""Names of one list; the longest vocabularies of detectors have some 20 000."""

MOST_LETTERS = 8 << 20
"""Letters of all names of a list: in a few bytes of a `.pt` one name stands at every place."""


def name_problem(name: str) -> str | None:
    """Say why a text cannot name a class, a domain, an increment or a series; None if it can.

    Control characters are no reason: whatever shows a name escapes them (`duet.text`).
    """
    if len(name) > NAME_LENGTH:
        return f"{shown(name, 60)} has {len(name)} characters; names may have {NAME_LENGTH}"
    if any("\ud800" <= char <= "\udfff" for char in name):
        return f"{shown(name)} holds half of a character (an unpaired surrogate)"
    return None


def names_problem(names: Sequence[str]) -> str | None:
    """Say why texts cannot be a list of class names; None if they can, were they different."""
    if len(names) > MOST_CLASSES:
        return f"{len(names)} names, more than {MOST_CLASSES}"
    if (letters := sum(map(len, names))) > MOST_LETTERS:
        return f"{letters} letters, more than {MOST_LETTERS}"
    return "; ".join([problem for name in names if (problem := name_problem(name))][:5]) or None


@dataclass(frozen=True)
class LabelSpace:
    """An ordered set of class names.

    Attributes:
        names: Class names; the position in the tuple is the class index of a model output.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        blank = [name for name in self.names if not isinstance(name, str) or not name.strip()]
        if blank:
            raise DataError(f"class names must be non-empty text, got {shown(blank)}")
        if problem := names_problem(self.names):
            raise DataError(f"class names cannot be used: {problem}")
        if len(self._places) < len(self.names):
            doubled = sorted(name for name, count in Counter(self.names).items() if count > 1)
            raise DataError(
                f"class names occur twice: {short_list(doubled)}",
                remedy="a class is known by its name: rename one of the two",
            )

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    @classmethod
    def of(cls, names: Iterable[str]) -> LabelSpace:
        """Build from any iterable of names."""
        return cls(tuple(names))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._places

    def index(self, name: str) -> int:
        """Return the index of ``name``.

        Raises:
            DataError: The name is not in this label space.
        """
        try:
            return self._places[name]
        except KeyError:
            raise DataError(
                f"unknown class '{name}'{did_you_mean(name, self.names)}",
                remedy=f"known classes: {short_list(self.names)}",
            ) from None

    def indices(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return the index of each name, in the order given."""
        return tuple(self.index(name) for name in names)

    def __add__(self, other: LabelSpace) -> LabelSpace:
        """Concatenate two disjoint label spaces.

        Raises:
            DataError: A class is in both.
        """
        clash = [name for name in other.names if name in self]
        if clash:
            raise DataError(
                f"classes are already known: {short_list(clash)}",
                remedy="each increment brings classes of its own; rename or drop the clashing ones",
            )
        return LabelSpace(self.names + other.names)
