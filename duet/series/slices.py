"""Cutting slices and putting them together, in memory; label files are never rewritten."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from duet.errors import DataError
from duet.labels import LabelSpace
from duet.series.model import COLUMNS, Annotation, DomainData, Slice


def train_slice(data: DomainData, classes: Sequence[str], split: str = "train") -> Slice:
    """Return the images that hold at least one object of ``classes``, with only those labels.

    Other objects on these images stay unlabelled, as in the dual incremental setting. Ignored
    objects are no labels, as in VOC's own training sets and in Ultralytics: they are left out, and
    an image that holds nothing else is not a training image.

    Args:
        data: The data set of a domain.
        classes: Class names; their position becomes the class id.
        split: Name of the split.

    Raises:
        DataError: A class or the split is unknown.
    """
    whole = eval_slice(data, classes, split)
    kept = [place for place, found in enumerate(whole.annotations) if len(found.object_ids)]
    labelled = (whole.annotations[place] for place in kept)
    return replace(
        whole,
        images=tuple(whole.images[place] for place in kept),
        annotations=tuple(found.take(~found.ignored) for found in labelled),
    )


def eval_slice(data: DomainData, classes: Sequence[str], split: str) -> Slice:
    """Return a whole split for evaluation, with only the labels of ``classes``.

    Images without these classes are there, so that false positives on them count.

    Args:
        data: The data set of a domain.
        classes: Class names; their position becomes the class id.
        split: Name of the split.

    Raises:
        DataError: A class or the split is unknown.
    """
    source = data.split(split)
    new_ids = np.full(max(len(data.labels), 1), -1, dtype=np.int64)
    for position, index in enumerate(data.labels.indices(classes)):
        new_ids[index] = position
    annotations = tuple(found.renumbered(new_ids) for found in source.annotations)
    return Slice(data.name, split, tuple(classes), source.images, annotations)


def eval_split(data: DomainData) -> str:
    """Return the split to evaluate on: ``"test"`` if the data set has one, else ``"val"``."""
    return "test" if "test" in data.splits else "val"


def with_classes(data: Slice, classes: Sequence[str]) -> Slice:
    """Return a slice whose class ids count in ``classes``.

    Args:
        data: The slice.
        classes: Holds every class of the slice, and perhaps others.

    Raises:
        DataError: A class of the slice is not among them.
    """
    if data.classes == tuple(classes):
        return data
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
            if image in rows:
                new = found.take(~np.isin(found.class_ids, list(known[image])))
                rows[image] = _beside(rows[image], new)
            else:
                rows[image] = found
            known[image] |= own
    domains = "+".join(dict.fromkeys(data.domain for data in slices))
    return Slice(domains, slices[0].split, tuple(classes), tuple(rows), tuple(rows.values()))


def _beside(first: Annotation, second: Annotation) -> Annotation:
    """Return all objects of two annotations of one image."""
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in COLUMNS
    }
    return replace(first, **joined)
