"""Boxes that are well written but cannot be meant: placeholders, specks, overshoots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duet.series.formats.mending import Sizes, dummies, overshooting, tinies
from duet.series.model import Boxes, DomainData, Flags, Ids
from duet.series.problems import Problem, error, note, warning

WHOLE = 0.995
"""Share of both sides from which a box counts as the whole image."""

WHOLE_MANY, WHOLE_SHARE = 3, 0.01
"""Whole-image boxes in a data set that make a warning: so many, and this share of its images.

One close-up fills its image now and then (every 300th image in VOC); a data set made from class
folders has such a box everywhere.
"""

SAME_MANY, SAME_SHARE, SAME_MOST = 5, 0.1, 0.5
"""Images with the very same box of a class: so many, and this share of the images of that class,
make a note; the larger share makes a warning. A fixed camera may see a parked car again and again,
but not every car in one place.
"""


@dataclass(frozen=True, eq=False)
class BoxTable:
    """All objects of a data set, ignored ones left out.

    Attributes:
        images: Every image once.
        rows: ``(n,) int64`` position of each object's image in ``images``.
        class_ids: ``(n,) int64``.
        boxes: ``(n, 4) float64`` cxcywh, normalised.
        sizes: ``(n, 2) float64`` width and height of the object's image in pixels.
    """

    images: tuple[Path, ...]
    rows: Ids
    class_ids: Ids
    boxes: Boxes
    sizes: Sizes

    @classmethod
    def of(cls, data: DomainData) -> BoxTable:
        """Collect the objects of all splits; an image that is in two splits counts once."""
        annotations = {
            image: annotation
            for split in data.splits.values()
            for image, annotation in zip(split.images, split.annotations, strict=True)
        }
        kept = [~annotation.ignored for annotation in annotations.values()]
        counts = [int(mask.sum()) for mask in kept]
        items = list(zip(annotations.values(), kept, strict=True))
        sizes = np.array([(a.width, a.height) for a in annotations.values()], np.float64)
        rows = np.repeat(np.arange(len(items)), counts)
        return cls(
            tuple(annotations),
            rows,
            np.concatenate([a.class_ids[mask] for a, mask in items] or [np.zeros(0, np.int64)]),
            np.concatenate([a.boxes[mask] for a, mask in items] or [np.zeros((0, 4))]),
            sizes.reshape(-1, 2)[rows],
        )


def box_problems(data: DomainData, *, overshoots: bool) -> Iterator[Problem]:
    """Yield placeholders, boxes below a pixel, whole-image boxes and boxes that stick out.

    Args:
        data: A data set.
        overshoots: Report boxes that stick out; most readers do so themselves.
    """
    table = BoxTable.of(data)
    boxes = (table.boxes, table.sizes)
    dummy, tiny, outside = dummies(*boxes), tinies(*boxes), overshooting(*boxes)
    for row in np.flatnonzero(dummy).tolist():
        remedy = "delete it, or draw it around the object"
        yield error("label.dummy", *_place(data, table, row, "a placeholder box"), remedy)
    for row in np.flatnonzero(tiny & ~dummy).tolist():
        place = _place(data, table, row, "a side below one pixel, or just one pixel")
        remedy = "delete it: no detector can learn from less than a pixel"
        yield warning("label.tiny", *place, remedy)
    for row in np.flatnonzero(outside & ~dummy & overshoots).tolist():
        remedy = "draw it within the image"
        yield warning("label.outside", *_place(data, table, row, "sticks out"), remedy)
    whole = (table.boxes[:, 2:] >= WHOLE).all(axis=1)
    yield from _whole_images(data, table, whole & ~dummy)
    yield from _same_boxes(data, table, ~whole & ~dummy)


def _whole_images(data: DomainData, table: BoxTable, whole: Flags) -> Iterator[Problem]:
    """Yield boxes that cover their whole image: a warning where that happens again and again."""
    holding = len(np.unique(table.rows[whole]))
    many = holding >= WHOLE_MANY and holding > WHOLE_SHARE * len(table.images)
    kind = warning if many else note
    for row in np.flatnonzero(whole).tolist():
        what = f"covers the whole image ({holding} of {len(table.images)} images have such a box)"
        remedy = "look at some: a label of the whole image teaches no place; draw the objects"
        yield kind("label.whole-image", *_place(data, table, row, what), remedy)


def _same_boxes(data: DomainData, table: BoxTable, drawn: Flags) -> Iterator[Problem]:
    """Yield boxes of a class that are the very same in many images: filled in, not drawn."""
    rows = np.flatnonzero(drawn)
    keys = np.column_stack([table.class_ids, np.round(table.boxes * 1e6)])[rows].astype(np.int64)
    _, groups, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    for group in np.flatnonzero(counts >= SAME_MANY).tolist():
        same = rows[groups.reshape(-1) == group]
        of_class = table.class_ids == table.class_ids[same[0]]
        holding, images = (len(np.unique(table.rows[mask])) for mask in (same, of_class))
        if holding < SAME_MANY or holding < SAME_SHARE * images:
            continue
        kind = warning if holding > SAME_MOST * images else note
        what = f"the very same box on {holding} of {images} images of the class"
        remedy = "look at some: were they drawn, or filled in? draw the objects"
        for row in same.tolist():
            yield kind("label.same-box", *_place(data, table, row, what), remedy)


def _place(data: DomainData, table: BoxTable, row: int, what: str) -> tuple[Path, str]:
    """Return where an object is and what is wrong with it."""
    pixels = table.boxes[row] * np.tile(table.sizes[row], 2)
    name = data.labels.names[table.class_ids[row]] if len(data.labels) else table.class_ids[row]
    size = f"{pixels[2]:.4g} x {pixels[3]:.4g} px around ({pixels[0]:.4g}, {pixels[1]:.4g})"
    return table.images[table.rows[row]], f"'{name}' of {size}: {what}"
