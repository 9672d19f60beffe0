"""Detectors that Ultralytics trained: read exactly, or refused with the reason."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from factories_foreign import CLASSES, Payload, described, original, stored
from factories_states import images
from factories_yolo import FORMS, YOLO11N, YOLOV8N
from torch import nn
from ultralytics.nn.tasks import SegmentationModel

from duet.errors import ModelError
from duet.families.opened import ForeignModel
from duet.families.yolo.adapter import FAMILY
from duet.families.yolo.build import inference_model, stock_model
from duet.families.yolo.roles import split_roles, tower_width
from duet.files import sha256_file

# ---- what is read -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "count", "width"),
    [
        (YOLO11N, 3, 64),
        (YOLOV8N, 90, 90),
        (YOLO11N, 90, 90),
        ("yolov9t.yaml", 3, 64),
        ("yolo26n.yaml", 3, 64),
        ("yolo26n.yaml", 90, 90),
        ("yolov10n.yaml", 3, 64),
    ],
)
def test_same_detector_in_float32(
    architecture: str, count: int, width: int, tmp_path: Path
) -> None:
    model = original(architecture, count)
    state, _ = FAMILY.foreign(ForeignModel(stored(tmp_path / "m.pt", model)), name="theirs")
    assert (state.family, state.architecture, state.head) == ("yolo", architecture, "towers")
    assert [part.increment for part in state.parts] == ["theirs"]
    assert state.parts[0].classes == tuple(model.names.values())
    assert tower_width(state.parts[0].tensors) == width
    upcast = copy.deepcopy(model).half().float()
    rebuilt = inference_model(state)
    stored_tensors = upcast.state_dict()
    for name, tensor in rebuilt.state_dict().items():
        assert torch.equal(tensor, stored_tensors[name]), name
    rebuilt.end2end = getattr(upcast, "end2end", False)  # as this engine's loader leaves a file
    with torch.no_grad():
        expected, got = upcast(images())[0], rebuilt(images())[0]
    assert float((expected - got).abs().max()) < 1e-3
    assert float(expected[:, 4:].std()) > 0  # otherwise constants were compared


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_head_form(form: str, tmp_path: Path) -> None:
    path = stored(tmp_path / "m.pt")
    state, _ = FAMILY.foreign(ForeignModel(path), name="a", head=form)
    tensors = FAMILY.weights(path).tensors
    roles = split_roles(tensors, form)
    assert state.head == form
    assert state.shared.keys() == roles.shared.keys()
    assert state.parts[0].tensors.keys() == roles.own.keys()


@pytest.mark.slow
def test_facts(tmp_path: Path) -> None:
    path = stored(tmp_path / "m.pt")
    _, facts = FAMILY.foreign(ForeignModel(path), name="a")
    assert facts == {
        "file": "m.pt", "image_size": 320, "model": "yolo11n.pt", "pretrained": True,
        "date": "2026-01-02T03:04:05", "version": "8.4.190", "stated_licence": "AGPL-3.0 License",
        "sha256": sha256_file(path), "licence": "AGPL-3.0-or-later",
    }  # fmt: skip
    json.dumps(facts)


@pytest.mark.slow
def test_facts_that_the_file_does_not_say(tmp_path: Path) -> None:
    path = stored(
        tmp_path / "m.pt", train_args={"imgsz": [320, 640], "pretrained": "C:\\w\\x.pt"}, date=None,
        version=8, license=None,
    )  # fmt: skip
    _, facts = FAMILY.foreign(ForeignModel(path), name="a")
    assert (facts["image_size"], facts["pretrained"]) == (640, "x.pt")
    assert [facts[key] for key in ("model", "date", "version", "stated_licence")] == [None] * 4
    _, facts = FAMILY.foreign(ForeignModel(stored(tmp_path / "n.pt", train_args=None)), name="a")
    assert facts["image_size"] is None


@pytest.mark.slow
def test_averaged_network_goes_first(tmp_path: Path) -> None:
    averaged = copy.deepcopy(original())
    with torch.no_grad():
        averaged.model[0].conv.weight *= 2
    state, _ = FAMILY.foreign(
        ForeignModel(stored(tmp_path / "m.pt", ema=averaged.half())), name="a"
    )
    expected = averaged.model[0].conv.weight.detach().half().float()
    assert torch.equal(state.shared["model.0.conv.weight"], expected)


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["a", "b", "c"], ("a", "b", "c")), ({2: "c", 0: " a ", 1: 7}, ("a", "7", "c"))],
)
@pytest.mark.slow
def test_names_in_output_order(names: Any, expected: tuple[str, ...], tmp_path: Path) -> None:
    path = stored(tmp_path / "m.pt", change=lambda model: setattr(model, "names", names))
    assert FAMILY.foreign(ForeignModel(path), name="x")[0].parts[0].classes == expected


# ---- what is refused --------------------------------------------------------------------------


def named(names: Any) -> Callable[[Any], object]:
    return lambda model: setattr(model, "names", names)


def nan(model: Any) -> None:
    model.model[3].conv.weight.data[0, 0, 0, 0] = float("nan")


def overflow(model: Any) -> None:
    model.model[3].conv.weight.data[0, 0, 0, 0] = 1e6  # infinite in the file's half precision


def other_activation(model: Any) -> None:
    model.model[9].cv1.act = nn.Identity()  # as 8.4.0 built the pooling block


def extra_tensor(model: Any) -> None:
    model.model[2].scale = nn.Parameter(torch.ones(1))


def other_input(model: Any) -> None:
    model.model[0].conv.weight = nn.Parameter(torch.ones(16, 1, 3, 3))


def counter(value: torch.Tensor) -> Callable[[Any], object]:
    return lambda model: model.model[0].bn._buffers.update(num_batches_tracked=value)


def whole_weights(model: Any) -> None:
    layer = model.model[0].conv
    layer.weight = nn.Parameter(torch.ones(16, 3, 3, 3, dtype=torch.int32), requires_grad=False)


def head_called(name: str) -> Callable[[Any], object]:
    def change(model: Any) -> None:
        layers = model.model._modules
        layers[name] = layers.pop("23")

    return change


def own_name(name: str, value: Any = 1) -> Callable[[Any], object]:
    return lambda model: vars(model.model[23]).update({name: value})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "match"),
    [
        pytest.param(lambda model: delattr(model, "names"), "expected a name for", id="no names"),
        pytest.param(named(None), "each of the 3 classes, got None", id="names None"),
        pytest.param(named(["a", "b"]), "each of the 3 classes", id="too few names"),
        pytest.param(named({1: "a", 2: "b", 3: "c"}), "each of the 3", id="names from 1"),
        pytest.param(named({"x": "a", "y": "b", "z": "c"}), "each of the 3", id="names by name"),
        pytest.param(named(["a", "b", " a"]), "occur twice: a", id="names twice"),
        pytest.param(named(["a", "", "c"]), "non-empty", id="blank name"),
        pytest.param(named(["a", None, "c"]), "non-empty", id="name is None"),
        pytest.param(nan, r"NaN or infinite(.|\n)*model\.3\.conv\.weight", id="NaN"),
        pytest.param(overflow, r"model\.3\.conv\.weight: 1 of", id="infinite"),
        pytest.param(lambda model: model.fuse(verbose=False), "fused", id="fused"),
        pytest.param(extra_tensor, r"unexpected: model\.2\.scale", id="unknown tensor"),
        pytest.param(other_input, r"model\.0\.conv\.weight: got", id="grey images"),
        pytest.param(other_activation, "builds another network", id="another function"),
        pytest.param(counter(torch.tensor(3j)), "got torch.complex64, expected", id="complex"),
        pytest.param(counter(torch.tensor(3.0)), "got torch.float32, expected", id="float counter"),
        pytest.param(whole_weights, r"model\.0\.conv\.weight: got torch\.int32", id="int weights"),
        pytest.param(head_called("9" * 150), "plain Detect head", id="150 digits"),
        pytest.param(head_called("0023"), "plain Detect head", id="zeros before a number"),
        pytest.param(head_called("\u0662\u0663"), "plain Detect head", id="other digits"),
        pytest.param(own_name("one2one"), "is 1, expected a property", id="a property"),
        pytest.param(
            own_name("reg_max", ("\x01" * 1_000_000 + "\U0001f600",) * 254),
            "reg_max' is",
            id="long",
        ),
        pytest.param(lambda model: setattr(model, "task", "pose"), "task 'pose'", id="task"),
        pytest.param(lambda m: setattr(m, "save", []), r"save' is \(\), expected", id="broken"),
    ],
)
def test_unusable_models_are_refused(
    change: Callable[[Any], object], match: str, tmp_path: Path
) -> None:
    path = stored(tmp_path / "m.pt", change=change)
    with pytest.raises(ModelError, match=match) as caught:
        FAMILY.foreign(ForeignModel(path), name="a")
    assert str(path) in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("size", [0, 16, 8193, 10**9, 2**40, True, 640.0, "640"])
def test_a_size_at_which_nothing_runs_says_nothing(size: Any, tmp_path: Path) -> None:
    path = stored(tmp_path / "m.pt", train_args={"imgsz": size})
    assert FAMILY.foreign(ForeignModel(path), name="a")[1]["image_size"] is None


@pytest.mark.parametrize(
    "change",
    [
        described(scale=torch.zeros(4)), described(scale=None), own_name("mro"),
        own_name("__subclasses__"), own_name("end2end", False),
    ],
    ids=["scale is a tensor", "no scale", "of the metaclass", "of all classes", "worked out"],
)  # fmt: skip
def test_what_no_code_reads_does_no_harm(change: Callable[[Any], object], tmp_path: Path) -> None:
    FAMILY.foreign(ForeignModel(stored(tmp_path / "m.pt", change=change)), name="a")


@pytest.mark.slow
def test_no_property_runs_because_a_file_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.nn.modules.head import Detect

    ran: list[object] = []
    monkeypatch.setattr(Detect, "stranger", property(ran.append), raising=False)
    path = stored(tmp_path / "m.pt", change=lambda m: vars(m.model[23]).update(stranger=1))
    with pytest.raises(ModelError, match="stranger' is 1, expected a property"):
        FAMILY.foreign(ForeignModel(path), name="a")
    assert not ran


def claims_rows(model: Any) -> None:
    model.names = {number: f"c{number}" for number in range(50_000)}
    model.model[-1].nc = len(model.names)


@pytest.mark.slow
def test_a_claim_of_classes_is_checked_before_memory_goes_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(tmp_path / "m.pt", change=claims_rows)
    built: list[object] = []
    monkeypatch.setattr("duet.families.yolo.build.stock_model", lambda *a: built.append(a))
    with pytest.raises(ModelError, match="its head has no rows"):
        FAMILY.foreign(ForeignModel(path), name="a")
    assert not built


def test_a_claimed_architecture_is_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(tmp_path / "m.pt", change=described(yaml_file="yolo11x.yaml"))
    built: list[str] = []

    def build(architecture: str, *rest: int) -> Any:
        built.append(architecture)
        return stock_model(architecture, *rest)

    monkeypatch.setattr("duet.families.yolo.build.stock_model", build)
    FAMILY.foreign(ForeignModel(path), name="a")
    assert built == [YOLO11N]


@pytest.mark.slow
def test_another_function_is_told_by_outputs_alone(tmp_path: Path) -> None:
    path = stored(tmp_path / "m.pt", change=other_activation)
    tensors = FAMILY.weights(path).tensors
    plain = FAMILY.weights(stored(tmp_path / "n.pt")).tensors
    assert all(torch.equal(tensors[name], plain[name]) for name in plain)


def sets(path: str, name: str, value: Any) -> Callable[[Any], object]:
    return lambda model: setattr(model.get_submodule(path), name, value)


def own_method(model: Any) -> None:
    model.model[0].forward = model.model[0].forward_fuse


def other_function(model: Any) -> None:
    model.model[23]._inference = nn.functional.relu


def hooked(model: Any) -> None:
    model.model[3].register_forward_hook(nn.functional.relu)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "match"),
    [
        pytest.param(
            sets("model.11", "scale_factor", 3.0), r"model\.11\.scale_factor' is 3.0, exp"
        ),
        pytest.param(
            sets("model.11", "mode", "bilinear"), r"model\.11\.mode' is bilinear, expected"
        ),
        pytest.param(sets("model.12", "d", 2), r"model\.12\.d' is 2, expected 1"),
        pytest.param(
            sets("model.12", "f", [-1, 4]), r"model\.12\.f' is \(-1, 4\), expected \(-1, 6"
        ),
        pytest.param(sets("model.0.conv", "padding", (0, 0)), r"model\.0\.conv\.padding"),
        pytest.param(sets("model.0.conv", "groups", 2), r"model\.0\.conv\.groups' is 2"),
        pytest.param(sets("model.0.bn", "eps", 0.1), r"model\.0\.bn\.eps' is 0\.1"),
        pytest.param(sets("model.2.m.0", "add", False), r"model\.2\.m\.0\.add' is False"),
        pytest.param(sets("model.9", "n", 2), r"model\.9\.n' is 2, expected 3"),
        pytest.param(sets("model.23", "xyxy", True), r"model\.23\.xyxy' is True, expected False"),
        pytest.param(sets("model.23", "stride", torch.ones(3)), r"model\.23\.stride"),
        pytest.param(sets("model.0", "act", nn.ReLU()), r"model\.0\.act' is ReLU, expected SiLU"),
        pytest.param(sets("model.1", "more", nn.Identity()), r"layer model\.1\.more \(Identity\)"),
        pytest.param(
            lambda m: delattr(m.model[9], "m"), r"layer 'model\.9\.m' \(MaxPool2d\) is mis"
        ),
        pytest.param(
            own_method,
            r"model\.0\.forward' is function forward_fuse, expected function forward of Conv",
        ),
        pytest.param(other_function, r"_inference' is function torch\.nn\.functional\.relu, exp"),
        pytest.param(hooked, r"model\.3' has _forward_hooks"),
    ],
)
def test_the_first_difference_is_named(
    change: Callable[[Any], object], match: str, tmp_path: Path
) -> None:
    """What the file's attributes say and duet's network does not is never lost in silence."""
    with pytest.raises(ModelError, match=match):
        FAMILY.foreign(ForeignModel(stored(tmp_path / "m.pt", change=change)), name="a")


def older(model: Any) -> None:
    """Take away what earlier versions of the engine and of torch did not write."""
    del model.model[9].n, model.model[9].add
    for module in model.modules():
        if isinstance(module, nn.Upsample):
            del module.recompute_scale_factor
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    model.criterion = None


def test_files_of_earlier_versions_agree(tmp_path: Path) -> None:
    state, _ = FAMILY.foreign(ForeignModel(stored(tmp_path / "m.pt", change=older)), name="a")
    assert state.architecture == YOLO11N


def test_a_segmentation_model_is_refused(tmp_path: Path) -> None:
    model = SegmentationModel("yolo11n-seg.yaml", nc=3, verbose=False)
    path = stored(tmp_path / "m.pt", model)
    with pytest.raises(ModelError, match="SegmentationModel with Segment"):
        FAMILY.foreign(ForeignModel(path), name="a")


def test_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Detect head, got Conv2d\n"):
        FAMILY.foreign(ForeignModel(stored(tmp_path / "m.pt", nn.Conv2d(3, 3, 3))), name="a")


def another_one_to_one(model: Any) -> None:
    model.model[-1].one2one_cv3[0][0][0].act = nn.Identity()


def without_one_to_one(model: Any) -> None:
    head = model.model[-1]
    del head.one2one_cv2, head.one2one_cv3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "match"),
    [
        pytest.param(another_one_to_one, "builds another network", id="another function"),
        pytest.param(
            without_one_to_one,
            r"\(Detect\) holds cv2, cv3, dfl, expected (.*)one2",
            id="one branch",
        ),
    ],
)
def test_both_branches_are_compared(
    change: Callable[[Any], object], match: str, tmp_path: Path
) -> None:
    path = stored(tmp_path / "m.pt", original("yolo26n.yaml"), change)
    with pytest.raises(ModelError, match=match):
        FAMILY.foreign(ForeignModel(path), name="a")


@pytest.mark.slow
def test_a_segmentation_model_with_one_to_one_branches_is_refused(tmp_path: Path) -> None:
    model = SegmentationModel("yolo26n-seg.yaml", nc=3, verbose=False)
    with pytest.raises(ModelError, match="SegmentationModel with Segment"):
        FAMILY.foreign(ForeignModel(stored(tmp_path / "m.pt", model)), name="a")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"model.0.conv.weight": torch.ones(3)}, id="plain state"),
        pytest.param({"model": {"model.0.conv.weight": torch.ones(3)}}, id="state in a dict"),
        pytest.param({"ema": torch.ones(3), "model": None}, id="a tensor"),
        pytest.param([torch.ones(3)], id="a list"),
    ],
)
def test_tensors_without_a_model_are_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "m.pt")
    for read in (FAMILY.weights, lambda path: FAMILY.foreign(ForeignModel(path), name="a")):
        with pytest.raises(ModelError, match="holds no Ultralytics model") as caught:
            read(tmp_path / "m.pt")
        assert "YOLO(...).save" in (caught.value.remedy or "")


@pytest.mark.parametrize("place", ["beside", "inside"])
@pytest.mark.slow
def test_a_program_in_the_file_does_not_run(place: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "m.pt"
    if place == "beside":
        stored(path, optimizer=Payload(canary))
    else:
        stored(path, change=lambda model: setattr(model, "hidden", Payload(canary)))
    with pytest.raises(ModelError, match="Nothing of it was run"):
        FAMILY.foreign(ForeignModel(path), name="a")
    assert not canary.exists()
    # Trusted, the same file does run: so the refusal is what held it back.
    if place == "beside":
        assert (
            FAMILY.foreign(ForeignModel(path, trust=True), name="a")[0].parts[0].classes == CLASSES
        )
        assert canary.exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_files_are_refused(share: float, tmp_path: Path) -> None:
    path = stored(tmp_path / "m.pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match="not a"):
        FAMILY.foreign(ForeignModel(path), name="a")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        FAMILY.foreign(ForeignModel(tmp_path / "m.pt"), name="a")
