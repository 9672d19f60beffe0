"""The score maps of one stage, from detections: new classes by their labels, old ones by the past.

New classes: after the map, a score is the share of detections that are right, as the validation
labels of the increment say. Old classes: their images are gone. On images at hand the detector
before the stage and the one after it look at the same places, and the map gives the scores of the
later one the mean of the earlier one's, so that thresholds keep their meaning.

Both are shrunk: a class by what all classes say together, and that by changing nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from duet.calibration.fit import (
    Floats,
    best_threshold,
    fit_probability,
    fit_shift,
    threshold_of_precision,
)
from duet.detections import Detections
from duet.evaluation.agreement import overlaps
from duet.evaluation.deployment import log_odds
from duet.evaluation.matches import ClassMatches
from duet.increments.scores import ScoreMap

SURE = 0.02
"""Detections that score less say nothing of what is shown: left out where labels tell the rest."""

NEAR = 0.5
"""Log-odds below the threshold of a class. Places where both detectors score less are left out:
what counts is what happens near thresholds, and scores of the far more numerous places that nobody
is shown fall less."""

SAME_PLACE = 0.7
"""Boxes of one class that overlap more are of one place."""

FARTHEST = 1.5
"""Log-odds by which one stage moves the scores of an old class at most. Where it could be checked,
1.4 was the most that was right; far more was read off images without an object of the class, where
detections that had been wrong before went away (docs/log.md)."""

RULE = "half of the best F1"
"""How thresholds are chosen; answers of another rule that were kept do not count."""

FEW = 20
"""With fewer objects than that a class has the threshold of all classes together."""

PRIOR = 10.0
"""Weight, in detections, of what is known without those of one class."""


def of_labels(
    found: Mapping[str, Sequence[ClassMatches]], *, precision: float | None = None
) -> dict[str, ScoreMap]:
    """Return the maps and thresholds of classes whose detections were matched with labels.

    Classes without a detection that counts have none.

    Args:
        found: Class name -> its detections in every set of images, raw scores.
        precision: Share of what is shown that is to be right: the threshold is the lowest that
            keeps it, or that of the highest precision where none does. None: the best F1.
    """
    sides = {name: _counted(every) for name, every in found.items()}
    known = {name: side for name, side in sides.items() if len(side[0])}
    if not any(right.any() for _, right in known.values()):
        return {}
    every = fit_probability(*_joined(known.values()), prior=PRIOR)
    maps = {}
    for name, (scores, right) in known.items():
        own = fit_probability(every.scale * scores + every.offset, right, prior=PRIOR)
        maps[name] = own.after(every)
    return _with_thresholds(found, maps, precision)


def _with_thresholds(
    found: Mapping[str, Sequence[ClassMatches]],
    maps: Mapping[str, ScoreMap],
    precision: float | None,
) -> dict[str, ScoreMap]:
    """Return the maps with the thresholds that are wanted."""
    sides, objects = {}, {}
    for name, one in maps.items():
        odds, right = _counted(found[name])
        sides[name] = (1 / (1 + np.exp(-(one.scale * odds + one.offset))), right)
        objects[name] = sum(int(some.truths.sum()) for some in found[name])
    common = _threshold(*_joined(sides.values()), sum(objects.values()), precision)
    own = {
        name: _threshold(*side, objects[name], precision) if objects[name] >= FEW else None
        for name, side in sides.items()
    }
    return {
        name: one.model_copy(update={"threshold": own[name] or common})
        for name, one in maps.items()
    }


def _threshold(
    scores: Floats, right: npt.NDArray[np.bool_], objects: int, precision: float | None
) -> float | None:
    order = np.argsort(-scores, kind="stable")
    if precision is None:
        return best_threshold(scores[order], right[order], objects)
    return threshold_of_precision(scores[order], right[order], precision)


def _counted(every: Iterable[ClassMatches]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the log-odds of a class's detections, and which of them are right."""
    odds, right = [np.zeros(0)], [np.zeros(0, np.bool_)]
    for one in every:
        used = ~one.ignored & (one.scores >= np.float32(SURE))
        odds.append(log_odds(one.scores[used]))
        right.append(one.hit[used])
    return np.concatenate(odds), np.concatenate(right)


def of_the_past(
    before: Sequence[Detections],
    after: Sequence[Detections],
    classes: Iterable[str],
    deployed: Mapping[str, ScoreMap] = MappingProxyType({}),
) -> dict[str, ScoreMap]:
    """Return the maps that bring raw scores of a later detector back to those of an earlier one.

    Args:
        before: Of the earlier detector, raw scores, one entry per image.
        after: Of the later one on the same images.
        classes: Classes that both know.
        deployed: Score maps of the earlier detector, for its thresholds.
    """
    pairs = {
        name: _places(before, after, name, deployed.get(name, ScoreMap()).raw_odds - NEAR)
        for name in classes
    }
    known = {name: pair for name, pair in pairs.items() if len(pair[0])}
    if not known:
        return {}
    every = fit_shift(*_joined(known.values()), prior=PRIOR)
    maps = {}
    for name, (was, now) in pairs.items():
        own = fit_shift(was, now + every.offset, prior=PRIOR)
        most = FARTHEST / deployed.get(name, ScoreMap()).scale
        shift = min(max(own.after(every).offset, -most), most)
        maps[name] = ScoreMap(offset=shift)
    return maps


def _places(
    before: Sequence[Detections], after: Sequence[Detections], name: str, least: float
) -> tuple[Floats, Floats]:
    """Return the log-odds of a class where both detectors see it, and one of them at ``least``."""
    was, now = [np.zeros(0)], [np.zeros(0)]
    for one, other in zip(before, after, strict=True):
        old, new = one.of([name]), other.of([name])
        if not len(old) or not len(new):
            continue
        shared = overlaps(old, new)
        nearest = shared.argmax(axis=1)
        # Both nearest to each other: one place, seen twice.
        mutual = shared.argmax(axis=0)[nearest] == np.arange(len(old))
        close = mutual & (shared.max(axis=1) > SAME_PLACE)
        odds = log_odds(old.scores[close]), log_odds(new.scores[nearest[close]])
        sure = np.maximum(*odds) >= least
        was.append(odds[0][sure])
        now.append(odds[1][sure])
    return np.concatenate(was), np.concatenate(now)


def _joined(
    sides: Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]],
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    first, second = zip(*sides, strict=True)
    return np.concatenate(first), np.concatenate(second)
