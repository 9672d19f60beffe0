"""What the detectors of a chain show their users, stage by stage, and what is still found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from duet.defaults import CONFIDENCE
from duet.evaluation.ap import ClassAP
from duet.evaluation.deployment import (
    Deployed,
    Deployment,
    deployment,
    load_deployed,
    log_odds,
    pooled,
    retained,
)
from duet.evaluation.indices import Recalls
from duet.evaluation.matches import ClassMatches
from duet.evaluation.matrix import Slice
from duet.evaluation.pairs import SeriesSteps, ri_pairs
from duet.increments.scores import ScoreMap, thresholds

Scores = Mapping[tuple[int, str], ClassAP]
"""(stage, domain) -> what was measured there."""

Maps = Mapping[int, Mapping[str, ScoreMap]]
"""Stage -> class name -> score map of the detector after it; of classes that have one."""


def deployments(
    out: Path, steps: SeriesSteps, maps: Maps, scores: Scores
) -> dict[tuple[int, str], Deployment]:
    """Return what each stage's detector shows on each domain.

    Args:
        out: Run folder, which holds the files that ``scores`` names.
        steps: (domain, classes) of every increment.
        maps: Of every stage.
        scores: What was measured; cells without files are left out.
    """
    came = {name: number for number, (_, names) in enumerate(steps, start=1) for name in names}
    found: dict[tuple[int, str], Deployment] = {}
    for stage, domain in sorted(scores):
        if (file := scores[stage, domain].seen) is None:
            continue
        learned = {name: found.get((number, domain)) for name, number in came.items()}
        found[stage, domain] = deployment_of(
            load_deployed(out / file), maps[stage], came,
            evidence=file, precisions=_precisions(learned),
        )  # fmt: skip
    return {key: found[key] for key in scores if key in found}


def deployment_of(
    seen: Deployed,
    maps: Mapping[str, ScoreMap],
    increments: Mapping[str, object],
    *,
    evidence: str | None = None,
    precisions: Mapping[str, float | None] = MappingProxyType({}),
) -> Deployment:
    """Return what a detector with score maps shows; other arguments as `deployment`."""
    raw = [
        _unmapped(one, maps[name]) if name in maps else one
        for name, one in seen.matches.classes.items()
    ]
    return deployment(seen, thresholds(maps), increments, evidence, raw=raw, precisions=precisions)


def _unmapped(found: ClassMatches, by: ScoreMap) -> ClassMatches:
    """Return the same matches with the scores before a map."""
    from scipy.special import expit

    odds = (log_odds(found.scores) - by.offset) / by.scale
    return replace(found, scores=expit(odds).astype(np.float32))


def _precisions(learned: Mapping[str, Deployment | None]) -> dict[str, float | None]:
    """Return the precision of each class with the detector that learned it, where that is known."""
    rows = {name: one.classes.get(name) for name, one in learned.items() if one is not None}
    return {name: row.precision for name, row in rows.items() if row is not None}


def recalls(out: Path, steps: SeriesSteps, maps: Maps, scores: Scores) -> dict[Slice, Recalls]:
    """Return what of each increment but the last is still found; arguments as `deployments`."""
    found: dict[Slice, Recalls] = {}
    for pair in ri_pairs(steps):
        sides = [scores.get((stage, pair.domain)) for stage in (pair.increment, pair.stage)]
        files = [one.seen for one in sides if one is not None and one.seen is not None]
        if len(files) == len(sides):
            earlier, later = (load_deployed(out / file) for file in files)
            default = dict.fromkeys(pair.classes, CONFIDENCE)
            least = (default | thresholds(maps[stage]) for stage in (pair.increment, pair.stage))
            found[pair.slice] = _recalls(earlier, later, pair.classes, *least)
    return found


def _recalls(
    earlier: Deployed,
    later: Deployed,
    classes: tuple[str, ...],
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> Recalls:
    sides = pooled(earlier.matches, classes, before), pooled(later.matches, classes, after)
    every_image = np.ones((1, sides[0].total), np.float32)
    values = (
        None if np.isnan(value[0]) else float(value[0])
        for value in vars(retained(*sides, every_image)).values()
    )
    return Recalls(*values)
