"""Boxes without torchvision's package: the same numbers as with it."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
from torchvision import ops

from duet import boxes as module_under_test
from duet.boxes import box_iou, class_nms, corners, nms
from duet.defaults import CANDIDATES
from duet.families.decode import suppress


def candidates(
    count: int, classes: int, *, side: float = 640, ties: bool = False, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return boxes that overlap often, their scores and classes."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand((count, 2), generator=generator) * side
    sizes = torch.rand((count, 2), generator=generator) * side / 4 + 1
    scores = torch.randperm(count, generator=generator) / max(count, 1)  # all differ
    scores = (scores * 20).round() / 20 if ties else scores
    ids = torch.randint(0, classes, (count,), generator=generator)
    return corners(torch.cat((centres, sizes), 1)), scores, ids


@pytest.mark.parametrize("side", [64, 640, 1e6], ids="{:.0f} px".format)
@pytest.mark.parametrize("classes", [1, 20, 1203])
@pytest.mark.parametrize("count", [0, 1, 7, 999, 1000, 1001, 6000])
def test_what_batched_nms_of_torchvision_gives(count: int, classes: int, side: float) -> None:
    """Both of its ways: classes moved apart, where float32 rounds, and class after class."""
    given = candidates(count, classes, side=side)
    assert torch.equal(class_nms(*given, 0.5), ops.batched_nms(*given, 0.5))
    assert torch.equal(nms(*given[:2], 0.5), ops.nms(*given[:2], 0.5))


@pytest.mark.parametrize("count", [900, 3000])
def test_of_equal_scores_the_first_box_stays_first(count: int) -> None:
    """torchvision, whose sort is not stable, has an order of its own among many of them."""
    given = candidates(count, 5, ties=True)
    got = class_nms(*given, 0.5)
    assert torch.equal(got.sort().values, ops.batched_nms(*given, 0.5).sort().values)
    order = got[given[1][got].argsort(descending=True, stable=True)]
    assert torch.equal(got, order)
    pairs = itertools.pairwise(got.tolist())
    assert all(one < other for one, other in pairs if given[1][one] == given[1][other])


def test_only_the_best_candidates_count() -> None:
    """1203 classes at 0.001: as many candidates as boxes times classes."""
    generator = torch.Generator().manual_seed(0)
    y = torch.rand((4 + 1203, 60), generator=generator)
    y[:2] *= 640
    y[2:4] = 8
    boxes, scores, ids = suppress(y, confidence=0.001, iou=0.7, limit=10**9)
    every = y[4:].flatten()
    least = every.sort(descending=True, stable=True).values[CANDIDATES - 1]
    assert len(every) > 2 * CANDIDATES
    assert len(scores) <= CANDIDATES
    assert float(scores.min()) >= float(least)
    found = ops.batched_nms(*_flat(y, float(least)), 0.7)
    assert len(found) == len(scores)
    assert len(boxes) == len(ids)


def _flat(y: torch.Tensor, least: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids, places = torch.where(y[4:] >= least)
    return corners(y[:4, places].T), y[4:][ids, places], ids


def test_of_equal_scores_the_first_ones_are_kept() -> None:
    count = CANDIDATES + 10
    apart = torch.arange(count)[:, None] * 10.0
    boxes = torch.cat((apart, apart, apart + 5, apart + 5), 1)
    scores = torch.full((count,), 0.5)
    scores[-3:] = 0.75
    kept = class_nms(boxes, scores, torch.zeros(count), 0.5)
    expected = [*range(count - 3, count), *range(CANDIDATES - 3)]
    assert kept.tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_overlaps_are_torchvision_s(dtype: torch.dtype) -> None:
    one, other = (candidates(40, 1, side=64, seed=seed)[0].to(dtype) for seed in (0, 1))
    one[0] = 3  # without area
    other[0] = 3
    got, expected = box_iou(one, other), ops.box_iou(one, other)
    assert got.dtype == expected.dtype
    assert torch.equal(got.nan_to_num(-1), expected.nan_to_num(-1))
    converted = ops.box_convert(one, "cxcywh", "xyxy")
    assert torch.equal(corners(one), converted)


SCRIPT = """
import sys
if {blocked}:
    import duet.boxes
    duet.boxes._LIBRARIES = ()
import torch
from duet.boxes import nms
kept = nms(torch.tensor([[0., 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]]),
           torch.tensor([.5, .9, .7]), .5)
print(kept.tolist(), "torchvision" in sys.modules)
import torchvision
print(torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), .5).tolist())
"""


@pytest.mark.parametrize("blocked", [False, True], ids=["library", "package"])
def test_the_package_is_imported_only_where_its_library_is_not_found(blocked: bool) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(blocked=blocked)], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert run.stdout.split("\n")[:2] == [f"[1, 2] {blocked}", "[0]"]


def test_a_library_of_another_torch_is_left_to_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise OSError("undefined symbol")

    monkeypatch.setattr(torch.ops, "load_library", refuse)
    assert not module_under_test._load_library()
