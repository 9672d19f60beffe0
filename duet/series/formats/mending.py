"""What can be mended without knowing what was meant, and the boxes that cannot have been meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duet.series.formats.boxes import OVERSHOOT_PX, TOLERANCE
from duet.series.model import Annotation, Boxes, DomainData, Flags, Split
from duet.series.problems import Location, Problem

CORNER_PX = 1.5
"""A box of a pixel so near to a corner is the (1, 1, 1, 1) of tools that need some box."""

TINY_PX = 0.999
"""Sides below one pixel; labels with six decimals of a 1000 px image are off by 0.0005 px.

Boxes of a single pixel, up to `CORNER_PX` along both sides, are as tiny.
"""

DROPPED = frozenset(
    f"label.{kind}"
    for kind in (
        *("columns", "number", "degenerate", "duplicate", "range"),
        *("fields", "dummy", "image"),
    )
)
"""Kinds of problem whose row or object is left out."""

Sizes = NDArray[np.float64]
"""``(n, 2) float64`` width and height in pixels of the image that each box is on."""


@dataclass(frozen=True)
class Change:
    """One repair.

    Attributes:
        file: The image or label file concerned, with the line or object where there is one.
        action: ``"dropped image"``, ``"dropped label file"``, ``"dropped row"`` or
            ``"clipped box"``.
        code: The kind of problem.
        why: What was wrong.
    """

    file: Location
    action: str
    code: str
    why: str

    @classmethod
    def of(cls, problem: Problem, action: str) -> Change:
        """Return what was done about a problem."""
        return cls(problem.where, action, problem.code, problem.what)

    def as_dict(self) -> dict[str, str]:
        """Return the change as JSON-ready data."""
        return {**asdict(self), "file": str(self.file)}


def dummies(boxes: Boxes, sizes: Sizes) -> Flags:
    """Return ``(n,) bool``: boxes that some tool wrote because it needed one.

    A box of a pixel in a corner is VOC's ``1, 1, 1, 1``; ``1 1 1 1`` is the same in YOLO's columns.
    """
    pixels = boxes * np.tile(sizes, 2)
    near = np.minimum(pixels[:, :2], sizes - pixels[:, :2])
    speck = (pixels[:, 2:] <= CORNER_PX).all(axis=1) & (near <= CORNER_PX).all(axis=1)
    ones = (boxes >= 1 - 1e-6).all(axis=1)
    return np.asarray(speck | ones, np.bool_)


def tinies(boxes: Boxes, sizes: Sizes) -> Flags:
    """Return ``(n,) bool``: boxes with a side below one pixel, or of one pixel only."""
    sides = boxes[:, 2:] * sizes
    return np.asarray((sides < TINY_PX).any(axis=1) | (sides <= CORNER_PX).all(axis=1), np.bool_)


def overshooting(boxes: Boxes, sizes: Sizes) -> Flags:
    """Return ``(n,) bool``: boxes with an edge more than a pixel outside the image."""
    low = (boxes[:, :2] - boxes[:, 2:] / 2) * sizes
    high = (boxes[:, :2] + boxes[:, 2:] / 2 - 1) * sizes
    over = np.maximum(-low, high) > OVERSHOOT_PX + TOLERANCE
    return np.asarray(over.any(axis=1), np.bool_)


def wrong_boxes(annotation: Annotation) -> tuple[Flags, Flags, Flags]:
    """Return ``(n,) bool`` each: placeholders, specks, boxes that stick out."""
    sizes = np.full((len(annotation.boxes), 2), (annotation.width, annotation.height), np.float64)
    boxes = (annotation.boxes, sizes)
    return dummies(*boxes), tinies(*boxes), overshooting(*boxes)


def inside(boxes: Boxes) -> Boxes:
    """Return ``(n, 4)`` normalised cxcywh boxes cut at the image's edges."""
    low = np.clip(boxes[:, :2] - boxes[:, 2:] / 2, 0, 1)
    high = np.clip(boxes[:, :2] + boxes[:, 2:] / 2, 0, 1)
    return np.asarray(np.concatenate([(low + high) / 2, high - low], axis=1), np.float64)


def by_objects(write: Callable[..., object]) -> Callable[..., list[Change]]:
    """Return `Format.mend` for a format that writes objects, not the rows that it read.

    Args:
        write: The format's own.
    """

    def mend(data: DomainData, folder: Any, **options: Any) -> list[Change]:
        kept, changes = without_wrong_boxes(data)
        write(kept, folder, **options)
        return changes

    return mend


def without_wrong_boxes(data: DomainData) -> tuple[DomainData, list[Change]]:
    """Return a data set without specks, its boxes clipped, and what was changed."""
    changes: list[Change] = []
    splits = {}
    for name, split in data.splits.items():
        annotations = []
        for image, annotation in zip(split.images, split.annotations, strict=True):
            dummy, tiny, outside = wrong_boxes(annotation)
            kept = ~(dummy | tiny)
            place = Location(image)
            for row in np.flatnonzero(~kept).tolist():
                code = "label.dummy" if dummy[row] else "label.tiny"
                changes.append(Change(place, "dropped row", code, f"object {row + 1}"))
            for row in np.flatnonzero(outside & kept).tolist():
                changes.append(Change(place, "clipped box", "label.outside", f"object {row + 1}"))
            boxes = annotation.boxes.copy()
            boxes[outside] = inside(boxes[outside])
            annotations.append(replace(annotation, boxes=boxes).take(kept))
        splits[name] = Split(name, split.images, tuple(annotations))
    return replace(data, splits=splits), changes
