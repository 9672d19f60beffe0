"""Cutting slices: some classes of one split, in memory; label files are never rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from duet.series.model import Annotation, DomainData, Ids, Slice

Images = Literal["all", "with-objects"]


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
    return _cut(data, classes, split, images="with-objects", ignored=False)


def eval_slice(
    data: DomainData, classes: Sequence[str], split: str, *, images: Images = "all"
) -> Slice:
    """Return a split for evaluation, with only the labels of ``classes``.

    Args:
        data: The data set of a domain.
        classes: Class names; their position becomes the class id.
        split: Name of the split.
        images: ``"all"`` keeps the whole split, so that false positives on images without these
            classes count; ``"with-objects"`` keeps the images that hold one that is not ignored.

    Raises:
        DataError: A class or the split is unknown.
    """
    return _cut(data, classes, split, images=images, ignored=True)


def eval_split(data: DomainData) -> str:
    """Return the split to evaluate on: ``"test"`` if the data set has one, else ``"val"``."""
    return "test" if "test" in data.splits else "val"


def _cut(
    data: DomainData, classes: Sequence[str], split: str, *, images: Images, ignored: bool
) -> Slice:
    """Return a slice, with its ignored objects or without them."""
    source = data.split(split)
    # new_ids[old id] = position in `classes`, or -1 for the classes left out
    new_ids = np.full(max(len(data.labels), 1), -1, dtype=np.int64)
    for position, index in enumerate(data.labels.indices(classes)):
        new_ids[index] = position
    rows = [
        (path, _reduced(annotation, new_ids, ignored=ignored))
        for path, annotation in zip(source.images, source.annotations, strict=True)
    ]
    if images == "with-objects":
        rows = [row for row in rows if len(row[1].object_ids)]
    return Slice(
        domain=data.name,
        split=split,
        classes=tuple(classes),
        images=tuple(path for path, _ in rows),
        class_ids=tuple(kept.class_ids for _, kept in rows),
        boxes=tuple(kept.boxes for _, kept in rows),
        sizes=tuple((kept.height, kept.width) for _, kept in rows),
        ignored=tuple(kept.ignored for _, kept in rows),
        crowds=tuple(kept.crowds for _, kept in rows),
    )


def _reduced(annotation: Annotation, new_ids: Ids, *, ignored: bool) -> Annotation:
    """Return the objects whose class is kept, under their new ids."""
    ids = new_ids[annotation.class_ids]
    kept = ids >= 0 if ignored else (ids >= 0) & ~annotation.ignored
    return replace(annotation.take(kept), class_ids=ids[kept])
