"""Cutting slices: some classes of one split, in memory; label files are never rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from duet.series.model import DomainData, Slice


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
