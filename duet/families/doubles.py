"""One box per object: a detector of several increments often answers one object with two classes.

Their towers were trained without each other, so none of them knows what the others see.

Shape legend: N boxes of one image, best first; C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from duet.defaults import CLEAR, DOUBLE_IOU, Agnostic
from duet.detections import Detections
from duet.families.greedy import Places, overlaps, staying
from duet.labels import LabelSpace

_SURE = 1e-6  # scores closer to 0 or 1 count as this close


@dataclass(frozen=True)
class Rivals:
    """Which boxes hide others.

    Attributes:
        groups: ``(C,)`` int64: classes of one group leave each other's boxes alone, and those of
            group -1 all others.
        margin: Log-odds by which the better box must be surer.
    """

    groups: npt.NDArray[np.int64]
    margin: float


def rivals_of(agnostic: Agnostic, labels: LabelSpace, increments: tuple[str, ...]) -> Rivals | None:
    """Return which boxes hide others; None where none does.

    Args:
        agnostic: Which classes suppress each other: increments where one box is clearly surer
            (`duet.defaults.CLEAR`), all classes in any case.
        labels: The classes.
        increments: Increment that each class came with; "" where its scores are not comparable.
    """
    names = increments if agnostic == "increments" else labels.names
    last = {name: place for place, name in enumerate(names) if name}
    if agnostic == "off" or len(last) < 2:
        return None
    groups = np.array([last.get(name, -1) for name in names], np.int64)
    return Rivals(groups, CLEAR if agnostic == "increments" else 0.0)


def one_each(found: Detections, rivals: Rivals, limit: int) -> Detections:
    """Leave out the boxes that a better one of another group covers.

    Greedy, best first: a box stays unless one that stays, stands before it, is surer by the margin
    and belongs to another group overlaps it by more than `DOUBLE_IOU`. So worse boxes never change
    the fate of better ones: what is found above one threshold is what is found above a lower one,
    cut.

    Args:
        found: Of one image, best first, clipped to the image: as people see them.
        rivals: See `Rivals`.
        limit: At most this many remain.
    """
    boxes_N4, groups_N = found.xyxy, rivals.groups[found.class_ids]
    sure_N = np.clip(found.scores.astype(np.float64), _SURE, 1 - _SURE)
    odds_N = np.log(sure_N / (1 - sure_N))

    def hidden(one: Places, other: Places) -> npt.NDArray[np.bool_]:
        clear = odds_N[other] - odds_N[one][:, None] >= rivals.margin
        ours, theirs = groups_N[one][:, None], groups_N[other]
        rival: npt.NDArray[np.bool_] = clear & (ours != theirs) & (ours >= 0) & (theirs >= 0)
        return rival & (overlaps(boxes_N4[one], boxes_N4[other]) > DOUBLE_IOU)

    rows = staying(len(found), hidden, limit)
    return Detections(found.xyxy[rows], found.scores[rows], found.class_ids[rows], found.labels)
