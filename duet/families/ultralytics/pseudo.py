"""Labels that the previous detector gives: old objects in new images, which nobody labelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from duet.families.decode import Objects
from duet.training.config import PseudoLabels
from duet.training.pseudo import Found, Target, add_pseudo_labels, inside


def extend_batch(
    batch: dict[str, Any],
    found: Sequence[Objects],
    choice: PseudoLabels,
    classes: Sequence[int],
    *,
    size: int,
) -> None:
    """Add the previous detector's objects to a batch of the engine.

    Args:
        batch: ``cls`` ``(n, 1)``, ``bboxes`` ``(n, 4)`` cxcywh normalised, ``batch_idx`` ``(n,)``,
            sorted by image; changed in place.
        found: Objects in each image, in square pixels; their class ids are those of the batch.
        choice: See `duet.training.pseudo.add_pseudo_labels`.
        classes: Likewise.
        size: Side of the square in pixels.
    """
    owner, boxes, ids = batch["batch_idx"], batch["bboxes"], batch["cls"]
    targets = [
        Target(boxes[owner == image], ids[owner == image].flatten().long())
        for image in range(len(found))
    ]
    objects = [
        Found(inside(xyxy / size).to(boxes), scores, class_ids) for xyxy, scores, class_ids in found
    ]
    extended = add_pseudo_labels(targets, objects, choice, classes)
    batch["bboxes"] = torch.cat([target.boxes for target in extended])
    batch["cls"] = torch.cat([target.labels for target in extended]).reshape(-1, 1).to(ids)
    counts = torch.tensor([len(target.labels) for target in extended], device=owner.device)
    images = torch.arange(len(found), device=owner.device)
    batch["batch_idx"] = images.repeat_interleave(counts).to(owner)
