"""What a user sees: counts against a count by hand, LRP, calibration, equal precision, files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from factories_scenes import LABELS, make_scene
from hypothesis import given, settings
from hypothesis import strategies as st

from duet.detections import Detections
from duet.errors import DataError
from duet.evaluation.ap import Truth
from duet.evaluation.bootstrap import recall_at_precision
from duet.evaluation.deployment import (
    Counted,
    Deployed,
    calibration_error,
    deployment,
    load_deployed,
    log_odds,
    lrp,
    pooled,
    retained,
    save_deployed,
)
from duet.evaluation.doubles import Doubles, find_doubles
from duet.evaluation.histograms import STEPS, score_histogram, still_above
from duet.evaluation.matches import ClassMatches, Matches, match

SEEDS = st.integers(0, 2**32 - 1)


def _seen(seed: int, images: int = 6) -> tuple[Deployed, list[Detections], list[Truth]]:
    found, truths = make_scene(np.random.default_rng(seed), images=images, classes=4, crowd=3)
    keys = np.arange(images, dtype=np.uint64)
    doubles = find_doubles(found, LABELS.names)
    return Deployed(match(found, truths, LABELS, keys), doubles), list(found), list(truths)


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    width, height = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = max(float(width), 0) * max(float(height), 0)
    areas = [float(np.prod(np.maximum(box[2:] - box[:2], 0))) for box in (one, other)]
    return shared / (sum(areas) - shared) if shared else 0.0


def _by_hand(found: Detections, truth: Truth, index: int, least: float) -> tuple[int, int, float]:
    """Return found, wrong and the sum of IoU of one class in one image, box by box."""
    chosen = [i for i in np.argsort(-found.scores, kind="stable") if found.class_ids[i] == index]
    free = [
        i for i in range(len(truth.xyxy)) if truth.class_ids[i] == index and not truth.ignored[i]
    ]
    right, wrong, overlap = 0, 0, 0.0
    for i in chosen:
        if found.scores[i] < least:
            continue
        best = max(free, key=lambda j: _iou(found.xyxy[i], truth.xyxy[j]), default=None)
        if best is not None and _iou(found.xyxy[i], truth.xyxy[best]) >= 0.5:
            free.remove(best)
            right, overlap = right + 1, overlap + _iou(found.xyxy[i], truth.xyxy[best])
        else:
            wrong += 1
    return right, wrong, overlap


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, least=st.sampled_from([0.05, 0.25, 0.5, 0.9]))
def test_counts_and_lrp_at_a_threshold_are_those_by_hand(seed: int, least: float) -> None:
    seen, found, truths = _seen(seed)
    shown = deployment(seen, dict.fromkeys(LABELS, least), {})
    for index, name in enumerate(LABELS):
        rows = [_by_hand(*pair, index, least) for pair in zip(found, truths, strict=True)]
        right, wrong, overlap = (sum(column) for column in zip(*rows, strict=True))
        one = shown.classes[name]
        assert (one.found, one.wrong) == (right, wrong)
        every = one.objects + one.wrong
        if every:
            expected = ((right - overlap) / 0.5 + wrong + one.missed) / every
            assert one.lrp == pytest.approx(expected, abs=1e-5)
        else:
            assert one.lrp is None


def _matches(scores: list[float], hit: list[bool], objects: int, iou: float = 1.0) -> ClassMatches:
    flags = np.array(hit, np.bool_)
    return ClassMatches.counted(
        np.array(scores, np.float32), np.zeros(len(scores), np.int64), flags,
        np.zeros(len(scores), np.bool_), np.array([objects]),
        np.where(flags, iou, 0).astype(np.float32),
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, wanted=st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]))
def test_what_is_found_at_a_precision_is_the_most_of_all_cuts(seed: int, wanted: float) -> None:
    seen, _, _ = _seen(seed)
    precisions = dict.fromkeys(LABELS, wanted)
    shown = deployment(seen, {}, {}, precisions=precisions).classes
    for name, found in seen.matches.classes.items():
        most = (0, 0)
        for cut in range(1, len(found.scores) + 1):
            hits, counted = int(found.hit[:cut].sum()), int((~found.ignored[:cut]).sum())
            if found.hit[cut - 1] and hits >= wanted * counted:
                most = hits, counted - hits
        there = shown[name].at_precision
        assert there is not None
        assert (there.found, there.wrong) == most
        assert there.objects == shown[name].objects
    assert all(one.at_precision is None for one in deployment(seen, {}, {}).classes.values())


def test_lrp_is_nothing_lost_everything_lost_or_undefined() -> None:
    assert lrp(_matches([0.9, 0.8], [True, True], 2)).tolist() == [1, 0.5, 0]
    assert lrp(_matches([0.9], [True], 1, iou=0.5)).tolist() == [1, 1]
    assert lrp(_matches([0.9], [False], 0))[1] == 1
    assert math.isnan(lrp(_matches([], [], 0))[0])


def test_the_best_threshold_is_the_one_of_the_lowest_error() -> None:
    found = _matches([0.9, 0.8, 0.3, 0.2], [True, False, True, False], 2)
    seen = Deployed(_of({"cat": found}), _no_doubles(("cat",)))
    one = deployment(seen, {"cat": 0.5}, {}).classes["cat"]
    assert (one.threshold, one.found, one.wrong, one.missed) == (0.5, 1, 1, 1)
    assert (one.precision, one.recall, one.f1) == (0.5, 0.5, 0.5)
    assert one.lrp == pytest.approx(2 / 3)
    assert one.olrp == pytest.approx(1 / 3)
    assert one.olrp_threshold == pytest.approx(0.3)


def test_shares_of_nothing_are_undefined_and_never_zero() -> None:
    nothing = Counted(objects=0, found=0, wrong=0)
    assert (nothing.precision, nothing.recall, nothing.f1) == (None, None, None)
    unseen = Counted(objects=3, found=0, wrong=0)
    assert (unseen.precision, unseen.recall, unseen.f1, unseen.missed) == (None, 0, 0, 3)


def test_calibration_error_is_the_gap_of_each_bin_weighted() -> None:
    sure = _matches([0.95, 0.95, 0.15, 0.15, 0.01], [True, False, False, False, False], 1)
    assert calibration_error([sure]) == pytest.approx((2 * 0.45 + 2 * 0.15) / 4)
    assert calibration_error([_matches([0.01], [False], 1)]) is None
    assert calibration_error([_matches([1.0], [True], 1)]) == 0


def test_what_is_shown_has_the_calibration_error_of_all_classes_together() -> None:
    cat, dog = _matches([0.95, 0.15], [True, False], 1), _matches([0.75], [False], 0)
    seen = Deployed(_of({"cat": cat, "dog": dog}), _no_doubles(("cat", "dog")))
    assert deployment(seen, {}, {}).ece == pytest.approx((0.05 + 0.15 + 0.75) / 3)
    nothing = Deployed(_of({"cat": _matches([], [], 2)}), _no_doubles(("cat",)))
    assert deployment(nothing, {}, {}).ece is None


def _of(classes: dict[str, ClassMatches]) -> Matches:
    return Matches(np.zeros(1, np.uint64), classes)


def _no_doubles(names: tuple[str, ...]) -> Doubles:
    return Doubles(names, np.zeros((0, 2), np.int64), np.zeros((0, 2), np.float32), 1)


def test_scores_that_fall_together_cost_found_objects_and_nothing_at_equal_precision() -> None:
    hits = [True, True, False, True, False, True]
    before = _matches([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], hits, 5)
    after = _matches([0.5, 0.4, 0.3, 0.2, 0.1, 0.05], hits, 5)
    limits = {"cat": 0.35}
    sides = [pooled(_of({"cat": one}), ("cat",), limits) for one in (before, after)]
    once = np.ones((1, 1), np.float32)
    kept = retained(*sides, once)
    assert kept.before == pytest.approx([4 / 5])
    assert kept.after == pytest.approx([2 / 5])
    assert kept.at_precision == pytest.approx([4 / 5])


def test_what_was_not_found_before_has_no_share_and_no_precision() -> None:
    limits = {"cat": 0.5}
    blind = pooled(_of({"cat": _matches([], [], 2)}), ("cat",), limits)
    kept = retained(blind, blind, np.array([[1.0], [0.0]], np.float32))
    assert kept.before[0] == 0
    assert math.isnan(kept.at_precision[0])
    assert all(math.isnan(value[1]) for value in vars(kept).values())  # no object was drawn


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, wanted=st.sampled_from([0.2, 0.5, 0.8, 1.0]))
def test_recall_at_a_precision_is_the_best_of_all_cuts(seed: int, wanted: float) -> None:
    seen, _, _ = _seen(seed)
    found = pooled(seen.matches, LABELS.names, dict.fromkeys(LABELS, 0.25))
    weights = np.random.default_rng(seed).integers(0, 3, (4, found.total)).astype(np.float32)
    got = recall_at_precision(found, weights, np.full(4, wanted))
    for row, value in zip(weights, got, strict=True):
        objects = float(row @ found.truths)
        counted = np.cumsum(row[found.images] * ~found.ignored)
        hits = np.cumsum(row[found.images] * found.hit)
        cuts = hits[(counted > 0) & (hits >= wanted * counted - 1e-9)]
        expected = max(cuts, default=0) / objects if objects else math.nan
        assert value == pytest.approx(expected, nan_ok=True)


def test_thresholds_of_classes_make_one_order() -> None:
    cat, dog = _matches([0.9, 0.6], [True, True], 2), _matches([0.3, 0.2], [True, False], 1)
    found = pooled(_of({"cat": cat, "dog": dog}), ("cat", "dog"), {"cat": 0.7, "dog": 0.25})
    assert found.hit.tolist() == [True, True, False, True]
    assert (found.scores >= 0).tolist() == [True, True, False, False]
    assert int(found.truths.sum()) == 3


def test_doubles_are_pairs_of_classes_on_one_another_at_their_thresholds() -> None:
    box, moved, far = [0, 0, 100, 100], [5, 0, 100, 100], [40, 0, 140, 100]
    found = Detections(
        np.array([box, moved, far, box], np.float32), np.array([0.9, 0.4, 0.8, 0.02], np.float32),
        np.array([0, 1, 2, 3]), LABELS,
    )  # fmt: skip
    same = Detections(
        np.array([box, moved], np.float32), np.array([0.9, 0.8], np.float32), np.array([0, 0]),
        LABELS,
    )  # fmt: skip
    pairs = find_doubles([found, same], LABELS.names)
    assert pairs.images == 2
    assert pairs.pairs.tolist() == [[0, 1]]  # not the far box, the unsure one, or one class's own
    names = LABELS.names
    least = dict.fromkeys(names, 0.25)
    assert pairs.count(least, {names[0]: 1, names[1]: 1}) == (1, 0)
    assert pairs.count(least, {names[0]: 1, names[1]: 2}) == (0, 1)
    assert pairs.count({**least, names[1]: 0.5}, {}) == (0, 0)


def test_a_score_histogram_counts_every_detection_but_ignored_ones_once() -> None:
    scores = np.array([1.0, 0.97, 0.5, 0.05, 0.0499, 0.0], np.float32)
    hit = np.array([True, False, True, False, False, False])
    ignored = np.array([False, True, False, False, False, False])
    places, one = np.zeros(6, np.int64), np.array([2])
    right, wrong = score_histogram(
        ClassMatches.counted(scores, places, hit, ignored, one, hit.astype(np.float32))
    )
    assert {n: count for n, count in enumerate(right) if count} == {19: 1, 10: 1}
    assert {n: count for n, count in enumerate(wrong) if count} == {1: 1, 0: 2}
    assert len(right) == len(wrong) == STEPS


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, threshold=st.floats(0.1, 0.9), fall=st.floats(-2, 2))
def test_a_histogram_tells_what_is_left_when_scores_fall(
    seed: int, threshold: float, fall: float
) -> None:
    scores = np.sort(np.random.default_rng(seed).uniform(0, 1, 4000)).astype(np.float32)[::-1]
    places = np.zeros(len(scores), np.int64)
    hit = np.ones(len(scores), np.bool_)
    right, _ = score_histogram(
        ClassMatches.counted(scores, places, hit, ~hit, np.array([5000]), np.ones_like(scores))
    )
    fallen = log_odds(scores) - fall
    left = int((fallen >= math.log(threshold / (1 - threshold))).sum())
    assert still_above(right, threshold, fall) == pytest.approx(left, abs=40)


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    seen, _, _ = _seen(3)
    path = tmp_path / "one.seen.npz"
    save_deployed(path, seen)
    limits = dict.fromkeys(LABELS, 0.3)
    assert deployment(load_deployed(path), limits, {}) == deployment(seen, limits, {})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="cannot be read"):
        load_deployed(path)
