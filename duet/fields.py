"""Kinds of values in files that duet writes, checked when they are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapSerializer,
    WrapValidator,
)


def _inside_the_run_folder(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or "\\" in value or not path.name:
        raise ValueError("must be a path inside the run folder, with forward slashes")
    return value


class ClassSets:
    """The class sets of one file, which holds each of them once and calls it by its number.

    Given to pydantic as its context, it makes `Names`, `AnyNames` and `ByClass` be written and read
    in that form; without it they are names, and names with a value each. All that read a set share
    it: however often a file refers to one, it is in memory once.
    """

    def __init__(self, known: Iterable[tuple[str, ...]] = ()) -> None:
        """Begin with the sets of a file that is read, or with none."""
        self._known = tuple(known)
        self._numbers = {names: number for number, names in enumerate(self._known)}

    def as_lists(self) -> list[list[str]]:
        """Return every set that was asked for, in the order of their numbers."""
        return [list(names) for names in self._numbers]

    def number(self, names: Iterable[str]) -> int:
        """Return the number of a set, a new one for one that is new."""
        return self._numbers.setdefault(tuple(names), len(self._numbers))

    def names(self, number: object) -> tuple[str, ...]:
        """Return a set of the file that is read.

        Raises:
            ValueError: It has no set of that number.
        """
        if type(number) is not int or not 0 <= number < len(self._known):
            raise ValueError(
                f"there is no such class set: 'class_sets' has {len(self._known)}, counted from 0"
            )
        return self._known[number]


def _read_names(value: Any, names: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    if isinstance(info.context, ClassSets) and type(value) is int:
        return info.context.names(value)
    return names(value)


def _write_names(
    value: tuple[str, ...], names: SerializerFunctionWrapHandler, info: SerializationInfo
) -> Any:
    # What is empty, or names a class twice, is no set.
    sets = info.context if value and len(set(value)) == len(value) else None
    return sets.number(value) if isinstance(sets, ClassSets) else names(value)


def _read_by_class(value: Any, by_name: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    if isinstance(info.context, ClassSets) and value:
        if not isinstance(value, dict) or value.keys() != {"of", "values"}:
            raise ValueError("expected 'of', the number of a class set, and 'values'")
        names = info.context.names(value["of"])
        value = dict(zip(names, _rows(value["values"], len(names)), strict=True))
    return by_name(value)


def _write_by_class(
    value: dict[str, Any], by_name: SerializerFunctionWrapHandler, info: SerializationInfo
) -> Any:
    found = by_name(value)
    if not isinstance(info.context, ClassSets) or not found:
        return found
    return {"of": info.context.number(found), "values": _columns(list(found.values()))}


def _columns(rows: list[Any]) -> Any:
    """Return records of the same keys as one list per key: no key is written once per class."""
    keys = next((list(row) for row in rows if isinstance(row, dict)), None)
    if keys is None:
        return rows
    return {key: _columns([None if row is None else row[key] for row in rows]) for key in keys}


def _rows(columns: Any, count: int) -> list[Any]:
    """Return what `_columns` was given; a record of nothing but None was None."""
    if isinstance(columns, dict) and columns:
        lists = [_rows(column, count) for column in columns.values()]
        records = (dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True))
        return [one if any(x is not None for x in one.values()) else None for one in records]
    if not isinstance(columns, list) or len(columns) != count:
        raise ValueError(f"expected a list of {count} values, one for each class of the set")
    return columns


Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Stage = Annotated[int, Field(ge=1)]
AnyNames = Annotated[tuple[str, ...], WrapValidator(_read_names), WrapSerializer(_write_names)]
Names = Annotated[
    tuple[str, ...],
    Field(min_length=1), WrapValidator(_read_names), WrapSerializer(_write_names),
]  # fmt: skip
Pixels = tuple[float, float, float, float]
InnerPath = Annotated[str, AfterValidator(_inside_the_run_folder)]
"""POSIX path relative to the run folder."""

V = TypeVar("V")
ByClass = Annotated[dict[str, V], WrapValidator(_read_by_class), WrapSerializer(_write_by_class)]
"""Class name -> value."""
