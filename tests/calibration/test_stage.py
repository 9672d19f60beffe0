"""Score maps of a stage: old scores come back, new ones mean something, little data says little."""

from __future__ import annotations

import numpy as np
import pytest

from duet.calibration.stage import FARTHEST, FEW, of_labels, of_the_past
from duet.detections import Detections
from duet.evaluation.deployment import calibration_error, log_odds
from duet.evaluation.matches import ClassMatches
from duet.increments.scores import ScoreMap
from duet.labels import LabelSpace

LABELS = LabelSpace(("cat", "dog"))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-values)))


def _two_looks(images: int, fall: float) -> tuple[list[Detections], ...]:
    """Return what a detector sees, and the same with log-odds that fell; boxes move a little."""
    random = np.random.default_rng(0)
    looks: tuple[list[Detections], ...] = ([], [])
    for _ in range(images):
        corner = np.arange(8)[:, None] * 50 + random.uniform(0, 5, (8, 1))
        boxes = np.hstack([corner, corner, corner + 30, corner + 30])
        odds, ids = random.normal(-1, 1.5, 8), random.integers(0, 2, 8)
        for look, seen in zip(looks, (odds, odds - fall), strict=True):
            moved = (boxes + random.normal(0, 0.5, (8, 4))).astype(np.float32)
            order = np.argsort(-seen)
            scores = _sigmoid(seen).astype(np.float32)
            look.append(Detections(moved[order], scores[order], ids[order], LABELS))
    return looks


def test_scores_at_the_same_places_come_back() -> None:
    before, after = _two_looks(60, fall=1.2)
    maps = of_the_past(before, after, LABELS)
    assert set(maps) == set(LABELS)
    for one in maps.values():
        assert (one.scale, one.threshold) == (1, None)
        assert one.offset == pytest.approx(1.2, abs=0.1)


def test_equal_detectors_need_no_map_and_blind_ones_get_none() -> None:
    before, after = _two_looks(30, fall=0)
    for one in of_the_past(before, after, LABELS).values():
        assert one.offset == pytest.approx(0, abs=1e-6)
    blind = [Detections.empty(LABELS) for _ in before]
    assert of_the_past(before, blind, LABELS) == {}


def test_what_counts_is_what_happens_near_the_threshold() -> None:
    """The sure ones fall by 0.5, all others by 1.25: a class is looked at where it is deployed."""
    before, _ = _two_looks(60, fall=0)
    after = []
    for one in before:
        odds = log_odds(one.scores)
        scores = _sigmoid(odds - np.where(odds > 0, 0.5, 1.25)).astype(np.float32)
        after.append(Detections(one.xyxy, scores, one.class_ids, LABELS))
    strict, loose = ScoreMap(threshold=_sigmoid(1.0).item()), ScoreMap(threshold=0.02)
    maps = of_the_past(before, after, LABELS, {"cat": strict, "dog": strict})
    assert all(one.offset == pytest.approx(0.5, abs=0.05) for one in maps.values())
    maps = of_the_past(before, after, LABELS, {"cat": loose, "dog": loose})
    assert all(one.offset > 0.9 for one in maps.values())
    # Twice the log-odds and 2 more, deployed where the raw ones are 1: the same places.
    mapped = ScoreMap(scale=2, offset=2, threshold=_sigmoid(4.0).item())
    assert mapped.raw_odds == pytest.approx(1)
    maps = of_the_past(before, after, LABELS, {"cat": mapped, "dog": mapped})
    assert all(one.offset == pytest.approx(0.5, abs=0.05) for one in maps.values())


def test_one_stage_moves_scores_so_far_and_no_farther() -> None:
    steep = ScoreMap(scale=3, threshold=0.4)
    for fall in (6.0, -6.0):
        before, after = _two_looks(60, fall=fall)
        maps = of_the_past(before, after, LABELS, {"dog": steep})
        assert maps["cat"].offset == np.sign(fall) * FARTHEST
        # As deployed it is the same: three times what the raw score moves by.
        assert steep.after(maps["dog"]).offset == pytest.approx(np.sign(fall) * FARTHEST)


def test_a_class_without_places_moves_with_the_others() -> None:
    before, after = _two_looks(60, fall=1.2)
    only = [[one.of(["cat"]) for one in side] for side in (before, after)]
    maps = of_the_past(*only, LABELS)
    assert maps["dog"].offset == pytest.approx(maps["cat"].offset, abs=0.1)


def _matched(count: int, slope: float, offset: float, seed: int = 0) -> ClassMatches:
    random = np.random.default_rng(seed)
    odds = np.sort(random.normal(-1.5, 1.5, count))[::-1]
    hit = random.uniform(size=count) < _sigmoid(slope * odds + offset)
    return ClassMatches.counted(
        _sigmoid(odds).astype(np.float32), np.zeros(count, np.int64), hit, np.zeros(count, bool),
        np.array([int(hit.sum()) + count // 10]), np.where(hit, 0.8, 0).astype(np.float32),
    )  # fmt: skip


def test_scores_become_the_share_that_is_right_and_thresholds_follow() -> None:
    found = {"cat": _matched(1500, 1, 1.5), "dog": _matched(1500, 0.5, -0.5, seed=1)}
    maps = of_labels({name: [one] for name, one in found.items()})
    for name, one in found.items():
        own = maps[name]
        odds = np.log(one.scores / (1 - one.scores))
        scores = _sigmoid(own.scale * odds + own.offset).astype(np.float32)
        mapped = ClassMatches.counted(scores, one.images, one.hit, one.ignored, one.truths, one.iou)
        before, after = calibration_error([one]), calibration_error([mapped])
        assert before is not None
        assert after is not None
        assert after < 0.05 < before
        assert own.threshold is not None


def test_few_objects_share_a_threshold() -> None:
    few = _matched(FEW // 2, 1, 1)
    maps = of_labels(
        {"cat": [_matched(800, 1, 1.5)], "dog": [few], "cow": [_matched(FEW // 2, 1, 0, 3)]}
    )
    assert int(few.truths.sum()) < FEW
    assert maps["dog"].threshold == maps["cow"].threshold != maps["cat"].threshold


def test_nothing_right_and_nothing_found_give_no_map() -> None:
    nothing = ClassMatches.counted(
        np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, bool),
        np.array([3]), np.zeros(0, np.float32),
    )  # fmt: skip
    assert of_labels({"cat": [nothing]}) == {}
    some = of_labels({"cat": [nothing], "dog": [_matched(500, 1, 0)]})
    assert set(some) == {"dog"}
    assert isinstance(some["dog"], ScoreMap)
