"""Cutting slices: some classes of one split, in memory; label files are never rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from duet.series.model import Annotation, Boxes, DomainData, Ids, Slice

Images = Literal["all", "with-objects"]


def train_slice(data: DomainData, classes: Sequence[str], split: str = "train") -> Slice:
    """Return the images that hold at least one object of ``classes``, with only those labels.

    Other objects on these images stay unlabelled, as in the dual incremental setting.

    Args:
        data: The data set of a domain.
        classes: Class names; their position becomes the class id.
        split: Name of the split.

    Raises:
        DataError: A class or the split is unknown.
    """
    return _cut(data, classes, split, images="with-objects")


def eval_slice(
    data: DomainData, classes: Sequence[str], split: str, *, images: Images = "all"
) -> Slice:
    """Return a split for evaluation, with only the labels of ``classes``.

    Args:
        data: The data set of a domain.
        classes: Class names; their position becomes the class id.
        split: Name of the split.
        images: ``"all"`` keeps the whole split, so that false positives on images without these
            classes count; ``"with-objects"`` keeps the images that hold one.

    Raises:
        DataError: A class or the split is unknown.
    """
    return _cut(data, classes, split, images=images)


def eval_split(data: DomainData) -> str:
    """Return the split to evaluate on: ``"test"`` if the data set has one, else ``"val"``."""
    return "test" if "test" in data.splits else "val"


def _cut(data: DomainData, classes: Sequence[str], split: str, *, images: Images) -> Slice:
    source = data.split(split)
    # new_ids[old id] = position in `classes`, or -1 for the classes left out
    new_ids = np.full(max(len(data.labels), 1), -1, dtype=np.int64)
    for position, index in enumerate(data.labels.indices(classes)):
        new_ids[index] = position
    rows = [
        (path, *_reduced(annotation, new_ids), (annotation.height, annotation.width))
        for path, annotation in zip(source.images, source.annotations, strict=True)
    ]
    if images == "with-objects":
        rows = [row for row in rows if len(row[1])]
    return Slice(
        domain=data.name,
        split=split,
        classes=tuple(classes),
        images=tuple(row[0] for row in rows),
        class_ids=tuple(row[1] for row in rows),
        boxes=tuple(row[2] for row in rows),
        sizes=tuple(row[3] for row in rows),
    )


def _reduced(annotation: Annotation, new_ids: Ids) -> tuple[Ids, Boxes]:
    """Return ``(m,)`` new ids and ``(m, 4)`` boxes of the objects whose class is kept."""
    ids = new_ids[annotation.class_ids]
    kept = ids >= 0
    return ids[kept], annotation.boxes[kept]
