"""Monotone maps of scores, fitted to few detections: pure mathematics over log-odds.

Shape legend: n detections.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from duet.increments.scores import ScoreMap

Floats = npt.NDArray[np.float64]

STEEPEST = 8.0
"""Largest factor by which a map stretches or shrinks log-odds."""


def fit_probability(
    log_odds: Floats, right: npt.NDArray[np.bool_], *, prior: float = 4.0
) -> ScoreMap:
    """Return the map after which scores are the share of detections that are right.

    Platt's: logistic regression on the log-odds (Platt, 1999), drawn towards the map that changes
    nothing by so many detections as ``prior`` says, so that a handful changes little.

    Args:
        log_odds: ``(n,)`` of the scores.
        right: ``(n,)``, whether each found an object.
        prior: Weight of changing nothing.
    """
    from scipy.optimize import minimize

    def loss(theta: Floats) -> tuple[float, Floats]:
        scale = math.exp(theta[0])
        mapped = scale * log_odds + theta[1]
        # log(1 + exp(-m)) for what is right, log(1 + exp(m)) for what is wrong
        value = np.logaddexp(0, np.where(right, -mapped, mapped)).sum()
        error = 1 / (1 + np.exp(-mapped)) - right
        slope = np.array([(error * scale * log_odds).sum(), error.sum()])
        return float(value + prior * (theta**2).sum() / 2), slope + prior * theta

    bounds = [(-math.log(STEEPEST), math.log(STEEPEST)), (None, None)]
    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds).x
    return ScoreMap(scale=math.exp(found[0]), offset=float(found[1]))


def fit_shift(before: Floats, after: Floats, *, prior: float = 4.0) -> ScoreMap:
    """Return the map that gives later log-odds the mean of earlier ones.

    Drawn towards the map that changes nothing. The spread is left alone: among places chosen by
    their score it says more about the choice than about the detectors (docs/log.md).

    Args:
        before: ``(n,)`` log-odds of the earlier detector.
        after: ``(n,)`` of the later one at the same places.
        prior: Number of places that change nothing, in effect.
    """
    count = len(before)
    return ScoreMap(offset=float((before - after).sum()) / (count + prior) if count else 0.0)


def best_threshold(
    probabilities: Floats, right: npt.NDArray[np.bool_], objects: int
) -> float | None:
    """Return the threshold of the best F1, which is half of it; None where nothing is right.

    That holds for probabilities of being right (Lipton et al., ECML PKDD 2014, arXiv 1402.1892).
    The score at which F1 happens to be highest hangs on single detections where there are few:
    between its neighbours F1 hardly changes, and the score does. Half of F1 does not
    (docs/log.md).

    Args:
        probabilities: ``(n,)``, falling.
        right: ``(n,)``, whether each found an object.
        objects: How many there are.
    """
    hits = np.cumsum(right)
    if not len(hits) or not hits[-1]:
        return None
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + objects)
    return float(f1.max()) / 2


def threshold_of_precision(
    scores: Floats, right: npt.NDArray[np.bool_], wanted: float
) -> float | None:
    """Return the lowest score down to which the wanted precision holds.

    Where none does, that of the highest precision there is; None where nothing is right.

    It lies in the middle between the last score that is kept and the next one.

    Args:
        scores: ``(n,)``, falling.
        right: ``(n,)``, whether each found an object.
        wanted: In ``(0, 1]``.
    """
    if not right.any():
        return None
    shares = np.cumsum(right) / np.arange(1, len(scores) + 1)
    reached = np.flatnonzero(right & (shares >= min(wanted, shares[right].max()) - 1e-9))
    return float(np.append(scores, 0.0)[reached[-1] : reached[-1] + 2].mean())
