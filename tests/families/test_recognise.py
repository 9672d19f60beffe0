"""Networks are recognised by their layers; what a file calls itself decides nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from factories_foreign import described, enlivened, original, stored
from factories_heads import CASES, exported, towers_of
from factories_run import duet_here
from factories_states import images
from factories_yolo import YOLO11N, YOLOV8N
from safetensors.torch import load_file, save_file
from torch import nn
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel

from duet.errors import ModelError
from duet.families.foreign import image_size_of, open_model
from duet.families.opened import ForeignModel
from duet.families.rtdetr.adapter import FAMILY as RTDETR
from duet.families.rtdetr.roles import TINY
from duet.families.rtdetr.roles import architecture_file as rtdetr_file
from duet.families.yolo import roles
from duet.families.yolo.adapter import FAMILY, YoloFamily
from duet.families.yolo.build import inference_model
from duet.families.yolo.roles import architecture_file
from duet.increments.state import DetectorState
from duet.recipes.plan import make_plan
from duet.recipes.recipe import Entry, Recipe
from duet.recipes.sources import describe
from duet.recipes.write import write_detector
from duet.shipped import shipped
from duet.vectors.tensors import fingerprint
from duet.weights.start import Start, open_start, start_fingerprint


def read(path: Path, **options: Any) -> DetectorState:
    return FAMILY.foreign(ForeignModel(path), name="a", **options)[0]


def without_name(model: Any) -> None:
    """Describe the network as the first YOLOv8 weights do, and all that descend from them."""
    del model.yaml["yaml_file"], model.yaml["scale"], model.yaml["scales"]
    model.yaml |= {"depth_multiple": 0.33, "width_multiple": 0.25}


# ---- labels -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        described(yaml_file="/data/me/cfg/yolo11n.yaml"),
        described(yaml_file="D:\\models\\yolo11n.yaml"),
        described(yaml_file="models/yolo11.yaml"),
        described(yaml_file="yolo11n-signs.yaml"),
        described(yaml_file="yolov11n.yaml"),
        described(yaml_file="my-yolo.yaml"),
        described(yaml_file=None),
        described(yaml_file="yolo11.yaml", scale="\\g<9>"),
        described(yaml_file="yolo" + "1" * 5000 + "n.yaml"),
        lambda model: delattr(model, "yaml"),
        described(yaml_file="yolo11s.yaml"),
        described(yaml_file="yolov8n.yaml"),
        described(yaml_file="yolo26n.yaml"),
        described(yaml_file="rtdetr-l.yaml"),
    ],
)
def test_a_label_decides_nothing(change: Callable[[Any], object], tmp_path: Path) -> None:
    assert read(stored(tmp_path / "m.pt", change=change)).architecture == YOLO11N


@pytest.mark.slow
@torch.no_grad()
def test_a_network_without_a_name_gives_its_own_outputs(tmp_path: Path) -> None:
    model = original(YOLOV8N)
    state = read(stored(tmp_path / "m.pt", model, without_name))
    assert state.architecture == YOLOV8N
    expected = copy.deepcopy(model).half().float()(images())[0]
    got = inference_model(state)(images())[0]
    assert float((got - expected).abs().max()) < 1e-3
    assert float(expected[:, 4:].std()) > 0


def test_an_rtdetr_under_a_name_of_the_users(tmp_path: Path) -> None:
    model = RTDETRDetectionModel(str(rtdetr_file(TINY)), nc=2, verbose=False)
    model.names = {0: "a", 1: "b"}
    path = stored(tmp_path / "m.pt", model, described(yaml_file="mine.yaml"))
    assert RTDETR.foreign(ForeignModel(path), name="a")[0].architecture == TINY


def narrowed(path: Path, description: Path) -> Any:
    """Return a network of an architecture file of the user's own."""
    content = yaml.safe_load(description.read_text(encoding="utf-8"))
    content["head"][6][3] = [192, 3, 2]  # instead of 256 channels
    path.write_text(yaml.safe_dump(content))
    return enlivened(DetectionModel(str(path), nc=3, verbose=False), 3)


@pytest.mark.slow
def test_the_nearest_is_told_of_an_architecture_of_the_users_own(tmp_path: Path) -> None:
    model = narrowed(tmp_path / "yolo11n-mine.yaml", architecture_file(YOLO11N))
    with pytest.raises(ModelError) as caught:
        read(stored(tmp_path / "m.pt", model))
    text = str(caught.value)
    assert f"{tmp_path / 'm.pt'}: no architecture of Ultralytics" in text
    assert "the nearest is 'yolo11n.yaml'" in text
    assert "first difference is model.17.conv.weight: got (48, 64, 3, 3), expected (64, 64" in text
    assert "another program" not in text


def forked(model: Any) -> None:
    """Give attention the layers that YOLOv12's own repository gives it."""
    attention = model.model[6].m[0][0].attn
    channels = attention.qkv.conv.in_channels
    del attention.qkv
    attention.qk, attention.v = Conv(channels, 2 * channels, 1), Conv(channels, channels, 1)


@pytest.mark.slow
def test_a_fork_is_told_by_the_layer_that_its_code_builds_otherwise(tmp_path: Path) -> None:
    path = stored(
        tmp_path / "m.pt", original("yolo12n.yaml"),
        lambda model: (forked(model), model.yaml.update(yaml_file="yolov12n.yaml")),
    )  # fmt: skip
    with pytest.raises(ModelError) as caught:
        read(path)
    text = str(caught.value)
    assert "the nearest is 'yolo12n.yaml'" in text
    assert "model.6.m.0.0.attn (AAttn) holds pe, proj, qk, v, expected pe, proj, qkv" in text
    assert "another program or version than the installed Ultralytics" in text


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_of_equal_tensors_the_one_that_agrees_is_taken(mode: str, tmp_path: Path) -> None:
    class Twins(YoloFamily):
        rules = replace(
            roles.RULES,
            known_architectures=lambda: ["twin.yaml", YOLO11N],
            architecture_file=lambda _: architecture_file(YOLO11N),
        )

        def said(self, checkpoint: Any) -> str:
            return "twin.yaml"

        def stock_of(self, architecture: str, parts: Any) -> Any:
            model = super().stock_of(YOLO11N, parts)
            if architecture == "twin.yaml":
                model.model[11].mode = "bilinear"
            return model

    path = stored(tmp_path / "m.pt", change=lambda model: setattr(model.model[11], "mode", mode))
    state, _ = Twins().foreign(ForeignModel(path), name="a")
    assert state.architecture == ("twin.yaml" if mode == "bilinear" else YOLO11N)


@pytest.mark.slow
def test_an_architecture_that_is_asked_for_must_agree(tmp_path: Path) -> None:
    path = stored(tmp_path / "m.pt")
    assert read(path, architecture=YOLO11N).architecture == YOLO11N
    with pytest.raises(ModelError, match=r"not what Ultralytics .* builds as 'yolo11s\.yaml'"):
        read(path, architecture="yolo11s.yaml")
    with pytest.raises(ModelError, match="unknown YOLO architecture 'mine'"):
        read(path, architecture="mine")
    changed = stored(tmp_path / "n.pt", change=lambda model: setattr(model.model[12], "d", 2))
    with pytest.raises(ModelError, match=r"model\.12\.d' is 2, expected 1"):
        read(changed, architecture=YOLO11N)


@pytest.mark.slow
def test_commands_take_an_architecture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = stored(tmp_path / "m.pt"), tmp_path / "d"
    words = ("import", path, "--as", "x", "--out", out, "--architecture")
    refused = duet_here(capsys, *words, "yolo11s.yaml")
    assert refused.code == 4
    assert "builds as 'yolo11s.yaml'" in refused.err
    assert duet_here(capsys, *words, YOLO11N).code == 0
    words = ("merge", f"one={path}", out, "--out", tmp_path / "e", "--architecture")
    assert duet_here(capsys, *words, "yolo11s.yaml").code == 4
    assert duet_here(capsys, *words, YOLO11N).code == 0
    with pytest.raises(ModelError, match=r"of the architecture yolo11n\.yaml, not 'yolo11s"):
        describe(Entry(path=str(out), architecture="yolo11s.yaml"), head="towers")


@pytest.mark.slow
def test_start_weights_are_known_by_their_tensors_too(tmp_path: Path) -> None:
    path = stored(tmp_path / "m.pt", change=described(yaml_file="yolov8n.yaml"))
    assert open_start(path).architecture == YOLO11N


# ---- wrappers, types and what others leave in a file --------------------------------------------


def counted(model: Any) -> None:
    """Leave in each layer what thop's `profile` does."""
    for module in model.modules():
        module.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
        module.register_buffer("total_params", torch.zeros(1, dtype=torch.float64))


@pytest.mark.slow
def test_counts_of_thop_are_left_out(tmp_path: Path) -> None:
    plain, found = stored(tmp_path / "m.pt"), stored(tmp_path / "n.pt", change=counted)
    assert read(found).fingerprint() == read(plain).fingerprint()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [nn.DataParallel, lambda model: model])
def test_a_network_in_a_wrapper_or_alone(kind: Callable[[Any], Any], tmp_path: Path) -> None:
    half = copy.deepcopy(original()).half()
    torch.save({"model": kind(half)}, tmp_path / "m.pt")
    torch.save(half, tmp_path / "n.pt")
    expected = read(stored(tmp_path / "o.pt")).fingerprint()
    assert read(tmp_path / "m.pt").fingerprint() == expected
    assert read(tmp_path / "n.pt").fingerprint() == expected


@pytest.mark.slow
def test_a_network_of_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    half = copy.deepcopy(original()).half()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    try:
        torch.save({"model": nn.parallel.DistributedDataParallel(half)}, tmp_path / "m.pt")
    finally:
        torch.distributed.destroy_process_group()
    expected = read(stored(tmp_path / "o.pt")).fingerprint()
    assert read(tmp_path / "m.pt").fingerprint() == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.slow
def test_every_floating_type_is_read_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    model = copy.deepcopy(original()).to(dtype)
    torch.save({"model": model}, tmp_path / "m.pt")
    state = read(tmp_path / "m.pt")
    expected = model.model[0].conv.weight.detach().float()
    assert torch.equal(state.shared["model.0.conv.weight"], expected)


def test_numbers_that_float32_does_not_have_are_refused(tmp_path: Path) -> None:
    model = copy.deepcopy(original()).double()
    with torch.no_grad():
        model.model[0].conv.weight[0, 0, 0, :2] = 1 / 3
    torch.save({"model": model}, tmp_path / "m.pt")
    with pytest.raises(ModelError, match=r"2 of 432 float64 numbers in 'model\.0\.conv\.weight'"):
        read(tmp_path / "m.pt")


FORMS: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "float32": lambda t: t,
    "thop": lambda t: t | {"model.0.conv.total_ops": torch.zeros(1, dtype=torch.float64)},
    "YOLO": lambda t: {f"model.{name}": tensor for name, tensor in t.items()},
    "DistributedDataParallel": lambda t: {f"module.{name}": tensor for name, tensor in t.items()},
    "float64": lambda t: {k: v.double() if v.is_floating_point() else v for k, v in t.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_start_weights_in_any_form_are_the_same(form: str, tmp_path: Path) -> None:
    shipped_weights = shipped("weights", "yolo11n-emoji.safetensors")
    tensors = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(shipped_weights).items()
    }
    path = tmp_path / "w.safetensors"
    save_file(FORMS[form](tensors), path)
    assert open_start(path).architecture == YOLO11N
    split = FAMILY.rules.split_roles
    got, expected = (split(Start(one, "yolo").tensors, "towers") for one in (path, shipped_weights))
    assert start_fingerprint(got.shared) == start_fingerprint(expected.shared)
    assert fingerprint(FAMILY.weights(path).tensors) == fingerprint(tensors)


def test_counters_that_start_weights_lack_begin_at_zero(tmp_path: Path) -> None:
    tensors = load_file(shipped("weights", "yolo11n-emoji.safetensors"))
    counters = {name for name in tensors if name.endswith("num_batches_tracked")}
    path = tmp_path / "w.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if name not in counters}, path)
    found = FAMILY.weights(path).tensors
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], torch.tensor(0)) for name in counters)
    assert open_start(path).architecture == YOLO11N


def test_start_weights_of_other_names_are_told_with_one(tmp_path: Path) -> None:
    save_file({"net.0.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"no tensor is named .*; the first is 'net\.0\.weight'"):
        FAMILY.rules.split_roles(FAMILY.weights(tmp_path / "w.safetensors").tensors, "towers")


# ---- what duet exported -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "case"),
    [
        (YOLO11N, "T=2"),
        (YOLO11N, "T=3, widths differ"),
        (YOLOV8N, "T=2, widths differ"),
        ("yolo26n.yaml", "T=3"),
    ],
)
def test_exported_towers_open_as_they_were(architecture: str, case: str, tmp_path: Path) -> None:
    state = towers_of(architecture, *CASES[case])
    file = exported(state, tmp_path / "m.pt", image_size=64)
    found = read(file)
    assert found.fingerprint() == state.fingerprint()
    assert open_model(file).state.labels == state.labels


@pytest.mark.slow
def test_imported_towers_can_be_merged(tmp_path: Path) -> None:
    state = towers_of(YOLO11N, (2, 1), (64, 72))
    file = exported(state, tmp_path / "m.pt", image_size=64)
    plan = make_plan(Recipe(method="average", increments=(Entry(path=str(file)),)), head="towers")
    written = write_detector(plan, tmp_path / "d")
    assert written.manifest.fingerprint == state.fingerprint()
    assert [part.increment for part in written.manifest.parts] == ["t0", "t1"]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["T=1", "T=2"])
def test_a_file_that_the_engine_saved_again(case: str, tmp_path: Path) -> None:
    """Ultralytics keeps duet's facts when it saves a file, in half precision."""
    state = towers_of(YOLO11N, *CASES[case])
    file = exported(state, tmp_path / "m.pt", image_size=64)
    content = torch.load(file, weights_only=False)
    torch.save(content | {"model": content["model"].half()}, tmp_path / "n.pt")
    found = read(tmp_path / "n.pt")
    assert [part.classes for part in found.parts] == [part.classes for part in state.parts]
    for got, expected in zip(found.parts, state.parts, strict=True):
        for name, tensor in expected.tensors.items():
            kept = tensor.half().float() if tensor.is_floating_point() else tensor
            assert torch.equal(got.tensors[name], kept), name


def spoilt(content: dict[str, Any]) -> None:
    with torch.no_grad():  # the last class reads the first tower
        content["model"].model[-1].cv3[0][2].weight[-1, 0] = 1


def swapped(content: dict[str, Any]) -> None:
    layer = content["model"].model[-1].cv3[0][2]
    layer.weight = nn.Parameter(layer.weight.detach().flip(1))


def renamed(content: dict[str, Any]) -> None:
    content["duet"]["increments"][0]["classes"] = ["x", "y"]


def regrouped(content: dict[str, Any]) -> None:
    content["duet"]["increments"] = [
        {"increment": "a", "classes": ["0-0"]}, {"increment": "b", "classes": ["0-1", "1-0"]},
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (spoilt, r"in cv3\.0\.2\.weight the towers read each other's channels"),
        (swapped, ": its towers read each other's channels"),
        (renamed, "other classes than the network"),
        (regrouped, "towers"),
        (lambda content: content.pop("duet"), "towers of 100 channels"),
        (lambda content: content.update(duet=[1]), "towers of 100 channels"),
        (lambda content: content["duet"].update(increments=3), "towers of 100 channels"),
        (lambda content: content["duet"].update(increments=[{"classes": 3}]), "of 100 channels"),
    ],
)
def test_towers_that_cannot_be_told_apart_are_refused(
    change: Callable[[dict[str, Any]], object], match: str, tmp_path: Path
) -> None:
    file = exported(towers_of(YOLO11N, *CASES["T=2"]), tmp_path / "m.pt", image_size=64)
    content = torch.load(file, weights_only=False)
    change(content)
    torch.save(content, tmp_path / "n.pt")
    with pytest.raises(ModelError, match=match) as caught:
        read(tmp_path / "n.pt")
    assert "the detector folder that it was exported from" in str(caught.value)


@pytest.mark.slow
def test_exported_towers_are_no_rows(tmp_path: Path) -> None:
    file = exported(towers_of(YOLO11N, *CASES["T=2"]), tmp_path / "m.pt", image_size=64)
    with pytest.raises(ModelError, match="2 increments cannot be read as 'rows'"):
        read(file, head="rows")


@pytest.mark.parametrize(("trained_at", "side"), [(500, 512), (640, 640), (None, 640)])
def test_a_side_is_one_that_networks_take(trained_at: int | None, side: int) -> None:
    assert image_size_of({"image_size": trained_at}) == side
