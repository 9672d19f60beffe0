"""One object, several boxes: detections of different classes that lie on each other.

AP looks at one class at a time and cannot see them. Parts of a detector that were trained without
each other both answer where one of their objects is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from duet.defaults import DOUBLE_IOU
from duet.detections import Detections
from duet.errors import DataError

BLOCK = 50
"""Images whose detections are compared at a time."""

FLOOR = 0.05
"""Detections with a lower score are not looked at: no detector is deployed at such a threshold."""


@dataclass(frozen=True, eq=False)
class Doubles:
    """Pairs of detections in one image, of two classes, that overlap by more than `DOUBLE_IOU`.

    Attributes:
        classes: Class names of the detector.
        pairs: ``(p, 2)`` int64, positions of the two classes in ``classes``.
        scores: ``(p, 2)`` float32, scores of the two detections.
        images: Number of images that were looked at.
    """

    classes: tuple[str, ...]
    pairs: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    images: int

    def __post_init__(self) -> None:
        fits = self.pairs.shape == self.scores.shape == (len(self.pairs), 2)
        if not fits or self.images < 0:
            raise DataError(f"pairs need two classes and two scores each, got {self.pairs.shape}")
        if not ((self.pairs >= 0) & (self.pairs < len(self.classes))).all():
            raise DataError(f"pairs speak of classes beyond {len(self.classes)}")

    def count(
        self, thresholds: Mapping[str, float], increments: Mapping[str, object]
    ) -> tuple[int, int]:
        """Return how many pairs a user sees: within one increment, and between two.

        Args:
            thresholds: Class name -> lowest score that is shown; of every class.
            increments: Class name -> what it came with; classes left out came with nothing else.
        """
        least = np.array([thresholds[name] for name in self.classes], np.float32)
        numbers: dict[object, int] = {}
        came = [increments.get(name, name) for name in self.classes]
        groups = np.array([numbers.setdefault(one, len(numbers)) for one in came], np.int64)
        shown = (self.scores >= least[self.pairs]).all(axis=1)
        first, second = groups[self.pairs[shown]].T
        return int((first == second).sum()), int((first != second).sum())


def find_doubles(predictions: Sequence[Detections], classes: Sequence[str]) -> Doubles:
    """Return the pairs in the detections of one detector.

    Args:
        predictions: One entry per image; all with the label space of the detector.
        classes: Its class names.
    """
    pairs, scores = [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.float32)]
    for begin in range(0, len(predictions), BLOCK):
        some = predictions[begin : begin + BLOCK]
        sure = np.concatenate([item.scores for item in some])
        keep = sure >= np.float32(FLOOR)
        images = np.repeat(np.arange(len(some)), [len(item) for item in some])[keep]
        ids = np.concatenate([item.class_ids for item in some])[keep]
        rows = _overlapping(np.concatenate([item.xyxy for item in some])[keep], images)
        rows = rows[ids[rows[:, 0]] != ids[rows[:, 1]]]
        pairs.append(ids[rows])
        scores.append(sure[keep][rows])
    return Doubles(tuple(classes), np.concatenate(pairs), np.concatenate(scores), len(predictions))


def _overlapping(xyxy: npt.NDArray[np.float32], images: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return ``(p, 2)`` pairs of rows, the earlier first and in order, that are one place.

    A box has an IoU of t at most with one that begins more than 1 - t of its width further right:
    most pairs are never looked at.

    Args:
        xyxy: ``(n, 4)`` px.
        images: ``(n,)`` rising.
    """
    left, top, right, bottom = xyxy.T.astype(np.float64)
    boxes = np.flatnonzero((right > left) & (bottom > top))  # others share nothing
    boxes = boxes[np.lexsort((left[boxes], images[boxes]))]
    reach = left + 1.001 * (1 - DOUBLE_IOU) * (right - left)  # more than rounding
    # One sorted column for all images: each has a stretch of its own.
    low = left[boxes].min(initial=0)
    span = (reach[boxes].max(initial=0) - low) * 2 + 1
    places = (left[boxes] - low) + images[boxes] * span
    ends = np.searchsorted(places, (reach[boxes] - low) + images[boxes] * span, side="right")
    counts = np.maximum(ends - np.arange(len(boxes)) - 1, 0)
    first = np.repeat(np.arange(len(boxes)), counts)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    one, other = np.sort(np.stack([boxes[first], boxes[second]]), axis=0)
    width = np.minimum(right[one], right[other]) - np.maximum(left[one], left[other])
    height = np.minimum(bottom[one], bottom[other]) - np.maximum(top[one], top[other])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area = (right - left) * (bottom - top)
    iou = (shared / (area[one] + area[other] - shared)).astype(np.float32)  # as supervision has it
    near = iou.astype(np.float64) > DOUBLE_IOU
    pairs = np.stack([one[near], other[near]], axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
