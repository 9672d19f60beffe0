"""Learning without Forgetting for detectors: all old outputs are kept, sure or not.

Li & Hoiem (ECCV 2016, arXiv 1606.09282) with the squared distance that Shmelkov et al. (ICCV 2017,
arXiv 1708.06977) use for logits and boxes of a detector; the baseline "LwF" of the DuET paper.
"""

from __future__ import annotations

from duet.training.losses.distillation.responses import (
    Anchors,
    Losses,
    Places,
    Quantiles,
    logit_distance,
)


def of_anchors(student: Anchors, teacher: Anchors, quantiles: Quantiles) -> Losses:
    """Return the mean squared distance of class logits and of raw box outputs over all anchors.

    The distance of the logits sums over classes, that of the boxes is a mean over their outputs.
    """
    boxes = (student.boxes.float() - teacher.boxes.detach().float()).square().mean(1)
    return logit_distance(student, teacher).mean(), boxes.mean()


def of_places(student: Places, teacher: Places, quantiles: Quantiles) -> Losses:
    """Return the same of an encoder's proposals; boxes are normalised coordinates."""
    boxes = (student.boxes.float() - teacher.boxes.detach().float()).square().sum(-1)
    return logit_distance(student, teacher).mean(), boxes.mean()
