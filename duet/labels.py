"""Class identity is the name: `LabelSpace` is the only place where names become indices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from duet.errors import DataError, did_you_mean


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
            raise DataError(f"class names must be non-empty text, got {blank!r}")
        doubled = sorted({name for name in self.names if self.names.count(name) > 1})
        if doubled:
            raise DataError(
                f"class names occur twice: {', '.join(doubled)}",
                remedy="a class is known by its name: rename one of the two",
            )

    @classmethod
    def of(cls, names: Iterable[str]) -> LabelSpace:
        """Build from any iterable of names."""
        return cls(tuple(names))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def index(self, name: str) -> int:
        """Return the index of ``name``.

        Raises:
            DataError: The name is not in this label space.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise DataError(
                f"unknown class '{name}'{did_you_mean(name, self.names)}",
                remedy=f"known classes: {', '.join(self.names)}",
            ) from None

    def indices(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return the index of each name, in the order given."""
        return tuple(self.index(name) for name in names)

    def __add__(self, other: LabelSpace) -> LabelSpace:
        """Concatenate two disjoint label spaces.

        Raises:
            DataError: A class is in both.
        """
        clash = [name for name in other.names if name in self.names]
        if clash:
            raise DataError(
                f"classes are already known: {', '.join(clash)}",
                remedy="each increment brings classes of its own; rename or drop the clashing ones",
            )
        return LabelSpace(self.names + other.names)
