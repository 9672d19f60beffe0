"""What two detectors answer on one batch: the values that every distillation compares.

Shapes: B images, C old classes, A anchors or places, R bins per box side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Losses = tuple[torch.Tensor, torch.Tensor]
"""(class loss, box loss), scalars: means over the images that are compared."""


@dataclass(frozen=True, eq=False)
class Anchors:
    """Raw output of a dense head.

    Attributes:
        boxes: ``(B, 4 R, A)`` logits of the side distributions, or with R = 1 the sides.
        scores: ``(B, C, A)`` class logits.
        bins: R.
        decode: Returns the boxes as ``(B, A, 4)`` xyxy px; asked of the teacher alone.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    bins: int
    decode: Callable[[], torch.Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Places:
    """What the encoder of a detector with queries proposes at every place of the feature maps.

    Attributes:
        boxes: ``(B, A, 4)`` cxcywh, normalised to the image.
        scores: ``(B, C, A)`` class logits.
    """

    boxes: torch.Tensor
    scores: torch.Tensor


@dataclass(frozen=True)
class Quantiles:
    """Where `duet` draws its lines; see `duet.training.losses.distillation.duet`.

    Attributes:
        scores: Of the largest old class logit.
        boxes: Of the variance of the box outputs, or of the score of a proposal.
    """

    scores: float = 0.75
    boxes: float = 0.75


def taught(share: float, images: int) -> int:
    """Return how many images of a step are distilled: the first ones, at least one.

    Which ones they are is chance, because the order of a slice is drawn anew in each epoch.

    Args:
        share: `Distillation.images` of the configuration, above 0 and at most 1.
        images: Of the step, in this process.
    """
    return max(1, round(share * images))


def logit_distance(student: Anchors | Places, teacher: Anchors | Places) -> torch.Tensor:
    """Return the squared distance of class logits, summed over classes: ``(B, A)`` float32."""
    return (student.scores.float() - teacher.scores.detach().float()).square().sum(1)


def masked_mean(values_BA: torch.Tensor, mask_BA: torch.Tensor) -> torch.Tensor:
    """Return the mean of the values that a bool mask selects, a scalar; 0 where it selects none."""
    return (values_BA * mask_BA).sum() / mask_BA.sum().clamp_(min=1)
