"""One object, several boxes: detections of different classes that lie on each other.

AP looks at one class at a time and cannot see them. Parts of a detector that were trained without
each other both answer where one of their objects is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from duet.defaults import DOUBLE_IOU
from duet.detections import Detections
from duet.errors import DataError
from duet.evaluation.agreement import overlaps

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
        came = [increments.get(name, name) for name in self.classes]
        groups = np.array([came.index(one) for one in came], np.int64)
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
    for found in predictions:
        sure = found.above(FLOOR)
        shared = np.triu(overlaps(sure, sure), 1)
        shared[sure.class_ids[:, None] == sure.class_ids] = 0
        rows = np.argwhere(shared > DOUBLE_IOU)
        pairs.append(sure.class_ids[rows])
        scores.append(sure.scores[rows])
    return Doubles(tuple(classes), np.concatenate(pairs), np.concatenate(scores), len(predictions))
