"""How the scores of a class lie: all that is kept of them when its images go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from duet.evaluation.matches import ClassMatches

STEPS = 20
"""Bins of a histogram."""


def score_histogram(found: ClassMatches) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return how many right and how many wrong detections of a class score in each of `STEPS` bins.

    The bins are equally wide, from 0 to 1; a score on a border counts in the upper one.
    """
    place = np.minimum((found.scores.astype(np.float64) * STEPS).astype(np.int64), STEPS - 1)
    right, wrong = (
        tuple(np.bincount(place[kind], minlength=STEPS).tolist())
        for kind in (found.hit, ~found.ignored & ~found.hit)
    )
    return right, wrong


def still_above(counts: Sequence[int], threshold: float, fall: float) -> float:
    """Return how many detections score a threshold or more once all scores have fallen.

    Within a bin they are taken to lie evenly.

    Args:
        counts: `score_histogram` of one kind.
        threshold: In ``(0, 1)``.
        fall: Of all of them, in log-odds; negative where they rose.
    """
    from scipy.special import expit, logit

    needed = expit(logit(threshold) + fall)
    above = np.clip(np.arange(1, len(counts) + 1) - needed * len(counts), 0, 1)
    return float((above * np.asarray(counts)).sum())
