"""Score maps: what was distorted comes back, little data changes little, no order changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duet.calibration.fit import (
    STEEPEST,
    best_threshold,
    fit_probability,
    fit_shift,
    threshold_of_precision,
)
from duet.increments.scores import ScoreMap


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-values)))


def test_scores_that_are_too_low_become_the_share_that_is_right() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(0, 2, 4000)  # log-odds of being right
    right = random.uniform(size=4000) < _sigmoid(truth)
    found = fit_probability((truth + 1.5) / 0.6, right)  # s = (t + 1.5) / 0.6
    assert found.scale == pytest.approx(0.6, abs=0.05)
    assert found.offset == pytest.approx(-1.5, abs=0.12)


def test_a_handful_of_detections_changes_little() -> None:
    few = fit_probability(np.array([-2.0, -1.0]), np.array([True, True]), prior=50)
    assert few.scale == pytest.approx(1, abs=0.1)
    assert 0 < few.offset < 0.1
    assert fit_shift(np.array([1.0]), np.array([-1.0]), prior=99).offset < 0.03
    assert fit_shift(np.zeros(0), np.zeros(0)) == ScoreMap()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 12))
def test_every_map_rises_and_is_finite(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    odds = random.normal(0, 10, count)
    for found in (
        fit_probability(odds, random.uniform(size=count) < 0.5),
        fit_shift(odds, random.normal(-5, 0.01, count)),
    ):
        assert 1 / STEEPEST * 0.999 <= found.scale <= STEEPEST * 1.001
        assert np.isfinite(found.offset)


def test_a_common_fall_is_undone() -> None:
    random = np.random.default_rng(1)
    before = random.normal(-1, 2, 500)
    found = fit_shift(before, before - 2 + random.normal(0, 0.1, 500), prior=0)
    assert (found.scale, found.offset) == (1, pytest.approx(2, abs=0.02))


def test_maps_one_after_the_other_are_one_map() -> None:
    first, second = ScoreMap(scale=2, offset=1), ScoreMap(scale=0.5, offset=-3, threshold=0.4)
    both = second.after(first)
    assert (both.scale, both.offset, both.threshold) == (1, -2.5, 0.4)


def test_the_threshold_of_the_best_f1_is_half_of_it() -> None:
    scores = np.array([0.9, 0.8, 0.3, 0.2])
    right = np.array([True, True, False, True])
    assert best_threshold(scores, right, 3) == pytest.approx(3 / 7)  # all four: F1 6/7
    assert best_threshold(scores, np.array([True, True, False, False]), 2) == 0.5
    assert best_threshold(scores, np.zeros(4, bool), 3) is None
    assert best_threshold(np.zeros(0), np.zeros(0, bool), 3) is None


def test_of_probabilities_no_other_threshold_has_a_higher_f1() -> None:
    random = np.random.default_rng(2)
    scores = np.sort(random.beta(0.5, 2, 200_000))[::-1]
    right = random.uniform(size=len(scores)) < scores
    objects = int(right.sum() * 1.3)  # some have no detection
    f1 = 2 * np.cumsum(right) / (np.arange(1, len(scores) + 1) + objects)
    chosen = best_threshold(scores, right, objects)
    assert chosen is not None
    assert f1[(scores >= chosen).sum() - 1] == pytest.approx(f1.max(), abs=1e-3)


def test_one_detection_more_hardly_moves_a_threshold() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    right = np.array([1, 1, 1, 0, 1, 0, 1, 0], bool)
    moved = [best_threshold(np.delete(scores, i), np.delete(right, i), 6) for i in range(8)]
    assert np.ptp(np.array(moved, float)) < 0.1  # the highest F1 itself: 0.25 to 0.65


def test_a_wanted_precision_is_kept_down_to_the_lowest_score() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.3, 0.2])
    right = np.array([True, False, True, True, False])
    assert threshold_of_precision(scores, right, 0.75) == pytest.approx(0.25)
    assert threshold_of_precision(scores, right, 1.0) == pytest.approx(0.85)
    assert threshold_of_precision(scores, np.zeros(5, bool), 0.1) is None
    late = np.array([False, True, True, False, True])  # at best 2 of 3
    assert threshold_of_precision(scores, late, 0.9) == pytest.approx(0.5)
