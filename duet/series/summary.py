"""What a series holds, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from duet.series.model import Split
from duet.series.series import Increment, Series


@dataclass(frozen=True)
class SplitCounts:
    """One split, seen by one increment.

    Attributes:
        images: All images of the split.
        with_objects: Images that hold at least one object of the increment's classes.
        objects: Objects per class of the increment, without ignored ones.
        smallest: Smallest ``(width, height)`` in pixels, per side; None without images.
        largest: Largest ``(width, height)`` in pixels, per side; None without images.
        ignored: Ignored objects of the increment's classes (VOC's difficult, COCO's crowds).
    """

    images: int
    with_objects: int
    objects: Mapping[str, int]
    smallest: tuple[int, int] | None
    largest: tuple[int, int] | None
    ignored: int = 0


@dataclass(frozen=True)
class IncrementCounts:
    """One increment and its splits."""

    name: str
    domain: str
    classes: tuple[str, ...]
    splits: Mapping[str, SplitCounts]


def summarise(series: Series) -> tuple[IncrementCounts, ...]:
    """Count images, objects and sizes of every increment."""
    return tuple(
        IncrementCounts(
            increment.name,
            increment.domain,
            increment.classes,
            {name: _count(increment, split) for name, split in increment.data.splits.items()},
        )
        for increment in series.increments
    )


def _count(increment: Increment, split: Split) -> SplitCounts:
    labels = increment.data.labels
    names = {labels.index(name): name for name in increment.classes if name in labels}
    objects = dict.fromkeys(increment.classes, 0)
    with_objects = ignored = 0
    for annotation in split.annotations:
        ignored += sum(i in names for i in annotation.class_ids[annotation.ignored].tolist())
        found = [names[index] for index in annotation.object_ids.tolist() if index in names]
        with_objects += bool(found)
        for name in found:
            objects[name] += 1
    widths = [annotation.width for annotation in split.annotations]
    heights = [annotation.height for annotation in split.annotations]
    return SplitCounts(
        images=len(split.images),
        with_objects=with_objects,
        objects=objects,
        smallest=(min(widths), min(heights)) if widths else None,
        largest=(max(widths), max(heights)) if widths else None,
        ignored=ignored,
    )
