"""What the detectors of a chain show their users, stage by stage, and what is still found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from duet.evaluation.ap import ClassAP
from duet.evaluation.deployment import (
    Deployed,
    Deployment,
    deployment,
    load_deployed,
    pooled,
    retained,
)
from duet.evaluation.indices import Recalls
from duet.evaluation.matrix import Slice
from duet.evaluation.pairs import SeriesSteps, ri_pairs

Scores = Mapping[tuple[int, str], ClassAP]
"""(stage, domain) -> what was measured there."""

Limits = Mapping[int, Mapping[str, float]]
"""Stage -> class name -> lowest score that is shown."""


def deployments(
    out: Path, steps: SeriesSteps, limits: Limits, scores: Scores
) -> dict[tuple[int, str], Deployment]:
    """Return what each stage's detector shows on each domain.

    Args:
        out: Run folder, which holds the files that ``scores`` names.
        steps: (domain, classes) of every increment.
        limits: Of each stage's detector.
        scores: What was measured; cells without files are left out.
    """
    came = {name: number for number, (_, names) in enumerate(steps) for name in names}
    return {
        (stage, domain): deployment(load_deployed(out / one.seen), limits[stage], came, one.seen)
        for (stage, domain), one in scores.items()
        if one.seen is not None
    }


def recalls(out: Path, steps: SeriesSteps, limits: Limits, scores: Scores) -> dict[Slice, Recalls]:
    """Return what of each increment but the last is still found; arguments as `deployments`."""
    found: dict[Slice, Recalls] = {}
    for pair in ri_pairs(steps):
        sides = [scores.get((stage, pair.domain)) for stage in (pair.increment, pair.stage)]
        files = [one.seen for one in sides if one is not None and one.seen is not None]
        if len(files) == len(sides):
            earlier, later = (load_deployed(out / file) for file in files)
            least = (limits[stage] for stage in (pair.increment, pair.stage))
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
