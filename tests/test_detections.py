"""`Detections`: shapes, dtypes, ranges and helpers."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest

from duet.detections import Detections, remapped_ids
from duet.errors import DataError
from duet.labels import LabelSpace

LABELS = LabelSpace.of(["cat", "dog"])
BOX = [1.0, 2.0, 30.5, 40.25]


def _detections(boxes: object, scores: object, ids: object) -> Detections:
    return Detections(boxes, scores, ids, LABELS)  # type: ignore[arg-type]  # lists are converted


@pytest.mark.parametrize(
    ("boxes", "scores", "ids", "outcome"),
    [
        pytest.param([], [], [], nullcontext(), id="empty"),
        pytest.param(np.zeros((0, 4)), [], [], nullcontext(), id="empty-2d"),
        pytest.param([BOX], [0.5], [1], nullcontext(), id="one"),
        pytest.param([[-5, -5, 900, 900]], [1.0], [0], nullcontext(), id="outside-the-image"),
        pytest.param([[9, 9, 1, 1]], [0.0], [0], nullcontext(), id="inverted"),
        pytest.param(
            [[1, 2, 3]], [0.5], [0], pytest.raises(DataError, match=r"\(n, 4\).*\(1, 3\)"), id="3"
        ),
        pytest.param(
            BOX, [0.5], [0], pytest.raises(DataError, match=r"\(n, 4\).*\(4,\)"), id="flat"
        ),
        pytest.param(
            [BOX], [0.5, 0.6], [0], pytest.raises(DataError, match=r"scores.*\(1,\).*\(2,\)"),
            id="more-scores",
        ),
        pytest.param(
            [BOX], [0.5], [[0]], pytest.raises(DataError, match=r"class_ids.*\(1, 1\)"), id="2d-ids"
        ),
        pytest.param(
            [BOX], [0.5], [2], pytest.raises(DataError, match=r"0\.\.1.*2\.\.2"), id="unknown-class"
        ),
        pytest.param(
            [BOX], [0.5], [-1], pytest.raises(DataError, match=r"0\.\.1.*-1"), id="negative-class"
        ),
        pytest.param(
            [BOX], [0.5], [0.5], pytest.raises(DataError, match="whole numbers"), id="float-class"
        ),
        pytest.param(
            [BOX], [1.5], [0], pytest.raises(DataError, match=r"\[0, 1\].*1\.5"), id="score>1"
        ),
        pytest.param(
            [[1, 2, np.nan, 4]], [0.5], [0], pytest.raises(DataError, match="finite"), id="nan-box"
        ),
        pytest.param(
            [BOX], [np.inf], [0], pytest.raises(DataError, match="finite"), id="inf-score"
        ),
        pytest.param(
            [["a"] * 4], [0.5], [0], pytest.raises(DataError, match="numbers"), id="text-box"
        ),
    ],
)  # fmt: skip
def test_validation(
    boxes: object, scores: object, ids: object, outcome: AbstractContextManager[object]
) -> None:
    with outcome:
        made = _detections(boxes, scores, ids)
        assert made.xyxy.dtype == np.float32
        assert made.xyxy.shape == (len(made), 4)
        assert made.scores.dtype == np.float32
        assert made.class_ids.dtype == np.int64


def test_helpers() -> None:
    found = _detections([BOX, [0, 0, 5, 5]], [0.9, 0.25], [1, 0])
    assert found.names == ("dog", "cat")
    assert found.above(0.25).names == ("dog", "cat")
    assert found.above(0.5).names == ("dog",)
    records = found.as_records()
    assert json.loads(json.dumps(records)) == records
    assert records[0] == {"name": "dog", "score": 0.9, "xyxy": BOX}
    assert len(Detections.empty(LABELS)) == 0
    assert Detections.empty(LABELS).as_records() == []


def test_some_classes_are_picked_by_name() -> None:
    found = _detections([BOX] * 3, [0.9, 0.5, 0.25], [1, 0, 1])
    assert found.of(["dog", "wolf", "dog"]).scores.tolist() == found.scores[[0, 2]].tolist()
    assert len(found.of([])) == 0


def test_ids_are_mapped_by_name() -> None:
    source, target = LabelSpace.of(["zebra", "dog", "ant"]), LabelSpace.of(["ant", "bee", "dog"])
    assert remapped_ids(source, target).tolist() == [-1, 2, 0]
    assert remapped_ids(LabelSpace(()), target).tolist() == []


def test_is_immutable_and_detached_from_its_input() -> None:
    scores = np.array([0.5], np.float32)
    found = _detections([BOX], scores, [0])
    scores[0] = 0.0
    assert found.scores[0] == np.float32(0.5)
    with pytest.raises(ValueError, match="read-only"):
        found.scores[0] = 1.0


@pytest.mark.parametrize("count", [0, 1])
def test_to_supervision(count: int) -> None:
    converted = _detections([BOX] * count, [0.5] * count, [1] * count).to_supervision()
    assert len(converted) == count
    assert list(converted.data["class_name"]) == ["dog"] * count
