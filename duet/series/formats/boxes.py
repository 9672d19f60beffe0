"""The one place where labels become normalised boxes, whatever format they were written in.

Every reader rounds the normalised cxcywh to `DECIMALS` decimals, so a data set has the very same
float64 boxes in every format: what pixels lose and regain on the way is far smaller. At an image
side of 10 000 px the step is 1e-5 px. Labels of up to nine decimals keep their exact value.

Shape legend: n objects, m images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duet.series.model import Annotation, Boxes, Flags, Ids, none_of
from duet.series.problems import Location, Problem, error, warning

DECIMALS = 9

NOTHING = 0.5 * 10**-DECIMALS
"""A side up to this, as a share of the image, is rounded to 0."""

TOLERANCE = 1e-3
"""How far a normalised coordinate may leave 0..1: labelling tools round; it is then clipped."""

OVERSHOOT_PX = 1.0
"""How far an edge may leave the image unmentioned: tools that count pixels from 0 write VOC too."""

Where = Callable[[int, int], Location]
"""Place of an object for problems, from its image's position and its own number."""


def number(text: str) -> float:
    """Return the number that a label file spells, as other programs read it.

    Raises:
        ValueError: It is none; Python alone takes ``1_000`` and the digits of all scripts.
    """
    if not text.isascii() or "_" in text:
        raise ValueError(shortened(repr(text)))
    try:
        return float(text)
    except ValueError:
        raise ValueError(shortened(repr(text))) from None


def shortened(text: str) -> str:
    """Return what a message quotes of a file, 80 letters at most."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def rounded(boxes: Boxes) -> Boxes:
    """Return ``(n, 4) float64`` cxcywh, clipped to 0..1 and on the grid of `DECIMALS` decimals."""
    # k / 1e9 is the float64 nearest to the decimal number, so '0.123456789' keeps its value.
    # The added zero turns -0.0 into 0.0, which has other bytes.
    grid = np.round(np.clip(boxes, 0.0, 1.0), DECIMALS) + 0.0
    return grid.astype(np.float64)


@dataclass(frozen=True, eq=False)
class PixelBoxes:
    """Labelled objects of several images in pixels.

    Attributes:
        images: ``(n,) int64`` position of the image.
        class_ids: ``(n,) int64``.
        xyxy: ``(n, 4) float64`` left, top, right, bottom edges from 0, in pixels, finite.
        ignored: ``(n,) bool``, see `Annotation`.
        crowds: ``(n,) bool``, see `Annotation`.
        numbers: ``(n,) int64`` what the file calls the object: its position or its id.
    """

    images: Ids
    class_ids: Ids
    xyxy: Boxes
    ignored: Flags
    crowds: Flags
    numbers: Ids

    @classmethod
    def of(cls, *columns: Sequence[Any]) -> PixelBoxes:
        """Return objects from columns of Python's values, in the order of the attributes."""
        kinds = (np.int64, np.int64, np.float64, np.bool_, np.bool_, np.int64)
        arrays: list[Any] = [
            np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)
        ]
        arrays[2] = arrays[2].reshape(-1, 4)
        return cls(*arrays)

    def take(self, rows: NDArray[np.int64] | Flags) -> PixelBoxes:
        """Return some of the objects, by position or by a mask."""
        return PixelBoxes(*(getattr(self, column.name)[rows] for column in fields(self)))


def annotate(
    objects: PixelBoxes, sizes: NDArray[np.int64], where: Where
) -> tuple[list[Annotation], list[Problem]]:
    """Return the annotation of every image, without the objects that cannot be used.

    Objects whose centre lies outside, or which are larger than the image, empty, or written twice
    are errors and left out. One that only sticks out is kept as it is, as in YOLO's format.

    Args:
        objects: In the order in which each image's objects shall stand.
        sizes: ``(m, 2)`` width and height in pixels, above 0 where the image has an object.
        where: Names an object in a problem.

    Returns:
        One annotation per image, and the problems in the order of the objects.
    """
    scale = sizes[objects.images].astype(np.float64)
    centre = (objects.xyxy[:, :2] + objects.xyxy[:, 2:]) / 2 / scale
    side = (objects.xyxy[:, 2:] - objects.xyxy[:, :2]) / scale
    boxes = rounded(np.concatenate([centre, side], axis=1))
    empty: Flags = np.any(side <= NOTHING, axis=1)
    strays = (centre < -TOLERANCE) | (centre > 1 + TOLERANCE) | (side > 1 + TOLERANCE)
    outside: Flags = np.any(strays, axis=1)
    over = np.maximum(-objects.xyxy[:, :2], objects.xyxy[:, 2:] - scale).max(axis=1, initial=0)
    doubled = _repeated(objects, boxes) & ~empty & ~outside
    problems: list[Problem] = []
    for row in np.flatnonzero(empty | outside | doubled | (over > OVERSHOOT_PX + TOLERANCE)):
        place = where(int(objects.images[row]), int(objects.numbers[row]))
        size = "x".join(f"{int(value)}" for value in scale[row])
        if empty[row]:
            problems.append(_empty(place, objects.xyxy[row]))
        if outside[row]:
            problems.append(_outside(place, objects.xyxy[row], size))
        elif doubled[row]:
            remedy = "delete one of the two"
            problems.append(error("label.duplicate", place, "the same object twice", remedy))
        elif not empty[row]:
            what = f"the box sticks out of the image by {over[row]:g} px (image {size})"
            problems.append(warning("label.outside", place, what, "draw it within the image"))
    kept = ~(empty | outside | doubled)
    return _by_image(objects.take(kept), boxes[kept], sizes), problems


def _repeated(objects: PixelBoxes, boxes: Boxes) -> Flags:
    """Return ``(n,) bool``: objects that an earlier one of the image equals in every respect."""
    table = np.column_stack(
        [objects.images, objects.class_ids, objects.ignored, objects.crowds, boxes]
    ).astype(np.float64)
    if not len(table):
        return none_of(0)
    keys = np.ascontiguousarray(table).view(np.dtype((np.void, table.itemsize * table.shape[1])))
    repeated = np.ones(len(table), dtype=np.bool_)
    repeated[np.unique(keys[:, 0], return_index=True)[1]] = False
    return repeated


def _empty(place: Location, xyxy: Boxes) -> Problem:
    width, height = xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]
    what = f"width and height must be above 0, got {width:g} x {height:g} px"
    return error("label.degenerate", place, what, "delete the object or draw it again")


def _outside(place: Location, xyxy: Boxes, size: str) -> Problem:
    edges = ", ".join(f"{value:g}" for value in xyxy)
    what = f"the box does not fit the image of {size} px, its edges are {edges}"
    remedy = "coordinates are pixels of the upright image: was it resized or turned afterwards?"
    return error("label.range", place, what, remedy)


def _by_image(objects: PixelBoxes, boxes: Boxes, sizes: NDArray[np.int64]) -> list[Annotation]:
    order = np.argsort(objects.images, kind="stable")
    edges = np.searchsorted(objects.images[order], np.arange(len(sizes) + 1)).tolist()
    ids, boxes = objects.class_ids[order], boxes[order]
    ignored, crowds = objects.ignored[order], objects.crowds[order]
    found: list[Annotation] = []
    for (width, height), begin, end in zip(sizes.tolist(), edges[:-1], edges[1:], strict=True):
        flags = (ignored[begin:end], crowds[begin:end]) if ignored[begin:end].any() else ()
        found.append(Annotation(ids[begin:end], boxes[begin:end], width, height, *flags))
    return found


def to_pixels(
    annotation: Annotation,
    encode: Callable[[Boxes], Boxes],
    decode: Callable[[Boxes], Boxes],
) -> Boxes:
    """Return boxes in a format's pixel numbers, each with as few decimals as read back exactly.

    So whole pixels stay whole numbers, although the normalised boxes are rounded.

    Args:
        annotation: The boxes of one image.
        encode: From left, top, right, bottom edges in pixels to the numbers of the format.
        decode: Its inverse.
    """
    boxes, scale = annotation.boxes, np.array([annotation.width, annotation.height] * 2, np.float64)
    exact = encode(annotation.xyxy)
    result = exact.copy()
    open_rows = np.arange(len(boxes))
    for decimals in range(13):
        short = np.round(exact[open_rows], decimals)
        edges = decode(short)
        centre, side = (edges[:, :2] + edges[:, 2:]) / 2, edges[:, 2:] - edges[:, :2]
        gap = np.abs(np.concatenate([centre, side], axis=1) / scale - boxes[open_rows])
        # Just inside half a step, so that the reader's last bits cannot round the other way.
        fits = (gap < 0.998 * NOTHING).all(axis=1)
        result[open_rows[fits]] = short[fits]
        open_rows = open_rows[~fits]
        if not len(open_rows):
            break
    return result
