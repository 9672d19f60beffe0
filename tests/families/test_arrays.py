"""What numpy makes of outputs is what torch and torchvision make of them, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from duet.defaults import CANDIDATES
from duet.families import arrays, greedy
from duet.families.arrays import decode, suppress
from duet.families.decode import decode as decode_tensor
from duet.families.detector import to_batch
from duet.families.greedy import overlaps, staying
from duet.families.inputs import alike, stacked
from duet.families.outputs import Layout, View

IOUS = (0.0, 0.3, 0.45, 0.5, 0.6, 0.7, 1.0)  # float32 rounds some of them up, some down


def boxes_of(rng: np.random.Generator, count: int, *, whole: bool) -> Any:
    """Return xyxy boxes around few places; of whole pixels many overlaps are just a threshold."""
    if whole:
        corner = rng.integers(0, 12, (count, 2))
        return np.concatenate(
            (corner, corner + rng.integers(0, 9, (count, 2))), 1, dtype=np.float32
        )
    places = max(count // 10, 1)
    centre = rng.uniform(30, 600, (places, 2))[rng.integers(places, size=count)]
    boxes = np.concatenate((centre - 20, centre + 20), 1) + rng.normal(0, 4, (count, 4))
    return boxes.astype(np.float32)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("classes", [1, 2, 80, 1203])
def test_suppression_is_torchvisions(classes: int, whole: bool) -> None:
    rng, lost = np.random.default_rng(classes + whole), 0
    for turn in range(20):
        count = int(rng.integers(0, 240))
        boxes = boxes_of(rng, count, whole=whole)
        ids = rng.choice(rng.integers(0, classes, 20), count)
        scores = np.sort(rng.random(count, np.float32).round(1))[::-1].copy()  # many ties
        for iou in (IOUS[turn % 7], IOUS[(turn + 3) % 7]):
            kept = suppress(boxes, ids, iou, count)
            wanted = batched_nms(*map(torch.from_numpy, (boxes, scores, ids)), iou)
            assert kept.tolist() == sorted(wanted.tolist())
            assert suppress(boxes, ids, iou, 5).tolist() == kept[:5].tolist()
            lost += count - len(kept)
    assert lost > 40


def test_overlaps_are_torchvisions() -> None:
    rng = np.random.default_rng(0)
    one, other = boxes_of(rng, 50, whole=True), boxes_of(rng, 70, whole=False)
    for pair in ((one, other), (one, one), (other, other)):
        wanted = box_iou(*map(torch.from_numpy, pair)).numpy()
        assert np.array_equal(overlaps(*pair), wanted, equal_nan=True)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = boxes_of(np.random.default_rng(1), 700, whole=False)

    def kept(limit: int) -> list[int]:
        hidden = lambda n, m: overlaps(boxes[n], boxes[m]) > 0.5  # noqa: E731
        return staying(700, hidden, limit).tolist()

    some, all_of_them = kept(40), kept(700)
    monkeypatch.setattr(greedy, "_BLOCK", 1000)
    assert kept(700) == all_of_them
    assert kept(40) == some == all_of_them[:40]
    assert 40 < len(all_of_them) < 600


def output_of(rng: np.random.Generator, layout: Layout, classes: int, count: int) -> Any:
    boxes = rng.uniform(0.2, 0.4, (count, 4))
    boxes[:, :2] = rng.uniform(0.3, 0.7, (8, 2))[rng.integers(8, size=count)]
    scores = rng.random((count, classes)) ** 4
    if layout == "anchors":
        return np.concatenate((boxes * 64, scores), 1).T.astype(np.float32)
    if layout == "queries":
        return np.concatenate((boxes, scores), 1).astype(np.float32)
    scale, ids = 64 if layout == "picked" else 1, rng.integers(0, classes, (count, 1))
    return np.concatenate((boxes * scale, scores[:, :1], ids), 1).astype(np.float32)


@pytest.mark.parametrize("layout", ["anchors", "picked", "picked-n", "queries"])
@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("least", [0.001, 0.25, "own"])
def test_decoding_is_that_of_torch(layout: Layout, multi_label: bool, least: Any) -> None:
    rng, classes = np.random.default_rng(2), 5
    size = (64, 64) if layout in ("anchors", "picked") else (32, 64)
    for limit in (7, 300):
        output = output_of(rng, layout, classes, 90)
        own = (0.2, 0.1, 0.6, 0.9, 0.3)
        view = View(own if least == "own" else least, 0.5, multi_label=multi_label)
        found = decode(output, layout, size, view, limit)
        wanted = decode_tensor(
            torch.from_numpy(output), layout, size=size, iou=0.5, limit=limit,
            confidence=torch.tensor(own) if least == "own" else least, multi_label=multi_label,
        )  # fmt: skip
        for one, other in zip(found, wanted, strict=True):
            assert np.array_equal(one, other.numpy())
            assert one.dtype == other.numpy().dtype
        assert len(found[0]) > 3
        nothing = decode(output, layout, size, View(0.9999, multi_label=multi_label), limit)
        assert [array.shape for array in nothing] == [(0, 4), (0,), (0,)]


def test_no_more_candidates_than_the_engines_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CANDIDATES == 30_000
    monkeypatch.setattr(arrays, "CANDIDATES", 400)  # that many take a minute
    count = 900
    output = np.zeros((5, count), np.float32)
    output[0] = np.arange(count) * 4  # side by side: nothing is suppressed
    output[2:4] = 2
    output[4] = np.random.default_rng(0).uniform(0.1, 0.9, count)
    boxes, scores, _ = decode(output, "anchors", (64, 64), View(0.05), count)
    assert len(boxes) == 400
    assert scores.min() >= np.sort(output[4])[500]


@pytest.mark.parametrize("fit", ["rectangle", "letterbox", "stretch"])
def test_inputs_are_those_of_torch(fit: Any) -> None:
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((40, 90), (90, 40), (41, 90))]
    groups = list(alike(images, 64, fit, 32, 2))
    assert sorted(place for places, _ in groups for place in places) == [0, 1, 2]
    assert [places for places, _ in groups] == (
        [[0, 2], [1]] if fit == "rectangle" else [[0, 1], [2]]
    )
    for _, fitted in groups:
        wanted = to_batch([one.pixels for one in fitted], torch.device("cpu")).numpy()
        assert np.array_equal(stacked(fitted), wanted)
