"""AP and matches against faster-coco-eval (to the bit) and pycocotools (within rounding)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from factories_judges import Row, faster_coco_eval, pycocotools
from factories_scenes import LABELS, make_scene, make_truth
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duet.detections import Detections
from duet.evaluation.ap import Truth, evaluate_ap
from duet.evaluation.matches import Matches, match, measure
from duet.evaluation.matching import overlaps
from duet.labels import LabelSpace

Scene = tuple[list[Detections], list[Truth]]


def rows(matches: Matches) -> list[Row]:
    """Return matches as the judges tell them."""
    found: list[Row] = []
    for index, one in enumerate(matches.classes.values()):
        ranks: dict[int, int] = {}
        for place, image in enumerate(one.images.tolist()):
            ranks[image] = ranks.get(image, -1) + 1
            hit, ignored = bool(one.hit[place]), bool(one.ignored[place])
            found.append((image, index, ranks[image], hit, ignored, float(one.iou[place])))
    return sorted(found)


def check(predictions: list[Detections], truths: list[Truth], *, quick_judge: bool = True) -> None:
    keys = np.arange(len(truths), dtype=np.uint64)
    scores, matches = measure(predictions, truths, LABELS, keys)
    if quick_judge:
        ap50, ap = faster_coco_eval(predictions, truths, LABELS)
        assert (list(scores.ap50.values()), list(scores.ap.values())) == (ap50, ap)
    other50, other, expected = pycocotools(predictions, truths, LABELS)
    for mine, theirs in ((scores.ap50, other50), (scores.ap, other)):
        for value, wanted in zip(mine.values(), theirs, strict=True):
            assert value == (None if wanted is None else pytest.approx(wanted, abs=1e-12))
    found = rows(matches)
    assert [row[:5] for row in found] == [row[:5] for row in expected]
    assert [row[5] for row in found] == [np.float32(row[5]) for row in expected]
    assert rows(match(predictions, truths, LABELS, keys)) == found
    objects = {name: len(one.owners) for name, one in matches.classes.items()}
    assert objects == scores.objects


def huddled(scene: Scene, random: np.random.Generator) -> Scene:
    """Return the same with more objects that lie on others: who takes which decides who is left."""
    predictions, truths = scene
    more = []
    for one in truths:
        twice = np.concatenate([one.xyxy, one.xyxy + random.normal(0, 2, one.xyxy.shape)])
        twice[:, 2:] = np.maximum(twice[:, 2:], twice[:, :2])
        ids = np.tile(one.class_ids, 2)
        ignored = np.concatenate([one.ignored, random.uniform(size=len(one.ignored)) < 0.4])
        crowds = np.concatenate([one.crowds, np.zeros(len(one.ignored), np.bool_)])
        more.append(make_truth(twice, ids, 100, ignored, crowds))
    return predictions, more


def on_a_grid(scene: Scene, step: float) -> Scene:
    """Return the same with corners on a grid: overlaps collide, and boxes lose their area."""
    predictions, truths = scene
    return (
        [replace(one, xyxy=np.round(one.xyxy / step) * step) for one in predictions],
        [replace(one, xyxy=np.round(one.xyxy / step) * step) for one in truths],
    )


def enlarged(scene: Scene, factor: float) -> Scene:
    """Return the same, many times larger: some boxes are beyond COCO's largest area."""
    predictions, truths = scene
    return (
        [replace(one, xyxy=one.xyxy * np.float32(factor)) for one in predictions],
        [replace(one, xyxy=one.xyxy * factor) for one in truths],
    )


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32 - 1),
    crowd=st.sampled_from([1, 3, 8, 45]),  # 45 copies of up to 5 boxes exceed 100 per class
    ignored=st.sampled_from([0.0, 0.5, 1.0]),
    crowds=st.sampled_from([0.0, 0.5, 1.0]),
    huddle=st.booleans(),
    grid=st.sampled_from([0.0, 4.0, 20.0]),
    factor=st.sampled_from([1.0, 6000.0]),
    blocks=st.sampled_from([(1, 1), (20, 3), (200_000, 1_000_000)]),
)
def test_random_scenes(
    monkeypatch: pytest.MonkeyPatch, seed: int, crowd: int, ignored: float, crowds: float,
    huddle: bool, grid: float, factor: float, blocks: tuple[int, int],
) -> None:  # fmt: skip
    monkeypatch.setattr("duet.evaluation.ap.BLOCK", blocks[0])
    monkeypatch.setattr("duet.evaluation.matching.PAIRS", blocks[1])
    random = np.random.default_rng(seed)
    scene = make_scene(random, int(random.integers(1, 7)), 4, crowd, ignored, crowds)
    if huddle:
        scene = huddled(scene, random)
    if grid:
        scene = on_a_grid(scene, grid)
    # Of a class with no object below COCO's largest area, faster-coco-eval says 0 and not nothing.
    check(*enlarged(scene, factor), quick_judge=factor == 1.0)


def test_scenes_hold_what_they_are_for() -> None:
    """Else the judges would judge nothing: ties, more than 100 of a class, large boxes, crowds."""
    random = np.random.default_rng(0)
    predictions, truths = make_scene(random, 20, 4, 45, 0.5, 0.5)
    assert max(np.bincount(one.class_ids, minlength=1).max() for one in predictions) > 100
    assert any(len(set(one.scores.tolist())) < len(one) for one in predictions)
    assert any(one.crowds.any() for one in truths)
    assert any((one.ignored & ~one.crowds).any() for one in truths)
    large = enlarged((predictions, truths), 6000.0)[1]
    areas = np.concatenate([np.prod(one.xyxy[:, 2:] - one.xyxy[:, :2], axis=1) for one in large])
    assert (areas > 1e10).any()
    assert (areas < 1e10).any()


def test_of_equal_overlaps_the_last_object_is_taken() -> None:
    """As COCO has it; a second detection then finds the other one, or nothing."""
    left, right = [0, 0, 30, 10], [10, 0, 40, 10]
    for boxes in ([left, right], [right, left]):
        for second in (left, right):
            found = np.array([[5, 0, 35, 10], [second[0] - 5, 0, second[2] - 5, 10]])
            detections = Detections(found, np.array([0.9, 0.8]), np.array([0, 0]), LABELS)
            check([detections], [make_truth(boxes, [0, 0])])


@pytest.mark.parametrize("found", [0, 2])
@pytest.mark.parametrize("labelled", [0, 2])
def test_empty_sides_and_images(found: int, labelled: int) -> None:
    box = [[0, 0, 9, 9], [20, 20, 30, 30]]
    detections = Detections(np.array(box[:found]), np.full(found, 0.5), np.ones(found, int), LABELS)
    truth = make_truth(box[:labelled], [1] * labelled)
    check([Detections.empty(LABELS), detections], [make_truth(), truth])


def test_an_object_as_large_as_coco_ignores_is_not_scored() -> None:
    box = [[0, 0, 2e5, 2e5]]
    found = Detections(np.array(box * 2), np.array([0.9, 0.8]), np.array([0, 0]), LABELS)
    scores, matches = measure([found], [make_truth(box, [0])], LABELS, np.zeros(1, np.uint64))
    assert scores.ap50["ant"] is None
    assert scores.objects["ant"] == 0
    assert matches.classes["ant"].ignored.all()


def test_detections_count_where_nothing_is_labelled() -> None:
    found = Detections(np.array([[0, 0, 9, 9]]), np.array([0.5]), np.array([1]), LABELS)
    matches = match([found], [make_truth()], LABELS, np.zeros(1, np.uint64)).classes["bee"]
    assert (matches.hit.tolist(), matches.ignored.tolist()) == ([False], [False])


def test_overlaps_are_computed_as_the_judges_do() -> None:
    from faster_coco_eval.core import mask

    random = np.random.default_rng(1)
    one, other = (
        np.vstack([random.uniform(0, 50, (2, 3000)), random.uniform(0, 60, (2, 3000))])
        for _ in range(2)
    )
    crowds = random.uniform(size=3000) < 0.3
    expected: npt.NDArray[np.float64] = np.array([
        mask.iou([a.tolist()], [b.tolist()], [int(c)])[0, 0]
        for a, b, c in zip(one.T, other.T, crowds, strict=True)
    ])  # fmt: skip
    assert (overlaps(one, other, crowds) == expected).all()


def test_many_classes_and_another_order_of_names() -> None:
    """Names decide: ids of a detector that knows other classes, in another order, are mapped."""
    random = np.random.default_rng(2)
    predictions, truths = make_scene(random, 8, 4, 4)
    names = LabelSpace.of([*(f"other {i}" for i in range(300)), *reversed(LABELS.names)])
    renamed = [
        Detections(one.xyxy, one.scores, 300 + len(LABELS) - 1 - one.class_ids, names)
        for one in predictions
    ]
    strangers = Detections(np.array([[0, 0, 9, 9]]), np.array([0.9]), np.array([7]), names)
    wide = LabelSpace.of([*LABELS.names, *(f"absent {i}" for i in range(400))])
    some = evaluate_ap([*renamed, strangers], [*truths, make_truth()], wide)
    expected = evaluate_ap(
        [*predictions, Detections.empty(LABELS)], [*truths, make_truth()], LABELS
    )
    assert {name: some.ap[name] for name in LABELS} == expected.ap
    assert some.ap["absent 3"] is None
