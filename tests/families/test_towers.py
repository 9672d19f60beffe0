"""Joined class towers: the numbers of the towers in turn, several towers per call."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from factories_states import images
from factories_yolo import YOLO11N, YOLOV8N, decoded, make_state, shaken
from torch import nn

from duet.families.yolo import towers as module_under_test
from duet.families.yolo.adapter import FAMILY
from duet.families.yolo.build import inference_model, stock_model
from duet.families.yolo.towers import ClassTowers, JoinedTowers, join

YOLO26N = "yolo26n.yaml"
CHANNELS = (64, 128, 256)
"""Features of an n-sized detector, level by level."""

CASES = {
    "T=1": ((3,), (64,)),
    "T=2": ((2, 2), (64, 64)),
    "T=3, class counts differ": ((1, 4, 2), (64, 64, 64)),
    "T=3, widths differ": ((80, 4, 4), (80, 64, 64)),
    "T=3, a width that fills no vector": ((90, 2, 90), (90, 64, 90)),
    "T=8": ((2,) * 8, (64,) * 8),
}


@functools.cache
def fused_towers(architecture: str, classes: int, width: int, seed: int) -> nn.ModuleList:
    """Return the class towers of a fused stock detector whose every tensor is its own."""
    model = stock_model(architecture, classes, width).eval()
    model.load_state_dict(shaken(model.state_dict(), seed, scale=0.5))
    return model.fuse(verbose=False).requires_grad_(False).model[-1].cv3


def both(
    level: int = 0,
    sizes: tuple[int, ...] = (2, 2),
    widths: tuple[int, ...] = (64, 64),
    architecture: str = YOLO11N,
) -> tuple[ClassTowers, JoinedTowers]:
    """Return the same towers in turn and joined."""
    pairs = enumerate(zip(sizes, widths, strict=True))
    built = [fused_towers(architecture, size, width, seed)[level] for seed, (size, width) in pairs]
    in_turn = copy.deepcopy(ClassTowers(built).eval())  # tests may change it
    joined = join(nn.Sequential(copy.deepcopy(in_turn)))[0]
    assert isinstance(joined, JoinedTowers)
    return in_turn, joined


def features(level: int = 0, *, batch: int = 1, height: int = 9, width: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(level)
    return torch.randn((batch, CHANNELS[level], height, width), generator=generator)


def same(joined: torch.Tensor, in_turn: torch.Tensor) -> bool:
    """Tell whether logits differ by float32 rounding only: 1e-5 of the largest."""
    assert joined.shape == in_turn.shape
    assert joined.is_contiguous()
    return float((joined - in_turn).abs().max() / in_turn.abs().max()) < 1e-5


@pytest.mark.parametrize(("sizes", "widths"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("architecture", [YOLO11N, YOLOV8N])
@torch.no_grad()
@pytest.mark.slow
def test_joined_towers_give_the_logits_of_the_towers_in_turn(
    architecture: str, sizes: tuple[int, ...], widths: tuple[int, ...]
) -> None:
    for level in range(3):
        in_turn, joined = both(level, sizes, widths, architecture)
        for batch in (1, 3):
            x = features(level, batch=batch)
            assert same(joined(x), in_turn(x)), (level, batch)
        assert joined._packed is not None, "the fast form did not run"


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 100])
@torch.no_grad()
def test_the_number_of_towers_per_call_changes_nothing(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_turn, joined = both(1, (2,) * 5, (64,) * 5)
    x = features(1)
    monkeypatch.setattr(module_under_test, "CACHE_BYTES", at_once * 64 * 9 * 7 * 4)
    assert same(joined(x), in_turn(x))
    assert joined._packed is not None
    stacks = [len(stack.rows) for stack in joined._packed[9 * 7].stacks]
    assert sum(stacks) == 5
    assert max(stacks) <= at_once
    assert max(stacks) - min(stacks) <= 1


@torch.no_grad()
def test_memory_formats_and_image_sizes_may_alternate() -> None:
    in_turn, joined = both(2)
    for height, width in ((4, 4), (20, 20), (1, 1), (4, 4)):
        x = features(2, height=height, width=width)
        assert same(joined(x), in_turn(x))
        assert same(joined(x.contiguous(memory_format=torch.channels_last)), in_turn(x))
    packed = joined._packed
    assert sorted(packed) == [1, 16, 400]
    assert len({id(one) for one in packed.values()}) == 1, "weights are packed once"


def test_gradients_flow_through_the_towers_in_turn() -> None:
    in_turn, joined = both()
    one, other = features().requires_grad_(), features().requires_grad_()
    in_turn(one).square().sum().backward()
    joined(other).square().sum().backward()
    assert one.grad is not None
    assert other.grad is not None
    assert torch.equal(one.grad, other.grad)
    assert joined._packed is None


@torch.no_grad()
def test_tracing_records_ordinary_operators() -> None:
    in_turn, joined = both()
    x = features()
    traced = torch.jit.trace(joined, x)
    assert "mkldnn" not in str(traced.inlined_graph)
    assert torch.equal(traced(x), in_turn(x))


@torch.no_grad()
def test_other_dtypes_run_in_turn() -> None:
    in_turn, joined = both()
    joined(features())
    x = features().double()
    assert torch.equal(joined.double()(x), in_turn.double()(x))


@torch.no_grad()
def test_new_weights_are_packed_again() -> None:
    in_turn, joined = both()
    x = features()
    before = joined(x)
    changed = shaken(in_turn.state_dict(), seed=5, scale=0.5)
    assert joined.state_dict().keys() == changed.keys()
    for module in (in_turn, joined):
        module.load_state_dict(changed)
    assert not same(joined(x), before)
    assert same(joined(x), in_turn(x))


@torch.no_grad()
def test_copies_and_pickles_leave_packed_weights_out() -> None:
    in_turn, joined = both()
    x = features()
    expected = joined(x)
    for clone in (copy.deepcopy(joined), pickle.loads(pickle.dumps(joined))):
        assert clone._packed is None
        assert torch.equal(clone(x), expected)
    assert len(pickle.dumps(joined)) < 1.1 * len(pickle.dumps(in_turn))


def test_other_layers_stay_as_they_are() -> None:
    in_turn, _ = both()
    other = copy.deepcopy(in_turn)
    other.towers[1][0][0].act = nn.ReLU()
    unfused = ClassTowers([stock_model(YOLO11N, 2, 64).model[-1].cv3[0] for _ in range(2)])
    for towers in (other, unfused):
        assert type(join(nn.Sequential(towers))[0]) is ClassTowers


@pytest.mark.parametrize("architecture", [YOLO11N, YOLOV8N, YOLO26N])
@torch.no_grad()
@pytest.mark.slow
def test_detectors_for_inference_have_joined_towers(architecture: str) -> None:
    state = make_state("towers", (2, 1, 2), architecture=architecture)
    detector = FAMILY.detector(state, image_size=64).module
    joined = [item for item in detector.modules() if isinstance(item, ClassTowers)]
    assert len(joined) == 3
    assert all(isinstance(item, JoinedTowers) for item in joined)
    in_turn = inference_model(state).fuse(verbose=False)
    x = images()
    torch.testing.assert_close(decoded(detector(x)), in_turn(x)[0], atol=1e-4, rtol=1e-5)
    assert all(item._packed is not None for item in joined)


@pytest.mark.parametrize(
    ("head", "sizes"), [("rows", (2, 1)), ("parallel", (2, 1)), ("towers", (2,))]
)
def test_other_head_forms_have_none(head: str, sizes: tuple[int, ...]) -> None:
    detector = FAMILY.detector(make_state(head, sizes), image_size=64).module
    assert not any(isinstance(item, ClassTowers) for item in detector.modules())
