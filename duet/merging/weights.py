"""Weights of a mixture of stages (pure, without torch)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from duet.errors import ModelError


def imputed(images: Sequence[int]) -> tuple[float, ...]:
    """Return numbers of images; one that is not known (0) is taken for the mean of the others.

    What nobody knows of a detector of somebody's must not count as nothing.
    """
    known = [float(number) for number in images if number] or [1.0]
    usual = sum(known) / len(known)
    return tuple(float(number) or usual for number in images)


def together(images: Sequence[int]) -> int:
    """Return how many images several stages saw, see `imputed`; 0 if nothing is known."""
    return round(sum(imputed(images))) if any(images) else 0


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
