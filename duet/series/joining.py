"""Putting slices together: other class orders, several data sets as one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from duet.errors import DataError
from duet.labels import LabelSpace
from duet.series.model import Slice

_COLUMNS = ("boxes", "class_ids", "sizes", "ignored", "crowds")


def with_classes(data: Slice, classes: Sequence[str]) -> Slice:
    """Return a slice whose class ids count in ``classes``.

    Args:
        data: The slice.
        classes: Holds every class of the slice, and perhaps others.

    Raises:
        DataError: A class of the slice is not among them.
    """
    new_ids = np.array(LabelSpace(tuple(classes)).indices(data.classes), dtype=np.int64)
    return replace(
        data, classes=tuple(classes), class_ids=tuple(new_ids[ids] for ids in data.class_ids)
    )


def join_slices(slices: Sequence[Slice], classes: Sequence[str]) -> Slice:
    """Return the images of several slices as one, in order.

    An image of several slices appears once, with the labels of all of them: where two know a class,
    the first one's objects of it count.

    Args:
        slices: One or more.
        classes: Their classes together; positions become class ids.

    Raises:
        DataError: There is no slice, or a class is not in ``classes``.
    """
    if not slices:
        raise DataError("expected one slice or more to join, got none")
    if len(slices) == 1:
        return with_classes(slices[0], classes)
    rows: dict[Path, dict[str, Any]] = {}
    known: dict[Path, set[int]] = {}
    for data in slices:
        part = with_classes(data, classes)
        own = {classes.index(name) for name in data.classes}
        for values in zip(part.images, *(getattr(part, name) for name in _COLUMNS), strict=True):
            image, row = values[0], dict(zip(_COLUMNS, values[1:], strict=True))
            rows[image] = _beside(rows[image], row, known[image]) if image in rows else row
            known.setdefault(image, set()).update(own)
    columns: dict[str, Any] = {name: tuple(row[name] for row in rows.values()) for name in _COLUMNS}
    domains = "+".join(dict.fromkeys(data.domain for data in slices))
    return replace(slices[0], domain=domains, classes=tuple(classes), images=tuple(rows), **columns)


def _beside(
    first: Mapping[str, Any], second: Mapping[str, Any], known: Collection[int]
) -> dict[str, Any]:
    """Return the objects of one image in two slices, of the second those of other classes."""
    new = np.array([index not in known for index in second["class_ids"].tolist()], np.bool_)
    joined = {
        name: np.concatenate([first[name], second[name][new]])
        for name in _COLUMNS
        if name != "sizes"
    }
    return {**joined, "sizes": first["sizes"]}
