"""Elastic response distillation: keep the responses that stand out (Feng et al., CVPR 2022).

arXiv 2204.02136, section 3.2 and 3.3. Per image, anchors whose largest old class logit is above
mean + 2 standard deviations are kept for the class loss (squared distance of logits); anchors whose
box distributions peak above mean + 2 standard deviations, less those that suppression removes, are
kept for the box loss (KL of softened side distributions). What the paper leaves open is said where
it is decided.

Shapes: B images, C old classes, A anchors, R bins per box side.
"""

from __future__ import annotations

import torch
from torch.nn.functional import kl_div

from duet.boxes import nms
from duet.training.losses.distillation.responses import (
    Anchors,
    Losses,
    Places,
    Quantiles,
    logit_distance,
    masked_mean,
)

DEVIATIONS = 2.0
"""Standard deviations above the mean from which a response counts."""

TEMPERATURE = 10.0
"""Of the side distributions."""

SUPPRESSION = 0.5
"""Overlap above which the less certain of two boxes is left out; our choice."""


def of_anchors(student: Anchors, teacher: Anchors, quantiles: Quantiles) -> Losses:
    """Return (L_cls, L_box) of a dense head.

    Heads without distributions (R = 1) have no peaks: there the certain classes choose the boxes
    too, and the sides' squared distance takes the place of the divergence.
    """
    sure_BA = stands_out(teacher.scores.detach().float().amax(1))
    classes = masked_mean(logit_distance(student, teacher), sure_BA)
    raw_s, raw_t = student.boxes.float(), teacher.boxes.detach().float()
    batch, channels, anchors = raw_t.shape
    if teacher.bins == 1:
        kept_BA = _suppressed(sure_BA, teacher)
        return classes, masked_mean((raw_s - raw_t).square().mean(1), kept_BA)
    shape = (batch, channels // teacher.bins, teacher.bins, anchors)
    raw_s, raw_t = raw_s.reshape(shape), raw_t.reshape(shape)
    # One peak per side; an anchor counts by the mean of its four.
    kept_BA = _suppressed(stands_out(raw_t.softmax(2).amax(2).mean(1)), teacher)
    soft_s = (raw_s / TEMPERATURE).log_softmax(2)
    soft_t = (raw_t / TEMPERATURE).log_softmax(2)
    divergence_BA = kl_div(soft_s, soft_t, reduction="none", log_target=True).sum(2).mean(1)
    return classes, masked_mean(divergence_BA * TEMPERATURE**2, kept_BA)


def of_places(student: Places, teacher: Places, quantiles: Quantiles) -> Losses:
    """Return the same of an encoder's proposals, whose boxes the certain classes choose."""
    sure_BA = stands_out(teacher.scores.detach().float().amax(1))
    distance_BA = (student.boxes.float() - teacher.boxes.detach().float()).abs().sum(-1)
    classes = masked_mean(logit_distance(student, teacher), sure_BA)
    return classes, masked_mean(distance_BA, sure_BA)


def stands_out(responses_BA: torch.Tensor) -> torch.Tensor:
    """Return ``(B, A)`` bool: above the image's mean + 2 standard deviations."""
    mean = responses_BA.mean(1, keepdim=True)
    return responses_BA > mean + DEVIATIONS * responses_BA.std(1, keepdim=True)


def _suppressed(kept_BA: torch.Tensor, teacher: Anchors) -> torch.Tensor:
    """Return ``kept_BA`` without boxes that overlap a more certain one of the same image."""
    assert teacher.decode is not None
    boxes_BA4, certainty_BA = teacher.decode(), teacher.scores.detach().float().amax(1)
    left = torch.zeros_like(kept_BA)
    for image, kept in enumerate(kept_BA):
        places = kept.nonzero().flatten()
        best = nms(boxes_BA4[image, places], certainty_BA[image, places], SUPPRESSION)
        left[image, places[best]] = True
    return left
