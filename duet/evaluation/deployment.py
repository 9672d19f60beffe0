"""What a person with a camera sees of a detector: objects found, wrong and missed at a threshold.

AP looks at the order of scores alone. A detector whose scores all fall keeps its AP and finds
nothing any more at the threshold in use. Everything here follows from matches at IoU 0.5 of what
users are shown: one class a place, scores as deployed, one threshold per class.

Shape legend: n detections, I images, B resamples.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from duet.config import Config
from duet.defaults import CONFIDENCE
from duet.evaluation.bootstrap import Sampled, Weights, recall_at_precision, weighted_share
from duet.evaluation.doubles import Doubles
from duet.evaluation.indices import mean_of_known
from duet.evaluation.matches import (
    IOU,
    ClassMatches,
    Matches,
    load_arrays,
    match_arrays,
    parse_matches,
    save_arrays,
)
from duet.fields import ByClass, Count, Fraction, InnerPath

BINS, SURE = 10, 0.05
"""Of the calibration error: bins of equal width, and the lowest score that it looks at. Below it
lie thousands of detections that nobody is shown and that would drown the others."""


@dataclass(frozen=True, eq=False)
class Deployed:
    """What a detector shows its users on one domain.

    Attributes:
        matches: Its detections of the labelled classes, one class a place.
        doubles: Detections of all its classes that lie on each other.
    """

    matches: Matches
    doubles: Doubles

    def of(self, names: Collection[str]) -> Deployed:
        """Return the same with the matches of some classes alone."""
        found = {name: one for name, one in self.matches.classes.items() if name in names}
        return replace(self, matches=replace(self.matches, classes=found))


class Counted(Config):
    """Objects and detections.

    Attributes:
        objects: Labelled objects, ignored ones left out.
        found: Those of them that are found.
        wrong: Detections that find none.
    """

    objects: Count
    found: Count
    wrong: Count

    @property
    def missed(self) -> int:
        """Objects that are not found."""
        return self.objects - self.found

    @property
    def precision(self) -> float | None:
        """Found over all that is shown; None where nothing is."""
        shown = self.found + self.wrong
        return self.found / shown if shown else None

    @property
    def recall(self) -> float | None:
        """Found over all objects; None where nothing is labelled."""
        return self.found / self.objects if self.objects else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None where nothing is labelled nor shown."""
        both = self.objects + self.found + self.wrong
        return 2 * self.found / both if both else None


class ClassDeployment(Counted):
    """One class at its threshold.

    Attributes:
        threshold: Lowest score that is shown.
        at_precision: The same at the lowest score that keeps the precision which the detector had
            that learned the class, in the same domain; None for that detector itself, and where it
            was not measured or showed nothing.
        lrp: Localisation recall precision error; None where nothing is labelled nor shown.
        olrp: The lowest LRP of any threshold; None where nothing is labelled.
        olrp_threshold: Where it is; None if no detection lowers it.
    """

    threshold: Fraction
    at_precision: Counted | None = None
    lrp: Fraction | None
    olrp: Fraction | None
    olrp_threshold: Fraction | None


class Deployment(Config):
    """A detector on one domain at its thresholds.

    Attributes:
        images: Images that it looked at.
        classes: Class name -> what is found of it; of the classes that are labelled here.
        ece: Expected calibration error of the scores of all these classes; None of nothing.
        ece_raw: The same of the scores before their maps; None in files of older versions, too.
        doubles_within: Pairs of boxes that lie on each other, of classes of one increment.
        doubles_between: The same of two increments.
        evidence: File that it was computed from, relative to the run folder.
    """

    images: Count
    classes: ByClass[ClassDeployment]
    ece: Fraction | None
    ece_raw: Fraction | None = None
    doubles_within: Count
    doubles_between: Count
    evidence: InnerPath | None = None

    @property
    def doubles(self) -> float | None:
        """Pairs of both kinds per 100 images; None without images."""
        pairs = self.doubles_within + self.doubles_between
        return 100 * pairs / self.images if self.images else None

    @property
    def olrp(self) -> float | None:
        """Mean oLRP of the classes that are labelled here; None if none is."""
        return mean_of_known(one.olrp for one in self.classes.values())

    def total(self, names: Iterable[str]) -> Counted:
        """Return the counts of several classes together; classes that are not labelled add none."""
        return total(self.classes[name] for name in names if name in self.classes)


def total(counts: Iterable[Counted]) -> Counted:
    """Return the sum of several counts."""
    rows = list(counts)
    return Counted(**{key: sum(getattr(row, key) for row in rows) for key in Counted.model_fields})


def deployment(
    seen: Deployed,
    thresholds: Mapping[str, float],
    increments: Mapping[str, object],
    evidence: str | None = None,
    *,
    raw: Iterable[ClassMatches] = (),
    precisions: Mapping[str, float | None] = MappingProxyType({}),
) -> Deployment:
    """Return what a detector shows at its thresholds.

    Args:
        seen: Its detections on one domain.
        thresholds: Class name -> lowest score that is shown; the default where it has none.
        increments: Class name -> the increment that brought it.
        evidence: Where ``seen`` is kept.
        raw: The matches of ``seen`` with the scores before their maps.
        precisions: Class name -> precision of the detector that learned it, see `ClassDeployment`.
    """
    every = {name: thresholds.get(name, CONFIDENCE) for name in seen.doubles.classes}
    found = seen.matches.classes
    within, between = seen.doubles.count(every, increments)
    return Deployment(
        images=seen.doubles.images,
        classes={
            name: _of_class(one, every.get(name, CONFIDENCE), precisions.get(name))
            for name, one in found.items()
        },
        ece=calibration_error(found.values()),
        ece_raw=calibration_error(raw),
        doubles_within=within,
        doubles_between=between,
        evidence=evidence,
    )


def _of_class(found: ClassMatches, threshold: float, precision: float | None) -> ClassDeployment:
    objects = len(found.owners)
    errors = lrp(found)
    shown = int((found.scores >= np.float32(threshold)).sum())
    best = int(errors.argmin())
    return ClassDeployment(
        threshold=threshold,
        **_upto(found, shown).model_dump(),
        at_precision=None if precision is None else _at_precision(found, precision),
        lrp=None if np.isnan(errors[shown]) else float(errors[shown]),
        olrp=float(errors[best]) if objects else None,
        olrp_threshold=float(found.scores[best - 1]) if objects and best else None,
    )


def _upto(found: ClassMatches, shown: int) -> Counted:
    """Return what the surest detections of a class find."""
    hits, counted = int(found.hit[:shown].sum()), int(_counts(found)[:shown].sum())
    return Counted(objects=len(found.owners), found=hits, wrong=counted - hits)


def _at_precision(found: ClassMatches, precision: float) -> Counted:
    """Return the most that is found at a precision or a higher one; nothing if none reaches it."""
    hits, counted = np.cumsum(found.hit), np.cumsum(_counts(found), dtype=np.float64)
    reached = np.flatnonzero(found.hit & (hits >= precision * counted - np.spacing(counted)))
    return _upto(found, int(reached[-1]) + 1 if len(reached) else 0)


def lrp(found: ClassMatches) -> npt.NDArray[np.float64]:
    """Return ``(n + 1,)`` LRP errors: of no detection, of the surest one, of the two surest, ...

    (sum over what is found of (1 - IoU) / (1 - 0.5), plus wrong, plus missed) over the number of
    all three, so in ``[0, 1]``, lower is better; NaN where there is nothing. Source: Oksuz et al.,
    Localization Recall Precision, ECCV 2018 and TPAMI 2021 (arXiv 2011.10772). Cuts between equal
    scores are not told from others.
    """
    objects = len(found.owners)
    steps = np.arange(len(found.scores) + 1)
    right, counted, apart = np.zeros((3, len(steps)))
    right[1:] = np.cumsum(found.hit)
    counted[1:] = np.cumsum(_counts(found))
    apart[1:] = np.cumsum(np.where(found.hit, 1 - found.iou.astype(np.float64), 0)) / (1 - IOU)
    every = objects + counted - right
    errors = np.full(len(steps), np.nan)
    np.divide(apart + every - right, every, out=errors, where=every > 0)
    bounded: npt.NDArray[np.float64] = np.clip(errors, 0, 1)
    return bounded


def calibration_error(found: Iterable[ClassMatches]) -> float | None:
    """Return how far scores are from the share of detections that are right; None of nothing.

    The expected calibration error: detections that score `SURE` or more in `BINS` bins of equal
    width, |share that finds an object - mean score| weighted by how many there are (Naeini et al.,
    AAAI 2015; for detections Küppers et al., CVPRW 2020, without the position).
    """
    rows = list(found)
    used = [_counts(one) & (one.scores >= np.float32(SURE)) for one in rows]
    scores = np.concatenate(
        [np.zeros(0), *(one.scores[at] for one, at in zip(rows, used, strict=True))]
    )
    right = np.concatenate(
        [np.zeros(0), *(one.hit[at] for one, at in zip(rows, used, strict=True))]
    )
    if not len(scores):
        return None
    bins = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, right - scores, minlength=BINS)
    return float(np.abs(gaps).sum() / len(scores))


def pooled(found: Matches, names: Iterable[str], thresholds: Mapping[str, float]) -> ClassMatches:
    """Return the detections of several classes together, the surest first.

    How sure is the distance of a score to its class's threshold, as log-odds, so that what is shown
    has 0 or more. That stands in place of the scores.

    Args:
        found: Of one detector.
        names: Classes; those that are not labelled are left out.
        thresholds: Class name -> lowest score that is shown, of all of them.
    """
    rows = {name: found.classes[name] for name in names if name in found.classes}
    margins = [
        log_odds(one.scores) - log_odds(np.float32(thresholds[name])) for name, one in rows.items()
    ]
    order = np.argsort(-np.concatenate([np.zeros(0), *margins]), kind="stable")

    def joined(parts: Iterable[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
        return np.concatenate([np.zeros(0, dtype), *parts])[order]

    owners = np.concatenate([np.zeros(0, np.int32), *(one.owners for one in rows.values())])
    return ClassMatches(
        joined(margins, np.float32),
        joined((one.images for one in rows.values()), np.int32),
        joined((one.hit for one in rows.values()), np.bool_),
        joined((one.ignored for one in rows.values()), np.bool_),
        joined((one.iou for one in rows.values()), np.float32),
        np.sort(owners),
        len(found.keys),
    )


@dataclass(frozen=True, eq=False)
class Retained:
    """What an earlier and a later detector find of the same objects, once per resample.

    Attributes:
        before: ``(B,)`` recall of the earlier one at its thresholds.
        after: ``(B,)`` recall of the later one at its thresholds.
        at_precision: ``(B,)`` highest recall of the later one, its thresholds all raised or lowered
            by the same log-odds, at the precision that the earlier one had at its own or better.
    """

    before: Sampled
    after: Sampled
    at_precision: Sampled


def retained(earlier: ClassMatches, later: ClassMatches, weights: Weights) -> Retained:
    """Return what is still found; NaN where no object was drawn or the earlier one shows nothing.

    Args:
        earlier: `pooled` detections of the earlier detector.
        later: Those of the later one on the same images, in the same order.
        weights: ``(B, I)``, how often each image counts.
    """
    hits, shown = (_per_image(earlier, kind) for kind in (earlier.hit, _counts(earlier)))
    precision = weighted_share(hits, shown, weights)
    return Retained(
        before=weighted_share(hits, earlier.truths, weights),
        after=weighted_share(_per_image(later, later.hit), later.truths, weights),
        at_precision=recall_at_precision(later, weights, precision),
    )


def save_deployed(path: Path, seen: Deployed) -> None:
    """Write detections as one compressed ``.npz``, atomically."""
    pairs = seen.doubles
    arrays = {
        "detector_classes": np.array(pairs.classes, dtype=np.str_),
        "pairs": pairs.pairs.astype(np.int32),
        "pair_scores": pairs.scores,
        "looked_at": np.array(pairs.images),
    }
    save_arrays(path, {**match_arrays(seen.matches), **arrays})


def load_deployed(path: Path) -> Deployed:
    """Read what `save_deployed` wrote; errors as `duet.evaluation.matches.load_arrays`."""
    return load_arrays(path, _parse)


def _parse(stored: Mapping[str, npt.NDArray[Any]]) -> Deployed:
    classes = tuple(str(name) for name in stored["detector_classes"])
    pairs = stored["pairs"].astype(np.int64)
    doubles = Doubles(classes, pairs, stored["pair_scores"], int(stored["looked_at"]))
    return Deployed(parse_matches(stored), doubles)


def _per_image(found: ClassMatches, kind: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return ``(I,)``: how many detections of a kind are shown in each image."""
    shown = found.images[kind & (found.scores >= 0)]
    return np.bincount(shown, minlength=found.total)


def log_odds(scores: npt.NDArray[np.float32] | np.float32) -> npt.NDArray[np.float64]:
    """Return the logits of scores in ``[0, 1]``, which stay finite."""
    bounded = np.clip(np.asarray(scores, np.float64), 1e-9, 1 - 1e-9)
    return np.log(bounded / (1 - bounded))


def _counts(found: ClassMatches) -> npt.NDArray[np.bool_]:
    return ~found.ignored
