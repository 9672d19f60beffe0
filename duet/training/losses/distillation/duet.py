"""L*_Distill: keep the old outputs where the old detector is sure (DuET, ICCV 2025).

The equations are in docs/method.md, Distillation.

Shapes: B images, C old classes, A anchors, N places of an encoder, R bins per box side (DFL; R = 1
means no bins).
Computed in float32: squared logits overflow float16 under AMP. The teacher never gets a gradient.
"""

from __future__ import annotations

import torch
from torch.nn.functional import kl_div

from duet.training.losses.distillation.responses import (
    Anchors,
    Losses,
    Places,
    Quantiles,
    masked_mean,
)


def of_anchors(student: Anchors, teacher: Anchors, quantiles: Quantiles) -> Losses:
    """Return (L*_cls, L*_box) of dense outputs."""
    return (
        class_distillation(student.scores, teacher.scores, quantiles.scores),
        box_distillation(student.boxes, teacher.boxes, teacher.bins, quantiles.boxes),
    )


def of_places(student: Places, teacher: Places, quantiles: Quantiles) -> Losses:
    """Return the same of what an encoder proposes at every place."""
    return (
        class_distillation(student.scores, teacher.scores, quantiles.scores),
        query_box_distillation(
            student.boxes, teacher.boxes, teacher.scores.amax(1), quantiles.boxes
        ),
    )


def class_distillation(
    student_BCA: torch.Tensor, teacher_BCA: torch.Tensor, quantile: float
) -> torch.Tensor:
    """Mean over M_cls of the squared distance between raw class logits.

    M_cls holds, image by image, the anchors whose largest teacher logit is at or above its
    ``quantile``. The distance sums over classes, as the paper's squared norm does.

    Args:
        student_BCA: ``(B, C, A)`` logits of the model in training.
        teacher_BCA: ``(B, C, A)`` logits of the previous detector, without gradient.
        quantile: 0..1; the paper uses 0.75.

    Returns:
        Scalar.
    """
    student_BCA, teacher_BCA = student_BCA.float(), teacher_BCA.detach().float()
    peak_BA = teacher_BCA.amax(1)
    selected_BA = peak_BA >= _quantile(peak_BA, quantile)
    distance_BA = (student_BCA - teacher_BCA).square().sum(1)
    return masked_mean(distance_BA, selected_BA)


def box_distillation(
    student_BXA: torch.Tensor, teacher_BXA: torch.Tensor, bins: int, quantile: float
) -> torch.Tensor:
    """Mean over M_box of KL(softmax(student) ‖ softmax(teacher)) on the four side distributions.

    M_box holds, image by image, the anchors whose teacher box outputs vary least: variance over
    the X raw channels at or below its ``quantile``.

    With R = 1 (YOLO26) there is no distribution: the four outputs are the distances from anchor to
    sides in strides, of any sign, and (s - t)² takes the place of the divergence. It is the KL of
    two normal distributions of standard deviation 1/√2 around them, and a bin of DFL is a stride
    too. On DFL detectors trained here, whose sides spread by 0.5 bins where they are sure, both
    forms agreed within 5 % on anchors that score above 0.3; over all anchors this one was 4.5 to 5
    times as large. M_box follows the same equation over X = 4 channels: it leaves out the anchors
    whose sides are least alike.

    Args:
        student_BXA: ``(B, 4 R, A)`` raw box outputs of the model in training.
        teacher_BXA: ``(B, 4 R, A)`` raw box outputs of the previous detector, without gradient.
        bins: R, bins per side; 1 = the outputs are the sides themselves.
        quantile: 0..1; the paper uses 0.75.

    Returns:
        Scalar.
    """
    student_BXA, teacher_BXA = student_BXA.float(), teacher_BXA.detach().float()
    batch, channels, anchors = teacher_BXA.shape
    # What `var(1)` is, which takes four times as long across strides (5.2 ms of a step of 350).
    off_BXA = teacher_BXA - teacher_BXA.mean(1, keepdim=True)
    spread_BA = off_BXA.square_().sum(1).div_(channels - 1)
    selected_BA = spread_BA <= _quantile(spread_BA, quantile)
    if bins == 1:
        return masked_mean((student_BXA - teacher_BXA).square().mean(1), selected_BA)
    student = student_BXA.reshape(batch, channels // bins, bins, anchors).log_softmax(2)
    teacher = teacher_BXA.reshape(batch, channels // bins, bins, anchors).log_softmax(2)
    # kl_div(input=log q, target=log p) is KL(p ‖ q): the student comes first in the paper.
    divergence = kl_div(teacher, student, reduction="none", log_target=True)
    return masked_mean(divergence.sum(2).mean(1), selected_BA)


def query_box_distillation(
    student_BN4: torch.Tensor,
    teacher_BN4: torch.Tensor,
    teacher_scores_BN: torch.Tensor,
    quantile: float,
) -> torch.Tensor:
    """Mean over the selected places of the L1 distance between an encoder's boxes.

    Queries of two detectors are not aligned: each picks its own places of an image. The encoder
    is: its head makes one proposal at every place of the feature maps, in the same order in both
    detectors. Selected are, image by image, the places whose teacher score is at or above its
    ``quantile``; the distance sums over the four coordinates.

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
    selected_BN = scores_BN >= _quantile(scores_BN, quantile)
    distance_BN = (student_BN4.float() - teacher_BN4.detach().float()).abs().sum(-1)
    return masked_mean(distance_BN, selected_BN)


def _quantile(values_BA: torch.Tensor, quantile: float) -> torch.Tensor:
    return torch.quantile(values_BA, quantile, dim=1, keepdim=True)
