"""Weights of a mixture of stages (pure, without torch)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from duet.errors import ModelError


def normalised(weights: Sequence[float], count: int, what: str) -> tuple[float, ...]:
    """Return ``weights`` scaled to sum 1.

    Args:
        weights: One nonnegative number per stage, oldest first (shares, or counts of images).
        count: Number of stages.
        what: Shown in the error.

    Raises:
        ModelError: The number of weights is wrong, one is negative or not finite, or all are zero.
    """
    if len(weights) != count or not count:
        raise ModelError(
            f"got {len(weights)} weights for {count} stages",
            where=what,
            remedy="give one weight per stage, oldest first",
        )
    wrong = [weight for weight in weights if not (math.isfinite(weight) and weight >= 0)]
    if wrong or not any(weights):
        raise ModelError(
            f"weights must be finite, nonnegative and not all zero, got {list(weights)}",
            where=what,
            remedy="use uniform weights, or the numbers of images that each stage saw",
        )
    # By the largest first: a plain sum of huge weights overflows to infinity.
    largest = max(weights)
    scaled = [weight / largest for weight in weights]
    total = math.fsum(scaled)
    return tuple(weight / total for weight in scaled)
