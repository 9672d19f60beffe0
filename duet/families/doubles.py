"""One box per object: a detector of several increments often answers one object with two classes.

Their towers were trained without each other, so none of them knows what the others see.

Shape legend: N boxes of one image, best first; C classes.
"""

from __future__ import annotations

import numpy as np
import torch

from duet.defaults import DOUBLE_IOU, Agnostic
from duet.detections import Detections
from duet.labels import LabelSpace

_BLOCK = 512  # boxes that are compared with each other at once


def groups_of(
    agnostic: Agnostic, labels: LabelSpace, increments: tuple[str, ...]
) -> torch.Tensor | None:
    """Return ``(C,)`` int64: classes of one group leave each other's boxes alone; None for ``off``.

    Args:
        agnostic: Which classes suppress each other.
        labels: The classes.
        increments: Increment that each class came with.
    """
    if agnostic == "off":
        return None
    names = increments if agnostic == "increments" else labels.names
    last = {name: place for place, name in enumerate(names)}
    return torch.tensor([last[name] for name in names])


def one_each(found: Detections, groups_C: torch.Tensor, limit: int) -> Detections:
    """Leave out the boxes that a better one of another group covers.

    Greedy, best first: a box stays unless one that stays, stands before it and belongs to another
    group overlaps it by more than `DOUBLE_IOU`. So worse boxes never change the fate of better
    ones: what is found above one threshold is what is found above a lower one, cut.

    Args:
        found: Of one image, best first, clipped to the image: as people see them.
        groups_C: See `groups_of`.
        limit: At most this many remain.
    """
    from torchvision.ops import box_iou

    boxes_N4 = torch.tensor(found.xyxy)
    groups_N = groups_C[torch.tensor(found.class_ids)]

    def rivals(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        overlap: torch.Tensor = box_iou(boxes_N4[one], boxes_N4[other]) > DOUBLE_IOU
        return overlap & (groups_N[one][:, None] != groups_N[other])

    places, kept = torch.arange(len(found)), torch.zeros(0, dtype=torch.long)
    # In blocks: all pairs of the thousands of boxes of an untrained detector would take gigabytes.
    for start in range(0, len(found), _BLOCK):
        block = places[start : start + _BLOCK]
        block = block[~rivals(block, kept).any(1)]
        better = rivals(block, block).tril(-1)
        stays, before = torch.ones_like(block, dtype=torch.bool), None
        # Each round settles at least one box more; as a rule three are enough.
        while before is None or not torch.equal(stays, before):
            before, stays = stays, ~(better & stays).any(1)
        kept = torch.cat((kept, block[stays]))
        if len(kept) >= limit:
            break
    rows = np.asarray(kept[:limit])
    return Detections(found.xyxy[rows], found.scores[rows], found.class_ids[rows], found.labels)
