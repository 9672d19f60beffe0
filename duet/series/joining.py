"""Putting slices together: other class orders, several data sets as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from duet.errors import DataError
from duet.labels import LabelSpace
from duet.series.model import COLUMNS, Annotation, Slice


def with_classes(data: Slice, classes: Sequence[str]) -> Slice:
    """Return a slice whose class ids count in ``classes``.

    Args:
        data: The slice.
        classes: Holds every class of the slice, and perhaps others.

    Raises:
        DataError: A class of the slice is not among them.
    """
    new_ids = np.array(LabelSpace(tuple(classes)).indices(data.classes), dtype=np.int64)
    annotations = tuple(found.renumbered(new_ids) for found in data.annotations)
    return replace(data, classes=tuple(classes), annotations=annotations)


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
    rows: dict[Path, Annotation] = {}
    known: dict[Path, set[int]] = defaultdict(set)
    for data in slices:
        part = with_classes(data, classes)
        own = {classes.index(name) for name in data.classes}
        for image, found in zip(part.images, part.annotations, strict=True):
            new = found.take(~np.isin(found.class_ids, list(known[image])))
            rows[image] = _beside(rows[image], new) if image in rows else new
            known[image] |= own
    domains = "+".join(dict.fromkeys(data.domain for data in slices))
    return Slice(domains, slices[0].split, tuple(classes), tuple(rows), tuple(rows.values()))


def _beside(first: Annotation, second: Annotation) -> Annotation:
    """Return all objects of two annotations of one image."""
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in COLUMNS
    }
    return replace(first, **joined)
