"""Decoding on demand: what may be seen is what decoding of everything would have shown."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
from factories_yolo import decoded, make_state
from torch import nn

from duet.families.decode import Undecoded, decode
from duet.families.yolo.adapter import FAMILY

SIZE = (64, 96)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    state = make_state("towers", (2, 1))
    parts = []
    for part in state.parts:  # scores that differ, not those of the start, all next to nothing
        rows = {n: 300 * t for n, t in part.tensors.items() if n.endswith(".2.weight")}
        bias = {n: 0 * t for n, t in part.tensors.items() if n.endswith(".2.bias")}
        parts.append(replace(part, tensors={**part.tensors, **rows, **bias}))
    state = replace(state, parts=tuple(parts))
    return cast("nn.Module", FAMILY.detector(state, image_size=64).module)


@pytest.fixture(scope="module")
def seen(network: nn.Module) -> list[Undecoded]:
    x = torch.rand((2, 3, *SIZE), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = network(x.contiguous(memory_format=torch.channels_last))
    if not isinstance(found, list):
        pytest.skip("this processor decodes everything")
    return found


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.9, 1.0])
def test_thresholds_change_nothing_else(
    seen: list[Undecoded], place: float, multi_label: bool
) -> None:
    for one in seen:
        whole = one.above(0.0)
        scores = whole[4:].flatten().sort().values
        exact = scores[int(place * (len(scores) - 1))].item()  # a score itself is not above itself
        each = torch.tensor([exact, 0.5 * exact, min(1.0, 1.5 * exact)])
        for confidence in (exact, 0.0, 1.0, each, each.flip(0)):
            expected, got = (
                decode(
                    rows, "anchors", size=SIZE, confidence=confidence, iou=0.6, limit=50,
                    multi_label=multi_label,
                )
                for rows in (whole, one)
            )  # fmt: skip
            for wanted, found in zip(expected, got, strict=True):
                assert torch.equal(wanted, found)


def test_only_what_may_count_is_decoded(seen: list[Undecoded]) -> None:
    whole = seen[0].above(0.0)
    best = whole[4:].amax(0)
    least = best.quantile(0.9).item()
    some = seen[0].above(least)
    assert 0 < some.shape[1] < len(best) // 4
    assert torch.equal(some, whole[:, best > 0.9999 * least])
    nothing = replace(seen[0], logits=tuple(level - 1000 for level in seen[0].logits))
    assert nothing.above(0.001).shape == (len(whole), 0)


def test_with_gradients_the_engine_decodes(network: nn.Module, seen: list[Undecoded]) -> None:
    x = torch.rand((2, 3, *SIZE), generator=torch.Generator().manual_seed(0))
    expected = network(x)
    assert isinstance(expected, tuple)
    torch.testing.assert_close(decoded(seen), decoded(expected), atol=1e-3, rtol=1e-4)
