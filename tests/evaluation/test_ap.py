"""AP: sliced per class, by name, and honest about what is missing; judges in test_judges.py."""

from __future__ import annotations

import numpy as np
import pytest
from factories_judges import pycocotools
from factories_scenes import LABELS, make_scene, make_truth
from hypothesis import given, settings
from hypothesis import strategies as st

from duet.detections import Detections
from duet.errors import ConfigError, DataError
from duet.evaluation.ap import ClassAP, Truth, backend, evaluate_ap
from duet.labels import LabelSpace


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    crowd=st.sampled_from([1, 3, 45]),  # 45 copies of up to 5 boxes exceed 100 per class
    subset=st.sets(st.integers(0, 4), min_size=1),
)
def test_a_mean_over_classes_is_that_of_a_run_with_these_alone(
    seed: int, crowd: int, subset: set[int]
) -> None:
    predictions, truths = make_scene(np.random.default_rng(seed), images=5, classes=4, crowd=crowd)
    result = evaluate_ap(predictions, truths, LABELS)
    names = [LABELS.names[index] for index in sorted(subset)]
    ap50, ap, _ = pycocotools(predictions, truths, LABELS, sorted(subset))
    there = [value for value in ap50 if value is not None]
    if not there:
        assert not result.has_truth(names)
        with pytest.raises(DataError, match="no labelled object"):
            result.map50(names)
    else:
        assert result.map50(names) == pytest.approx(np.mean(there), abs=1e-12)
        expected = np.mean([value for value in ap if value is not None])
        assert result.map(names) == pytest.approx(expected, abs=1e-12)


OBJECT, ELSEWHERE, INSIDE = [0, 0, 40, 40], [60, 60, 99, 99], [65, 65, 75, 75]


@pytest.mark.parametrize(
    ("boxes", "crowd", "expected"),
    [
        pytest.param([OBJECT], False, 1.0, id="only-the-object"),
        pytest.param([ELSEWHERE, OBJECT], False, 1.0, id="an-ignored-one-first"),
        pytest.param([ELSEWHERE, ELSEWHERE, OBJECT], False, 1.0, id="an-ignored-one-twice"),
        pytest.param([INSIDE, OBJECT], False, 0.5, id="a-part-of-a-single-object-is-wrong"),
        pytest.param([INSIDE, OBJECT], True, 1.0, id="a-part-of-a-crowd-is-not"),
    ],
)
def test_a_detection_of_an_ignored_object_counts_neither_way(
    boxes: list[list[int]], crowd: bool, expected: float
) -> None:
    found = Detections(
        np.array(boxes, float), np.linspace(0.9, 0.5, len(boxes)), np.zeros(len(boxes), int), LABELS
    )
    truth = make_truth([OBJECT, ELSEWHERE], [0, 0], 100, [False, True], [False, crowd])
    assert evaluate_ap([found], [truth], LABELS).map50(["ant"]) == pytest.approx(expected)


def test_a_class_with_only_ignored_objects_has_no_ap() -> None:
    found = Detections(np.array([OBJECT]), np.array([0.9]), np.array([1]), LABELS)
    truth = make_truth([OBJECT, ELSEWHERE], [1, 0], 100, [True, False])
    result = evaluate_ap([found], [truth], LABELS)
    assert (result.ap50["bee"], result.ap["bee"], result.ap50["ant"]) == (None, None, 0.0)
    assert not result.has_truth(["bee"])
    assert (result.objects["bee"], result.objects["ant"]) == (0, 1)
    assert result.covering(["wasp"]).objects == result.objects


@pytest.mark.parametrize(
    ("flags", "words"),
    [(([True],), "ignored must have shape"), (([False] * 2, [True] * 2), "crowd is ignored")],
)
def test_flags_are_validated(flags: tuple[list[bool], ...], words: str) -> None:
    with pytest.raises(DataError, match=words):
        make_truth([OBJECT, ELSEWHERE], [0, 0], 100, *flags)


def test_empty_predictions_score_zero() -> None:
    result = evaluate_ap([Detections.empty(LABELS)], [make_truth([[0, 0, 9, 9]], [1])], LABELS)
    assert result.map50(["bee"]) == 0.0
    assert result.ap50 == {"ant": None, "bee": 0.0, "cow": None, "dog": None, "elk": None}


def test_perfect_predictions_score_one_and_print_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    box = [[10, 10, 40, 40]]
    result = evaluate_ap(
        [Detections(np.array(box), np.array([0.3]), np.array([1]), LABELS)] * 2,
        [make_truth(box, [1])] * 2,
        LABELS,
    )
    assert result.map50(["bee", "cow"]) == pytest.approx(1.0)  # cow: no truth, not part of the mean
    assert capfd.readouterr() == ("", "")


def test_matches_classes_by_name_not_by_position() -> None:
    known = LabelSpace.of(["zebra", "dog"])
    found = Detections(
        np.array([[0, 0, 9, 9], [0, 0, 9, 9]]), np.array([0.9, 0.8]), np.array([0, 1]), known
    )
    assert evaluate_ap([found], [make_truth([[0, 0, 9, 9]], [3])], LABELS).map50(["dog"]) == 1.0


def test_inverted_boxes_are_false_positives() -> None:
    boxes = np.array([[9.0, 0, 0, 9], [0, 0, 9, 9]])
    found = Detections(boxes, np.array([0.9, 0.8]), np.array([0, 0]), LABELS)
    assert evaluate_ap([found], [make_truth([[0, 0, 9, 9]], [0])], LABELS).map50(["ant"]) == 0.5


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        pytest.param(["bea"], ConfigError, "did you mean 'bee'", id="unknown"),
        pytest.param(["ant", "cow"], DataError, "no labelled object", id="nothing-labelled"),
        pytest.param([], DataError, "none given", id="no-class"),
    ],
)
def test_subset_errors(names: list[str], error: type[Exception], words: str) -> None:
    values = {"ant": None, "bee": 0.5, "cow": None}
    with pytest.raises(error, match=words):
        ClassAP(values, values).map50(names)


@pytest.mark.parametrize(
    ("predictions", "truths", "words"),
    [
        pytest.param([], [], "1 or more", id="nothing"),
        pytest.param([Detections.empty(LABELS)], [], "1 predictions and 0", id="lengths"),
        pytest.param(
            [Detections.empty(LABELS)], [make_truth([[0, 0, 1, 1]], [7])], "0..4", id="unknown-id"
        ),
        pytest.param(
            [Detections.empty(LabelSpace.of(["motor"]))], [make_truth()], "none of the evaluated",
            id="other-names",
        ),
    ],
)  # fmt: skip
def test_input_errors(predictions: list[Detections], truths: list[Truth], words: str) -> None:
    with pytest.raises(DataError, match=words):
        evaluate_ap(predictions, truths, LABELS)


@pytest.mark.parametrize(
    ("boxes", "ids", "size", "words"),
    [
        pytest.param([[0, 0, 1]], [0], 9, r"\(1, 3\)", id="shape"),
        pytest.param([[0, 0, 1, 1]], [0, 1], 9, r"class_ids.*\(2,\)", id="ids"),
        pytest.param([[5, 0, 1, 1]], [0], 9, "ends before", id="inverted"),
        pytest.param([], [], 0, "1 x 1", id="no-image"),
    ],
)
def test_truth_validation(boxes: object, ids: object, size: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        make_truth(boxes, ids, size)


def test_backend_is_recorded() -> None:
    assert backend()["name"] == "duet"
    assert backend()["parameters"]["max_detections"] == 100
