"""`StageMatrix`: mAP50 of every stage on every (domain, class set), with explicit indices.

No position is ever implied: a cell is found by its stage number, domain name and class names, so an
off-by-one or a swapped axis is an error instead of a wrong score.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from duet.config import Config
from duet.errors import DataError
from duet.fields import Fraction, Names, Stage

Slice = tuple[str, tuple[str, ...]]
"""(domain, classes): the objects of these classes in the images of this domain."""

Cell = tuple[int, str, tuple[str, ...]]
"""(stage 1..T, domain, classes)."""

References = Mapping[Slice, float]
"""(domain, classes) -> mAP50 fraction of a model trained only on that slice."""

_Key = tuple[int, str, frozenset[str]]


class MatrixRecord(Config):
    """One cell of the stage matrix, as `results.json` holds it."""

    stage: Stage
    domain: str
    classes: Names
    map50: Fraction


@dataclass(frozen=True)
class StageMatrix:
    """mAP50 of the model after each stage; immutable, see `with_value`.

    Attributes:
        values: (stage 1..T, domain, classes) -> mAP50 as a fraction in ``[0, 1]``. The order of the
            class names is kept for display; look-ups treat them as a set.
    """

    values: Mapping[Cell, float] = field(default_factory=dict)
    _found: Mapping[_Key, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found: dict[_Key, float] = {}
        for (stage, domain, classes), value in self.values.items():
            if stage < 1:
                raise DataError(f"stages count from 1, got {stage}")
            if not domain or not classes or len(set(classes)) != len(classes):
                raise DataError(
                    f"a cell needs a domain and distinct classes, got {domain!r}, {list(classes)}"
                )
            if not (math.isfinite(value) and 0 <= value <= 1):
                raise DataError(
                    f"mAP50 must be a fraction in [0, 1], got {value!r}",
                    where=cell_title(stage, domain, classes),
                )
            key = (stage, domain, frozenset(classes))
            if key in found:
                raise DataError(f"two values for {cell_title(stage, domain, classes)}")
            found[key] = value
        object.__setattr__(self, "values", dict(self.values))
        object.__setattr__(self, "_found", found)

    def get(self, stage: int, domain: str, classes: Sequence[str]) -> float:
        """Return one value.

        Raises:
            DataError: The cell was not evaluated.
        """
        key = (stage, domain, frozenset(classes))
        if key not in self._found:
            raise DataError(
                f"no mAP50 for {cell_title(stage, domain, classes)}",
                remedy="evaluate this cell first (duet.evaluation.pairs.cells_needed lists all)",
            )
        return self._found[key]

    def __contains__(self, cell: object) -> bool:
        if not isinstance(cell, tuple) or len(cell) != 3:
            return False
        stage, domain, classes = cell
        return (stage, domain, frozenset(classes)) in self._found

    def with_value(
        self, stage: int, domain: str, classes: Sequence[str], value: float
    ) -> StageMatrix:
        """Return a matrix with one more value.

        Raises:
            DataError: The cell has a value already, or the value is not a fraction.
        """
        cell = (stage, domain, tuple(classes))
        if cell in self:
            raise DataError(f"{cell_title(*cell)} has a value already")
        return StageMatrix({**self.values, cell: value})

    def as_records(self) -> tuple[MatrixRecord, ...]:
        """Return the cells as records, in order."""
        return tuple(
            MatrixRecord(stage=stage, domain=domain, classes=classes, map50=value)
            for (stage, domain, classes), value in self.values.items()
        )

    @classmethod
    def from_records(cls, records: Iterable[MatrixRecord]) -> StageMatrix:
        """Build from the output of `as_records`.

        Raises:
            DataError: A cell occurs twice or names no domain.
        """
        matrix = cls()
        for item in records:
            matrix = matrix.with_value(item.stage, item.domain, item.classes, item.map50)
        return matrix


def cell_title(stage: int, domain: str, classes: Sequence[str]) -> str:
    """Return ``stage 2 on comic[cat, dog]``."""
    return f"stage {stage} on {slice_title(domain, classes)}"


def slice_title(domain: str, classes: Sequence[str]) -> str:
    """Return ``comic[cat, dog]``."""
    return f"{domain}[{', '.join(classes)}]"
