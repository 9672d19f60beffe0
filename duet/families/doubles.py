"""One box per object: a detector of several increments often answers one object with two classes.

Their towers were trained without each other, so none of them knows what the others see.

Shape legend: N boxes of one image, best first; C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from duet.boxes import box_iou
from duet.defaults import CLEAR, DOUBLE_IOU, Agnostic
from duet.detections import Detections
from duet.labels import LabelSpace

_BLOCK = 512  # boxes that are compared with each other at once


@dataclass(frozen=True)
class Rivals:
    """Which boxes hide others.

    Attributes:
        groups: ``(C,)`` int64: classes of one group leave each other's boxes alone, and those of
            group -1 all others.
        margin: Log-odds by which the better box must be surer.
    """

    groups: torch.Tensor
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
    groups = torch.tensor([last.get(name, -1) for name in names])
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
    boxes_N4 = torch.tensor(found.xyxy)
    groups_N = rivals.groups[torch.tensor(found.class_ids)]
    odds_N = torch.logit(torch.tensor(found.scores, dtype=torch.float64), eps=1e-6)

    def hidden(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        overlap: torch.Tensor = box_iou(boxes_N4[one], boxes_N4[other]) > DOUBLE_IOU
        clear = odds_N[other] - odds_N[one][:, None] >= rivals.margin
        ours, theirs = groups_N[one][:, None], groups_N[other]
        return overlap & clear & (ours != theirs) & (ours >= 0) & (theirs >= 0)

    places, kept = torch.arange(len(found)), torch.zeros(0, dtype=torch.long)
    # In blocks: all pairs of the thousands of boxes of an untrained detector would take gigabytes.
    for start in range(0, len(found), _BLOCK):
        block = places[start : start + _BLOCK]
        block = block[~hidden(block, kept).any(1)]
        better = hidden(block, block).tril(-1)
        stays, before = torch.ones_like(block, dtype=torch.bool), None
        # Each round settles at least one box more; as a rule three are enough.
        while before is None or not torch.equal(stays, before):
            before, stays = stays, ~(better & stays).any(1)
        kept = torch.cat((kept, block[stays]))
        if len(kept) >= limit:
            break
    rows = np.asarray(kept[:limit])
    return Detections(found.xyxy[rows], found.scores[rows], found.class_ids[rows], found.labels)
