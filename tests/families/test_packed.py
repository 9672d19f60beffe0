"""Packed convolutions: the numbers of the plain network up to rounding, else the plain way."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from factories_dfine import make_state as make_dfine
from factories_yolo import decoded
from factories_yolo import make_state as make_yolo
from torch import nn
from torch.nn import functional

from duet.export.formats import Tolerance
from duet.export.matching import differences
from duet.families import packed as module_under_test
from duet.families.dfine.adapter import FAMILY as DFINE
from duet.families.family import Family
from duet.families.packed import Block, PackedConv, fast, pack
from duet.families.rtdetr.adapter import FAMILY as RTDETR
from duet.families.ultralytics.uncopied import UpsampledConcat
from duet.families.yolo.adapter import FAMILY as YOLO
from duet.families.yolo.heads import unpick
from duet.families.yolo.late import LateDetect
from duet.increments.state import DetectorState

CL = torch.channels_last


def rtdetr_state() -> DetectorState:
    name = "rtdetr-tiny.yaml"
    start = RTDETR.fresh(name, ["a", "b"], seed=0)
    return RTDETR.start_state(
        start, architecture=name, head="rows", classes=["a", "b"], increment="t0", seed=0
    )


CASES: dict[str, tuple[Family, Callable[[], DetectorState]]] = {
    "yolo11": (YOLO, lambda: make_yolo("towers", (2, 1))),
    "yolov8": (YOLO, lambda: make_yolo("rows", architecture="yolov8n.yaml")),
    "yolov9": (YOLO, lambda: make_yolo("rows", (2,), architecture="yolov9t.yaml")),
    "yolov10": (YOLO, lambda: make_yolo("parallel", architecture="yolov10n.yaml")),
    "yolo26": (YOLO, lambda: make_yolo("towers", architecture="yolo26n.yaml")),
    "rtdetr": (RTDETR, rtdetr_state),
    "dfine": (DFINE, lambda: make_dfine((2, 1))),
}


def images(height: int = 64, width: int = 96, batch: int = 2) -> torch.Tensor:
    return torch.rand((batch, 3, height, width), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("case", CASES)
def test_a_packed_network_gives_the_numbers_of_the_plain_one(case: str) -> None:
    family, make = CASES[case]
    state = make()
    plain, quick = family.network(state), family.detector(state, image_size=64).module
    assert isinstance(quick, nn.Module)
    if family.layout_of(state) == "picked":  # all places: ties may be picked in another order
        unpick(plain)
        unpick(quick)
    convolutions = [item for item in quick.modules() if isinstance(item, PackedConv)]
    assert len(convolutions) > 10
    for height, width in ((64, 64), (64, 96)) if case.startswith("yolo") else ((64, 64),):
        x = images(height, width)
        with torch.no_grad():
            expected = decoded(plain(x))
        with torch.inference_mode():
            got = decoded(quick(x.contiguous(memory_format=CL)))
        assert got.shape == expected.shape
        if family is YOLO:
            torch.testing.assert_close(got, expected, atol=2e-3, rtol=2e-4)
            continue
        for one, other in zip(expected, got, strict=True):  # rows may change places
            layout = family.layout
            off = differences(one, other, layout, size=64, tolerance=Tolerance(0.01, 1e-4))
            assert off[0] < 0.01
            assert off[1] < 1e-4
    # An engine that names its layers otherwise must not lose what makes them fast.
    late = [item for item in quick.modules() if isinstance(item, LateDetect)]
    halves = [item for item in quick.modules() if isinstance(item, UpsampledConcat)]
    assert len(late) == (case in ("yolo11", "yolov8", "yolov9"))
    assert len(halves) == (2 if case in ("yolo11", "yolov8", "yolo26") else len(halves))
    used = sum(item._packed is not None for item in convolutions)
    assert used or not fast(images()), "the fast form did not run"


@pytest.mark.parametrize("case", ["yolo11", "dfine"])
def test_where_the_operators_are_missing_the_plain_way_is_taken(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_under_test, "_has_operators", lambda: False)
    test_a_packed_network_gives_the_numbers_of_the_plain_one(case)


def test_other_processors_take_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    module_under_test._has_operators.cache_clear()
    monkeypatch.setattr(module_under_test.platform, "machine", lambda: "aarch64")
    with torch.no_grad():
        assert not fast(torch.zeros(1))
    module_under_test._has_operators.cache_clear()


LAYERS = {
    "dense": nn.Conv2d(6, 8, 3, padding=1),
    "stride": nn.Conv2d(6, 8, 3, 2, padding=1, bias=False),
    "depth-wise": nn.Conv2d(6, 6, 5, padding=2, groups=6),
    "pointwise": nn.Conv2d(6, 10, 1),
    "pointwise, no bias": nn.Conv2d(6, 10, 1, bias=False),
    "pointwise, stride": nn.Conv2d(6, 10, 1, 2),
    "pointwise, padded": nn.Conv2d(6, 10, 1, padding=1),
    "dilated": nn.Conv2d(6, 4, 3, dilation=2),
}
ACTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": functional.silu, "relu": functional.relu, "none": lambda y: y, "gelu": functional.gelu
}  # fmt: skip
MODULES = {"silu": nn.SiLU, "relu": nn.ReLU, "none": nn.Identity, "gelu": nn.GELU}


@pytest.mark.parametrize("small", [0, 1 << 40], ids=["oneDNN", "product"])
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_every_kind_of_layer(
    layer: str, act: str, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_under_test, "SMALL", small)
    plain = copy.deepcopy(LAYERS[layer])
    quick = PackedConv.of(copy.deepcopy(plain), MODULES[act]())
    wide = torch.randn((2, 12, 9, 11), generator=torch.Generator().manual_seed(0))
    for x in (wide[:, :6].contiguous(memory_format=CL), wide.contiguous(memory_format=CL)[:, 6:]):
        kept = x.clone()
        torch.testing.assert_close(quick(x), ACTS[act](plain(x)), atol=1e-5, rtol=1e-5)
        assert torch.equal(x, kept), "its input is others' too"
    assert set(quick.state_dict()) == set(plain.state_dict())


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.act(self.bn(self.conv(x)))
        return found


def layer() -> Layer:
    torch.manual_seed(0)
    one = Layer().eval()
    for tensor in (one.bn.weight, one.bn.running_var):
        nn.init.uniform_(tensor, 0.5, 2)
    for tensor in (one.bn.bias, one.bn.running_mean):
        nn.init.normal_(tensor)
    return one


@torch.no_grad()
def test_batchnorm_is_folded() -> None:
    plain = layer()
    quick = pack(copy.deepcopy(plain), {Layer: Block("conv", "bn", "act")})
    assert isinstance(quick.bn, nn.Identity)
    x = images().contiguous(memory_format=CL)
    torch.testing.assert_close(quick(x), plain(x), atol=1e-5, rtol=1e-5)


def test_gradients_tracing_and_copies_are_ordinary() -> None:
    quick = pack(layer(), {Layer: Block("conv", "bn", "act")})
    x = images()
    with torch.inference_mode():
        quick(x.contiguous(memory_format=CL))
    assert quick.conv._packed is not None
    for clone in (copy.deepcopy(quick), pickle.loads(pickle.dumps(quick))):
        assert clone.conv._packed is None
    traced = torch.jit.trace(quick, x)
    assert "mkldnn" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x), quick(x))
    leaf = x.clone().requires_grad_()
    quick(leaf).sum().backward()
    assert leaf.grad is not None
    halved = copy.deepcopy(quick).bfloat16()
    with torch.inference_mode():
        assert halved(x.bfloat16()).dtype == torch.bfloat16
    assert halved.conv._packed is None


def test_new_weights_are_packed_anew() -> None:
    quick = pack(layer(), {Layer: Block("conv", "bn", "act")})
    x = images().contiguous(memory_format=CL)
    with torch.inference_mode():
        before = quick(x)
        changed = {name: 2 * tensor for name, tensor in quick.state_dict().items()}
        quick.load_state_dict(changed)
        after = quick(x)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize(
    "options", [{"padding": "same"}, {"padding": "valid"}, {"padding_mode": "reflect"}]
)
def test_convolutions_that_onednn_does_not_know_stay(options: dict[str, Any]) -> None:
    quick = pack(nn.Sequential(nn.Conv2d(3, 8, 3, **options)), {})
    assert type(quick[0]) is nn.Conv2d


def test_what_is_exported_is_an_ordinary_network() -> None:
    state = make_yolo("towers", (2, 1))
    YOLO.detector(state, image_size=64)
    built = YOLO.exportable(state).build()
    assert not any(isinstance(item, PackedConv) for item in built.modules())


def test_detectors_of_other_families_are_left_alone() -> None:
    looks = YOLO.detector(make_yolo("rows", (2,)), image_size=64)
    assert looks.channels_last
    assert looks([np.zeros((30, 64, 3), np.uint8)])[0] is not None
    assert Family.blocks is None
