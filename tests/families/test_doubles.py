"""One box per object, and thresholds of classes: greedy, stable, the same in every layout."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from duet.defaults import CLEAR, DOUBLE_IOU
from duet.detections import Detections
from duet.families.detector import ImageDetector
from duet.families.doubles import one_each, rivals_of
from duet.families.outputs import Layout
from duet.labels import LabelSpace

SIZE = 64
LABELS = LabelSpace(("cat", "dog", "bus", "ship", "kite"))
INCREMENTS = ("flat", "flat", "comic", "sketch", "sketch")
LAYOUTS: tuple[Layout, ...] = ("anchors", "picked", "picked-n", "queries")
SETTINGS = ("increments", "all")
IMAGE = np.zeros((SIZE, SIZE, 3), np.uint8)

Crowd = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""cxcywh boxes in pixels, falling scores, class ids."""


def crowd(count: int, seed: int) -> Crowd:
    """Return boxes around few places: many overlap by about `DOUBLE_IOU`."""
    rng, places = np.random.default_rng(seed), max(count // 12, 1)
    centres = rng.uniform(4, 60, (places, 2))[rng.integers(places, size=count)]
    boxes = np.concatenate([centres, np.full((count, 2), 24)], 1) + rng.normal(0, 1.5, (count, 4))
    scores = np.sort(rng.uniform(0.05, 0.95, count))[::-1].copy()
    rows = (boxes.astype(np.float32), scores.astype(np.float32), rng.integers(5, size=count))
    boxes_N4, scores_N, class_ids_N = map(torch.from_numpy, rows)
    return boxes_N4, scores_N, class_ids_N


def detector(layout: Layout, *crowds: Crowd) -> ImageDetector:
    """Return a detector whose network gives these boxes for each image, one class a place."""
    rows = torch.stack([laid_out(layout, *one) for one in crowds])
    return ImageDetector(lambda _: rows, LABELS, INCREMENTS, SIZE, "stretch", layout)


def laid_out(
    layout: Layout, boxes: torch.Tensor, scores: torch.Tensor, ids: torch.Tensor
) -> torch.Tensor:
    table = torch.zeros(len(ids), 5)
    table[torch.arange(len(ids)), ids] = scores
    if layout == "anchors":
        return torch.cat((boxes, table), 1).T
    if layout == "queries":
        return torch.cat((boxes / SIZE, table), 1)
    half = boxes[:, 2:] / 2
    placed = torch.cat((boxes[:, :2] - half, boxes[:, :2] + half), 1)
    placed = placed if layout == "picked" else boxes / SIZE
    return torch.cat((placed, scores[:, None], ids[:, None].float()), 1)


def brute(found: Detections, agnostic: Any) -> list[int]:
    """Return the definition: places of the boxes that no kept one of another group covers."""
    all_of_them = rivals_of(agnostic, LABELS, INCREMENTS)
    assert all_of_them is not None
    groups, least = all_of_them.groups, CLEAR if agnostic == "increments" else 0
    odds = [math.log(score / (1 - score)) for score in found.scores.tolist()]
    overlaps, kept = box_iou(*[torch.tensor(found.xyxy)] * 2), list[int]()
    for one, group in enumerate(groups[found.class_ids]):
        rivals = [
            other for other in kept
            if groups[found.class_ids[other]] != group and odds[other] - odds[one] >= least
        ]  # fmt: skip
        if all(overlaps[one, other] <= DOUBLE_IOU for other in rivals):
            kept.append(one)
    return kept


def rows_of(found: Detections) -> list[list[float]]:
    columns = (found.xyxy, found.scores[:, None], found.class_ids[:, None])
    rows: list[list[float]] = np.concatenate(columns, 1).tolist()
    return rows


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("agnostic", SETTINGS)
def test_suppression_is_the_greedy_one(layout: Layout, agnostic: Any) -> None:
    look = detector(layout, *(crowd(60, seed) for seed in range(12)))
    images, lost = [IMAGE] * 12, 0
    pairs = zip(look(images), look(images, agnostic=agnostic), strict=True)
    for off, found in pairs:
        kept = brute(off, agnostic)
        assert rows_of(found) == [rows_of(off)[place] for place in kept]
        lost += len(off) - len(found)
    assert lost > 60


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("agnostic", SETTINGS)
def test_a_threshold_cuts_and_changes_nothing_above(layout: Layout, agnostic: Any) -> None:
    look = detector(layout, *(crowd(60, seed) for seed in range(6)))
    for limit, least in itertools.product((7, 300), (0.2, 0.5, 0.8)):
        low, high = (
            look([IMAGE] * 6, confidence=one, limit=limit, agnostic=agnostic)
            for one in (0.05, least)
        )
        for every, found in zip(low, high, strict=True):
            assert rows_of(found) == [row for row in rows_of(every) if row[4] > least]


def test_blocks_change_nothing_and_the_limit_comes_last() -> None:
    boxes, scores, ids = crowd(1500, 0)
    boxes[:, 2:] += boxes[:, :2]
    every = Detections(boxes.numpy(), scores.numpy(), ids.numpy(), LABELS)
    rivals = rivals_of("increments", LABELS, INCREMENTS)
    assert rivals is not None
    expected = [rows_of(every)[place] for place in brute(every, "increments")]
    assert rows_of(one_each(every, rivals, 10_000)) == expected
    assert rows_of(one_each(every, rivals, 20)) == expected[:20]
    assert 20 < len(expected) < 1400
    assert len(one_each(Detections.empty(LABELS), rivals, 5)) == 0


def test_a_suppressed_box_suppresses_nothing_and_an_increment_spares_its_own() -> None:
    boxes = np.array([[0, 0, 20, 20], [0, 3, 20, 23], [0, 6, 20, 26]], np.float32)
    first, second, _ = box_iou(*[torch.tensor(boxes)] * 2)
    assert first[1] > DOUBLE_IOU > first[2]
    assert second[2] > DOUBLE_IOU
    for agnostic, ids, expected in (
        ("increments", (0, 2, 1), [0, 1]),
        ("increments", (0, 1, 2), [0, 1]),
        ("all", (0, 1, 0), [0, 0]),
        ("all", (0, 0, 1), [0, 0]),
    ):
        found = Detections(boxes, np.array([0.95, 0.6, 0.1]), np.array(ids), LABELS)
        rivals = rivals_of(agnostic, LABELS, INCREMENTS)  # type: ignore[arg-type]
        assert rivals is not None
        assert one_each(found, rivals, 9).class_ids.tolist() == expected


def test_between_increments_only_a_clearly_better_box_hides_another() -> None:
    boxes = torch.tensor([[30.0, 30, 20, 20], [30.5, 30, 20, 20]])
    for score, expected in ((0.6, ("cat", "bus")), (0.45, ("cat",))):  # 0.8: four to one
        look = detector("anchors", (boxes, torch.tensor([0.8, score]), torch.tensor([0, 2])))
        assert look([IMAGE], confidence=0.1, agnostic="increments")[0].names == expected
        assert look([IMAGE], confidence=0.1, agnostic="all")[0].names == ("cat",)
    assert rivals_of("increments", LABELS, ("flat",) * 5) is None  # it costs nothing there
    assert rivals_of("off", LABELS, INCREMENTS) is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_its_class_does_not_count_hides_nothing(layout: Layout) -> None:
    """A class with a high threshold must not hide an object that another class may show."""
    boxes = torch.tensor([[30.0, 30, 20, 20], [30.5, 30, 20, 20], [8, 8, 6, 6]])
    look = detector(layout, (boxes, torch.tensor([0.4, 0.3, 0.2]), torch.tensor([0, 2, 1])))
    least = (0.5, 0.1, 0.25, 0.5, 0.5)
    for limit, expected in ((9, ("bus", "dog")), (1, ("bus",))):
        for agnostic in SETTINGS:
            (found,) = look([IMAGE], confidence=least, limit=limit, agnostic=agnostic)  # type: ignore[arg-type]
            assert found.names == expected
        assert look([IMAGE], confidence=least, limit=limit)[0].names == expected


def test_a_place_is_the_best_class_that_counts() -> None:
    rows = torch.tensor([[[8.0, 8, 4, 4, 0.4, 0.3, 0.0, 0.0, 0.0]]]).mT
    look = ImageDetector(lambda _: rows, LABELS, INCREMENTS, SIZE, "stretch", "anchors")
    assert look([IMAGE], confidence=(0.5, 0.25, 0.5, 0.5, 0.5))[0].names == ("dog",)
    assert look([IMAGE], confidence=0.25)[0].names == ("cat",)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_thresholds_are_one_threshold(layout: Layout) -> None:
    look = detector(layout, crowd(60, 1))
    one, each = (look([IMAGE], confidence=least, limit=9)[0] for least in (0.3, (0.3,) * 5))
    assert rows_of(one) == rows_of(each)
    assert len(one) == 9
