"""Boxes on each other, found in blocks of images, against a look at every pair."""

from __future__ import annotations

import numpy as np
import pytest
from factories_scenes import LABELS, make_scene
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from supervision import box_iou_batch

from duet.defaults import DOUBLE_IOU
from duet.detections import Detections
from duet.evaluation.doubles import FLOOR, Doubles, find_doubles


def pair_by_pair(predictions: list[Detections]) -> tuple[list[list[int]], list[list[float]]]:
    pairs, scores = [], []
    for found in predictions:
        shared = np.asarray(box_iou_batch(found.xyxy, found.xyxy), np.float64)
        for one in range(len(found)):
            for other in range(one + 1, len(found)):
                sure = min(found.scores[one], found.scores[other]) >= np.float32(FLOOR)
                apart = found.class_ids[one] != found.class_ids[other]
                if sure and apart and shared[one, other] > DOUBLE_IOU:
                    pairs.append(found.class_ids[[one, other]].tolist())
                    scores.append(found.scores[[one, other]].tolist())
    return pairs, scores


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32 - 1),
    crowd=st.sampled_from([1, 3, 8]),
    grid=st.sampled_from([0.0, 5.0, 20.0]),
    factor=st.sampled_from([1.0, 1e30]),
    block=st.sampled_from([1, 3, 50]),
)
def test_every_pair_is_found(
    monkeypatch: pytest.MonkeyPatch, seed: int, crowd: int, grid: float, factor: float, block: int
) -> None:
    """Inverted boxes, boxes of equal sides, and an image whose boxes dwarf those of others."""
    monkeypatch.setattr("duet.evaluation.doubles.BLOCK", block)
    random = np.random.default_rng(seed)
    found, _ = make_scene(random, int(random.integers(1, 9)), 5, crowd)
    predictions = []
    for number, one in enumerate(found):
        xyxy = np.round(one.xyxy / grid) * grid if grid else one.xyxy
        xyxy = xyxy * np.float32(factor if number % 3 == 0 else 1)
        ids = random.integers(0, 5, len(one))
        predictions.append(Detections(xyxy, one.scores, ids, LABELS))
    pairs = find_doubles(predictions, LABELS.names)
    assert (pairs.pairs.tolist(), pairs.scores.tolist()) == pair_by_pair(predictions)
    assert pairs.images == len(predictions)


@pytest.mark.parametrize(("left", "pairs"), [(29.9, 1), (30.1, 0)])
def test_a_box_that_begins_much_further_right_may_still_be_one(left: float, pairs: int) -> None:
    boxes = np.array([[0, 0, 100, 10], [left, 0, 100, 10]])
    found = Detections(boxes, np.array([0.9, 0.8]), np.array([0, 1]), LABELS)
    assert len(find_doubles([found], LABELS.names).pairs) == pairs


def test_pairs_within_an_increment_are_told_from_others() -> None:
    pairs = np.array([[0, 1], [0, 2], [1, 2], [3, 4]])
    found = Doubles(LABELS.names, pairs, np.full((4, 2), 0.5, np.float32), 3)
    came = {"ant": "first", "bee": "first", "cow": "second"}  # dog and elk came alone
    assert found.count(dict.fromkeys(LABELS, 0.5), came) == (1, 3)
    assert found.count(dict.fromkeys(LABELS, 0.5) | {"ant": 0.6}, came) == (0, 2)
