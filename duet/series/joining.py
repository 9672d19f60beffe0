"""Putting slices together: other class orders, several data sets as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from duet.errors import DataError
from duet.labels import LabelSpace
from duet.series.model import Slice


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
    """Return the images of several training slices as one, in order.

    Args:
        slices: One or more, of different images.
        classes: Their classes together; positions become class ids.

    Raises:
        DataError: There is no slice, an image is in two of them, or a class is not in ``classes``.
    """
    if not slices:
        raise DataError("expected one slice or more to join, got none")
    parts = [with_classes(data, classes) for data in slices]
    images = tuple(image for part in parts for image in part.images)
    if len(set(images)) < len(images):
        doubled = next(image for image in images if images.count(image) > 1)
        raise DataError("an image is in two slices", where=str(doubled))
    columns: dict[str, Any] = {
        name: tuple(value for part in parts for value in getattr(part, name))
        for name in ("boxes", "class_ids", "sizes", "ignored", "crowds")
    }
    domains = "+".join(dict.fromkeys(part.domain for part in parts))
    return replace(parts[0], domain=domains, images=images, **columns)
