"""From kept detections to what each stage shows: raw scores and precision when learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from duet.evaluation.ap import ClassAP
from duet.evaluation.deployment import Deployed, calibration_error, log_odds, save_deployed
from duet.evaluation.doubles import Doubles
from duet.evaluation.matches import ClassMatches, Matches
from duet.increments.scores import ScoreMap
from duet.runs.deployed import deployments

STEPS = (("day", ("cat",)), ("night", ("bus",)))
IMAGES = 40


def _matches(seed: int, share: float) -> ClassMatches:
    """Return 40 detections, one an image, of which so many are right: the scores say nothing."""
    random = np.random.default_rng(seed)
    hit = random.random(IMAGES) < share
    return ClassMatches(
        scores=np.sort(random.uniform(0.1, 0.95, IMAGES))[::-1].astype(np.float32),
        images=np.arange(IMAGES),
        hit=hit,
        ignored=np.zeros(IMAGES, np.bool_),
        truths=np.ones(IMAGES, np.int64),
        iou=np.where(hit, 0.8, 0).astype(np.float32),
    )


def _save(folder: Path, name: str, **classes: ClassMatches) -> ClassAP:
    none = Doubles(tuple(classes), np.zeros((0, 2), np.int64), np.zeros((0, 2), np.float32), IMAGES)
    matches = Matches(keys=np.arange(IMAGES, dtype=np.uint64), classes=classes)
    save_deployed(folder / name, Deployed(matches, none))
    return ClassAP({}, {}, None, name)


def test_the_error_of_raw_scores_and_equal_precision_are_those_of_the_stage(tmp_path: Path) -> None:
    by = ScoreMap(scale=0.5, offset=1.5, threshold=0.6)
    cat, later = _matches(0, 0.9), _matches(1, 0.6)
    mapped = replace(
        later, scores=(1 / (1 + np.exp(-(by.scale * log_odds(later.scores) + by.offset))))
        .astype(np.float32),
    )  # fmt: skip
    scores = {
        (2, "day"): _save(tmp_path, "2", cat=mapped, bus=_matches(2, 0.5)),
        (1, "day"): _save(tmp_path, "1", cat=cat),
    }
    found = deployments(tmp_path, STEPS, {1: {}, 2: {"cat": by}}, scores)
    assert list(found) == list(scores)
    first, second = found[1, "day"], found[2, "day"]
    assert first.ece_raw == first.ece  # no map
    expected = calibration_error([later, _matches(2, 0.5)])
    assert second.ece_raw == pytest.approx(expected, abs=1e-6)
    assert second.ece != pytest.approx(expected, abs=1e-3)
    # The cat was learned at stage 1; the bus has no stage before, and no day of its own.
    equal = second.classes["cat"].at_precision
    wanted = first.classes["cat"].precision
    assert equal is not None
    assert wanted is not None
    assert equal.precision is not None
    assert equal.precision >= wanted > second.classes["cat"].precision  # type: ignore[operator]
    assert first.classes["cat"].at_precision is None
    assert second.classes["bus"].at_precision is None
