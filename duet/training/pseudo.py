"""Pseudo-labels: what the previous detector finds in new images stands in for old labels.

This is the pseudo-labelling of CL-DETR without its exemplars (Liu et al., CVPR 2023, arXiv
2304.03110): confident objects of old classes join the targets before these are matched, so that an
unlabelled old object does not count as background. The functions know no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from duet.boxes import box_iou, corners
from duet.training.config import PseudoLabels


@dataclass(frozen=True)
class Target:
    """The labels of one training image.

    Attributes:
        boxes: ``(n, 4)`` float cxcywh; every box of a batch in one unit, normalised or pixels.
        labels: ``(n,)`` int64 class ids.
    """

    boxes: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Found:
    """What a detector found in one image.

    Attributes:
        boxes: ``(n, 4)`` float cxcywh in the unit of the targets.
        scores: ``(n,)`` in [0, 1].
        labels: ``(n,)`` int64 class ids, in the numbering of the targets.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor


def add_pseudo_labels(
    targets: Sequence[Target],
    found: Sequence[Found],
    choice: PseudoLabels,
    classes: Sequence[int],
) -> list[Target]:
    """Append found objects to the targets of each image.

    The best come first: an object joins if it scores above the confidence and its IoU with every
    label, and with every object that joined before it, is below the limit. Without the second, two
    queries on one old object would become two objects.

    Args:
        targets: One per image; they come first in the result, untouched.
        found: One per image.
        choice: Confidence and IoU.
        classes: Whose objects may join: those that nobody labelled. Where a class is labelled, its
            labels are all there is of it.

    Returns:
        New targets on the devices of the given ones.
    """
    return [
        _extended(target, objects, choice, classes)
        for target, objects in zip(targets, found, strict=True)
    ]


def _extended(target: Target, found: Found, choice: PseudoLabels, classes: Sequence[int]) -> Target:
    wanted = torch.tensor(list(classes), dtype=torch.long, device=found.labels.device)
    unlabelled = torch.isin(found.labels.long(), wanted)
    confident = torch.nonzero((found.scores > choice.confidence) & unlabelled).flatten()
    order = confident[found.scores[confident].argsort(descending=True, stable=True)]
    labels = len(target.boxes)
    both = torch.cat((target.boxes, found.boxes[order].to(target.boxes)))
    overlaps = overlap(both, both).cpu()
    kept = list(range(labels))
    for index in range(labels, len(both)):
        if not kept or bool(overlaps[index, kept].max() < choice.iou):
            kept.append(index)
    joined = torch.tensor(kept[labels:], dtype=torch.long, device=order.device) - labels
    chosen = order[joined]
    return Target(
        torch.cat((target.boxes, found.boxes[chosen].to(target.boxes))),
        torch.cat((target.labels, found.labels[chosen].to(target.labels))),
    )


def inside(xyxy_N4: torch.Tensor) -> torch.Tensor:
    """Cut normalised corner boxes at the image's border, as labels are; return cxcywh."""
    cut = xyxy_N4.clamp(0, 1)
    return torch.cat(((cut[:, :2] + cut[:, 2:]) / 2, cut[:, 2:] - cut[:, :2]), 1)


def overlap(one_N4: torch.Tensor, other_M4: torch.Tensor) -> torch.Tensor:
    """Return the ``(N, M)`` IoU of cxcywh boxes; a box without area overlaps nothing."""
    return torch.nan_to_num(box_iou(corners(one_N4), corners(other_M4)))
