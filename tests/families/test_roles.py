"""Roles of tensors: told by name, complete, and known without loading the engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from factories_states import images, moved
from factories_yolo import FORMS, NAMES, YOLO11N, YOLOV8N, alone, make_state, theta_0
from places import REPO

from duet.errors import ConfigError, DataError, ModelError
from duet.families.rows import drop_classes, rename_classes
from duet.families.table import FAMILIES, resolve_roles
from duet.families.ultralytics.names import head_prefix
from duet.families.yolo.build import inference_model, stock_model
from duet.families.yolo.roles import architecture_file, layers, split_roles
from duet.increments.state import HeadPart
from duet.vectors.tensors import Tensors

RULES = resolve_roles("yolo")
forms = pytest.mark.parametrize("form", FORMS)

LEAN = """
import sys
import duet.families.table, duet.families.protocol
assert "torch" not in sys.modules
rules = duet.families.table.resolve_roles("yolo")
assert rules.layers(["model.0.conv.weight"], "yolo11n.yaml")
heavy = {"ultralytics", "torchvision", "cv2", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.slow
def test_roles_load_no_engine() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAN], capture_output=True, text=True,
        cwd=REPO, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_tells_its_roles(name: str) -> None:
    rules = resolve_roles(name)
    for rule in ("split_roles", "layers"):
        assert callable(getattr(rules, rule))
    assert rules.CLASS_ROWS.pattern


def test_unknown_family() -> None:
    with pytest.raises(ConfigError, match="did you mean 'yolo'"):
        resolve_roles("yolos")


# ---- strictness -------------------------------------------------------------------------------


def renamed(old: str, new: str) -> Callable[[Tensors], dict[str, torch.Tensor]]:
    return lambda tensors: {new if k == old else k: v for k, v in tensors.items()}


def added(name: str) -> Callable[[Tensors], dict[str, torch.Tensor]]:
    # The shape of a role says nothing: this one looks like a convolution's weight.
    return lambda tensors: {**tensors, name: torch.ones(16, 3, 3, 3)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(added("model.0.conv.scale"), "model.0.conv.scale", id="another parameter"),
        pytest.param(added("model.0.bn.moving_mean"), "moving_mean", id="another statistic"),
        pytest.param(added("teacher.0.weight"), "teacher.0.weight", id="outside of the layers"),
        pytest.param(added("model.23.cv4.0.0.conv.weight"), r"cv4\.0", id="branch of masks"),
        pytest.param(added("model.23.one2one_cv4.0.2.weight"), "one2one_cv4", id="end-to-end"),
        pytest.param(added("model.23.one2many_cv3.0.2.weight"), "one2many", id="no such branch"),
        pytest.param(added("model.23.cv3.0.2.weight_quantizer"), "quantizer", id="in the rows"),
        pytest.param(
            renamed("model.0.bn.running_var", "model.0.bn.running_std"), "running_std", id="renamed"
        ),
    ],
)
@forms
def test_a_tensor_without_a_role_is_named(
    form: str, change: Callable[[Tensors], Tensors], named: str
) -> None:
    with pytest.raises(ModelError, match=rf"{named}.* has no role"):
        split_roles(change(theta_0()), form)


def test_all_tensors_without_a_role_are_named() -> None:
    strange = added("model.1.a")(added("model.2.b")(theta_0()))
    with pytest.raises(ModelError, match=r"2 problems") as caught:
        split_roles(strange, "rows")
    assert "model.1.a" in str(caught.value)
    assert "model.2.b" in str(caught.value)


def test_no_layer_at_all() -> None:
    with pytest.raises(ModelError, match=r"model\.<number>"):
        head_prefix({"weight": torch.ones(1)})


@pytest.mark.slow
def test_learnable_extras_of_large_detectors_are_shared() -> None:
    tensors = stock_model("yolo12l.yaml", 1, 256).state_dict()
    shared = split_roles(tensors, "towers").shared
    assert {name for name in shared if name.endswith(".gamma")} == {
        "model.6.gamma", "model.8.gamma"
    }  # fmt: skip
    parameters = {name for name in shared if not name.endswith((".weight", ".bias", ".gamma"))}
    assert not parameters


# ---- places -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "file", "backbone", "last"),
    [
        ("yolo11n.yaml", "11/yolo11.yaml", 11, 23),
        ("yolov8s.yaml", "v8/yolov8.yaml", 10, 22),
        ("yolov8n-p2.yaml", "v8/yolov8-p2.yaml", 10, 28),
        ("yolov8n6.yaml", "v8/yolov8-p6.yaml", 12, 30),
        ("yolov9t.yaml", "v9/yolov9t.yaml", 10, 22),
        ("yolov9e.yaml", "v9/yolov9e.yaml", 30, 42),
        ("yolo12x.yaml", "12/yolo12.yaml", 9, 21),
        ("yolov10b.yaml", "v10/yolov10b.yaml", 11, 23),
        ("yolo26m.yaml", "26/yolo26.yaml", 11, 23),
    ],
)
def test_layers(architecture: str, file: str, backbone: int, last: int) -> None:
    assert architecture_file(architecture).as_posix().endswith(f"cfg/models/{file}")
    names = [f"model.{number}.conv.weight" for number in range(last + 1)]
    places = list(layers(names, architecture).values())
    assert [place.role for place in places] == (
        ["backbone"] * backbone + ["neck"] * (last - backbone) + ["head"]
    )
    assert [place.depth for place in places] == [number / last for number in range(last + 1)]


@pytest.mark.parametrize("architecture", [YOLO11N, YOLOV8N])
@forms
def test_every_shared_tensor_has_a_place(form: str, architecture: str) -> None:
    shared = RULES.split_roles(theta_0(architecture), form).shared
    places = RULES.layers(shared, architecture)
    assert places.keys() == shared.keys()
    head = head_prefix(theta_0(architecture))
    assert {n for n, place in places.items() if place.role == "head"} == {
        n for n in shared if n.startswith(head)
    }


@pytest.mark.parametrize("name", ["model.24.conv.weight", "conv.weight", "cv3.0.2.weight"])
def test_tensors_outside_the_layers_are_named(name: str) -> None:
    with pytest.raises(ModelError, match=name):
        layers(["model.0.conv.weight", name], YOLO11N)


@pytest.mark.parametrize("name", ["yolo99n.yaml", "yolo11.yaml", "../yolo11n.yaml", "yolov9n.yaml"])
def test_unknown_architecture(name: str) -> None:
    with pytest.raises(ModelError, match="unknown YOLO architecture"):
        layers([], name)


# ---- classes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [YOLO11N, YOLOV8N])
@forms
def test_dropped_classes_leave_the_others_alone(form: str, architecture: str) -> None:
    state = alone(make_state(form, (2, 4), architecture=architecture), 1)
    part = state.parts[0]
    less = drop_classes(RULES, part, [NAMES[4], NAMES[2]])
    assert less is not None
    assert less.classes == (NAMES[3], NAMES[5])
    rows = {f"cv3.{level}.2.{kind}" for level in range(3) for kind in ("weight", "bias")}
    rest = {name: tensor for name, tensor in part.tensors.items() if name not in rows}
    assert not moved(rest, {name: less.tensors[name] for name in rest})
    for name in rows:
        assert torch.equal(less.tensors[name], part.tensors[name][[1, 3]])
    with torch.no_grad():
        before = inference_model(state)(images())[0]
        after = inference_model(replace(state, parts=(less,)))(images())[0]
    assert float((after - before[:, [0, 1, 2, 3, 5, 7]]).abs().max()) < 1e-5


def part_of_three() -> HeadPart:
    return make_state("towers", (3,)).parts[0]


def test_dropping_nothing_and_everything() -> None:
    part = part_of_three()
    assert drop_classes(RULES, part, []) is part
    assert drop_classes(RULES, part, part.classes) is None


def test_dropping_an_unknown_class() -> None:
    with pytest.raises(ModelError, match=r"no class 'clas1', did you mean 'class1'\?"):
        drop_classes(RULES, part_of_three(), ["clas1"])


def test_dropping_from_a_damaged_part() -> None:
    part = replace(part_of_three(), classes=("a", "b"))
    with pytest.raises(ModelError, match="3 rows, expected 2"):
        drop_classes(RULES, part, ["a"])


def test_renaming() -> None:
    part = part_of_three()
    first, second, third = part.classes
    swapped = rename_classes(part, {first: second, second: first})
    assert swapped.classes == (second, first, third)
    assert swapped.tensors is part.tensors
    with pytest.raises(ModelError, match="no class 'cat'"):
        rename_classes(part, {"cat": "dog"})
    with pytest.raises(DataError, match="twice"):
        rename_classes(part, {first: second})
    with pytest.raises(DataError, match="non-empty"):
        rename_classes(part, {first: " "})
