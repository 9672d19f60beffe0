"""Score maps: what makes the scores of a class comparable, and the score it is deployed at.

A map is affine in the logit and rises, so it changes no ranking within a class, and no AP. Heads
store raw scores; who looks at images with a detector gets mapped ones (`Family.calibrated`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from pydantic import Field

from duet.config import Config
from duet.defaults import CONFIDENCE


class ScoreMap(Config):
    """From the raw score s of one class to sigmoid(scale · logit(s) + offset).

    That is Platt's scaling with the network's own score as its input (Platt 1999).
    """

    scale: float = Field(default=1.0, ge=1e-6, le=1e6)
    offset: float = Field(default=0.0, ge=-1e6, le=1e6)
    threshold: float | None = Field(
        default=None, gt=0, lt=1, description="Mapped score that the class is deployed at."
    )

    @property
    def identity(self) -> bool:
        """Whether scores stay as they are."""
        return self.scale == 1 and self.offset == 0

    @property
    def raw_odds(self) -> float:
        """Log-odds of the raw score that the class is deployed at."""
        at = self.threshold or CONFIDENCE
        return (math.log(at / (1 - at)) - self.offset) / self.scale

    def fall(self, later: ScoreMap, at: float) -> float:
        """Return by how many log-odds a score that a later map keeps at ``at`` falls without it."""
        odds = math.log(at / (1 - at))
        return (odds - self.offset) * later.scale / self.scale + later.offset - odds

    def after(self, first: ScoreMap) -> ScoreMap:
        """Return the map that is ``first`` and then this one, with this one's threshold."""
        scale, offset = self.scale * first.scale, self.scale * first.offset + self.offset
        return ScoreMap(scale=scale, offset=offset, threshold=self.threshold)


def chosen(scores: Mapping[str, ScoreMap], classes: Collection[str]) -> dict[str, ScoreMap]:
    """Return the score maps of some classes."""
    return {name: one for name, one in scores.items() if name in classes}


def thresholds(scores: Mapping[str, ScoreMap]) -> dict[str, float]:
    """Return the threshold of each class that has one, by class name."""
    return {name: one.threshold for name, one in scores.items() if one.threshold is not None}


def comparable(
    increments: Iterable[tuple[str, Collection[str]]], scores: Mapping[str, ScoreMap]
) -> tuple[str, ...]:
    """Return the increment that each class came with, "" where its scores were never calibrated.

    What towers that were trained without each other are sure of says nothing of which one is
    right: a branch that saw twenty images shouts down one that saw thousands (docs/log.md).

    Args:
        increments: (name, classes) of each, in the order of the outputs.
        scores: Score maps by class name; calibrated classes have a threshold.
    """
    limits = thresholds(scores)
    return tuple(one if name in limits else "" for one, names in increments for name in names)


def applied(scores: Mapping[str, ScoreMap]) -> dict[str, ScoreMap]:
    """Return what is left of score maps once scores are mapped: the thresholds."""
    return {name: ScoreMap(threshold=at) for name, at in thresholds(scores).items()}
