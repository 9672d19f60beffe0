"""DuET's box distillation for detectors with queries (the DETR family).

Queries of two detectors are not aligned: each picks its own places of an image. The encoder is: its
head makes one proposal at every place of the feature maps, in the same order in both detectors. So
the proposals are compared, at the places where the old detector sees an object.

Shapes: B images, N places.
"""

from __future__ import annotations

import torch

from duet.training.losses.distillation.responses import masked_mean


def query_box_distillation(
    student_BN4: torch.Tensor,
    teacher_BN4: torch.Tensor,
    teacher_scores_BN: torch.Tensor,
    quantile: float,
) -> torch.Tensor:
    """Mean over the selected places of the L1 distance between proposed boxes.

    Selected are, image by image, the places whose teacher score is at or above its ``quantile``;
    the distance sums over the four coordinates. Computed in float32.

    Args:
        student_BN4: ``(B, N, 4)`` cxcywh of the model in training, normalised to [0, 1] (after the
            sigmoid).
        teacher_BN4: ``(B, N, 4)`` of the previous detector, likewise, without gradient.
        teacher_scores_BN: ``(B, N)`` largest old-class logit or score of the previous detector.
        quantile: 0..1.

    Returns:
        Scalar.
    """
    scores_BN = teacher_scores_BN.detach().float()
    selected_BN = scores_BN >= torch.quantile(scores_BN, quantile, dim=1, keepdim=True)
    distance_BN = (student_BN4.float() - teacher_BN4.detach().float()).abs().sum(-1)
    return masked_mean(distance_BN, selected_BN)
