"""End-to-end heads (v10, 26): both branches grow, and the one-to-one branch answers."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from factories_foreign import original, stored
from factories_heads import YOLO26N, YOLOV10N, every_pair, lively, same_picks, split_rows
from factories_states import images, moved
from factories_yolo import FORMS, alone, flat, shaken, shaken_part, theta_0
from torch import nn
from ultralytics.nn.modules.head import Detect, v10Detect
from ultralytics.nn.tasks import DetectionModel

from duet.cli.main import cli
from duet.families.decode import decode
from duet.families.opened import ForeignModel
from duet.families.rows import drop_classes
from duet.families.ultralytics.names import head_prefix
from duet.families.yolo import roles
from duet.families.yolo.adapter import FAMILY
from duet.families.yolo.build import (
    inference_model,
    layout_of,
    stock_model,
    trained_state,
    training_model,
)
from duet.families.yolo.heads import Branch, class_layers, is_end_to_end, raw_parts, resize_classes
from duet.families.yolo.roles import split_roles
from duet.increments.base import StartWeights
from duet.increments.store import load_detector

CASES = {
    "26, T=1": (YOLO26N, (2,)),
    "26, T=3": (YOLO26N, (1, 4, 2)),
    "v10, T=2": (YOLOV10N, (2, 1)),
}
BRANCHES: tuple[Branch, ...] = ("one2many", "one2one")
forms = pytest.mark.parametrize("form", FORMS)
cases = pytest.mark.parametrize(("architecture", "counts"), CASES.values(), ids=CASES)
architectures = pytest.mark.parametrize("architecture", [YOLO26N, YOLOV10N])


# ---- inference ----------------------------------------------------------------------------------


@pytest.mark.slow
@cases
@forms
@torch.no_grad()
def test_the_best_of_all_heads_is_picked(
    form: str, counts: tuple[int, ...], architecture: str
) -> None:
    state, x = lively(form, counts, architecture), images()
    model = inference_model(state)
    assert layout_of(state) == "picked"
    picked, raw = model(x)
    heads = len(counts) if form == "parallel" else 1
    assert picked.shape == (2, 84, 6)  # as many as one head may give, whatever the form
    assert len(raw_parts(raw)) == len(raw_parts(raw, "one2one")) == heads
    for rows, pairs in zip(picked, every_pair(state, x), strict=True):
        assert float(rows[:, 4].std()) > 0.05
        assert same_picks(rows, pairs)
    folded = model.fuse(verbose=False)
    assert folded.end2end
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not any(".cv2." in n or ".cv3." in n for n in folded.state_dict() if "model.23." in n)
    for rows, pairs in zip(folded(x)[0], every_pair(state, x), strict=True):
        assert same_picks(rows, pairs, 1e-3)


@cases
@forms
@torch.no_grad()
@pytest.mark.slow
def test_joined_branches_answer_like_single_ones(
    form: str, counts: tuple[int, ...], architecture: str
) -> None:
    state, x = lively(form, counts, architecture), images()
    _, raw = inference_model(state)(x)
    singles = [inference_model(alone(state, index))(x)[1] for index in range(len(counts))]
    answers = {}
    for branch in BRANCHES:
        pairs = raw_parts(raw, branch)
        expected = [raw_parts(single, branch)[0] for single in singles]
        scores = torch.cat([pair[1] for pair in pairs], 1)
        assert torch.allclose(scores, torch.cat([pair[1] for pair in expected], 1), atol=1e-4)
        for pair, (boxes, _) in zip(pairs, expected, strict=False):
            assert torch.equal(pair[0], boxes)
        answers[branch] = scores
    assert not torch.allclose(*answers.values(), atol=1e-2)


@pytest.mark.parametrize("size", [(32, 32), (96, 96), (64, 128)], ids=str)
@forms
@torch.no_grad()
@pytest.mark.slow
def test_any_size_and_batch(form: str, size: tuple[int, int]) -> None:
    model = inference_model(lively(form, (2, 1))).fuse(verbose=False)
    x = torch.rand((3, 3, *size), generator=torch.Generator().manual_seed(0))
    together = model(x)[0]
    anchors = 21 * size[0] * size[1] // 1024
    assert together.shape == (3, min(300, anchors), 6)
    for index in range(3):
        one = model(x[index : index + 1])[0]
        assert torch.allclose(one[0, :, 4], together[index, :, 4], atol=1e-5)
    assert model(images())[0].shape[1] == 84


@architectures
@forms
@torch.no_grad()
def test_the_engine_may_ask_for_the_other_branch(form: str, architecture: str) -> None:
    """Ultralytics' `nms` argument sets `end2end` on a model before it folds it."""
    state, x = lively(form, (2, 1), architecture), images()
    model = inference_model(state)
    model.end2end = False
    heads = 2 if form == "parallel" else 1
    y, raw = model(x)
    assert y.shape == (2, 4 + 3, 84 * heads)
    assert torch.allclose(y[:, 4:6, :84], raw_parts(raw)[0][1][:, :2].sigmoid(), atol=1e-6)
    folded = model.fuse(verbose=False)
    assert "one2one" not in " ".join(folded.state_dict())
    assert torch.allclose(folded(x)[0][:, 4:], y[:, 4:], atol=1e-4)


@architectures
def test_one_increment_is_a_stock_head(architecture: str) -> None:
    head = inference_model(lively("towers", (3,), architecture)).model[-1]
    assert type(head) is (Detect if architecture == YOLO26N else v10Detect)


@forms
@pytest.mark.slow
def test_the_detector_reads_picks(form: str) -> None:
    state = lively(form, (2, 1))
    detector = FAMILY.detector(state, image_size=64)
    assert detector.layout == "picked"
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    found = detector([picture, picture[:48]], confidence=0.3)
    x = FAMILY.prepare([picture, picture[:48]], image_size=64)
    for one, pairs in zip(found, every_pair(state, x), strict=True):
        expected = pairs[pairs[:, 4] > 0.3][:84]
        assert len(expected) > 0
        assert abs(len(one.scores) - len(expected)) <= 1  # a score at the threshold may round
        assert np.allclose(one.scores[:5], expected[:5, 4], atol=1e-4)
        assert set(one.class_ids) <= {0, 1, 2}


@torch.no_grad()
def test_picks_are_not_suppressed() -> None:
    """Two equal boxes of one class both stay: no suppression follows a one-to-one branch."""
    row = torch.tensor([[8.0, 8, 24, 24, 0.9, 1], [8, 8, 24, 24, 0.8, 1], [0, 0, 4, 4, 0.1, 0]])
    boxes, scores, ids = decode(row, "picked", size=64, confidence=0.3, iou=0.5, limit=10)
    assert boxes.tolist() == [[8, 8, 24, 24]] * 2
    assert scores.tolist() == pytest.approx([0.9, 0.8])
    assert ids.tolist() == [1, 1]


# ---- roles --------------------------------------------------------------------------------------


@architectures
@forms
def test_both_branches_belong_alike(form: str, architecture: str) -> None:
    tensors = theta_0(architecture)
    own = split_roles(tensors, form).own
    plain = {name for name in own if not name.startswith("one2one_")}
    assert {f"one2one_{name}" for name in plain} == own.keys() - plain
    assert plain


@architectures
@forms
@pytest.mark.slow
def test_dropped_classes_lose_their_rows_in_both_branches(form: str, architecture: str) -> None:
    state = alone(lively(form, (2, 4), architecture), 1)
    part = state.parts[0]
    less = drop_classes(roles, part, [part.classes[2]])
    assert less is not None
    kept = [0, 1, 3]
    for name, tensor in less.tensors.items():
        rows = part.tensors[name]
        assert torch.equal(tensor, rows[kept] if split_rows(name) else rows), name
    with torch.no_grad():
        before = inference_model(state)(images())[1]
        after = inference_model(replace(state, parts=(less,)))(images())[1]
    for branch in BRANCHES:
        expected = before[branch]["scores"][:, kept]
        assert torch.allclose(after[branch]["scores"], expected, atol=1e-5)


# ---- the training form --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mask", [True, False], ids=["mask", "train"])
@pytest.mark.parametrize(
    ("architecture", "counts"), [(YOLOV10N, (2, 1)), (YOLO26N, (1, 4, 2))], ids=["v10", "26"]
)
@forms
@torch.no_grad()
def test_training_form_answers_like_the_inference_form(
    form: str, architecture: str, counts: tuple[int, ...], mask: bool
) -> None:
    state, x = lively(form, counts, architecture), images()
    got = training_model(state, mask_old=mask, run_old=True).eval()(x)
    _, raw = inference_model(state)(x)
    _, before = inference_model(replace(state, parts=state.parts[:-1]))(x)
    n_old = sum(counts[:-1])
    for branch, key in zip(BRANCHES, ("old", "old_one2one"), strict=True):
        pairs = raw_parts(raw, branch)
        scores = torch.cat([pair[1] for pair in pairs], 1)
        assert torch.equal(got[branch]["boxes"], pairs[-1][0])
        expected = scores[:, n_old:] if mask else scores
        assert torch.allclose(got[branch]["scores"], expected, atol=1e-4)
        olds = raw_parts(before, branch)
        assert len(got[key]) == len(olds)
        for mine, theirs in zip(got[key], olds, strict=True):
            for one, other in zip(mine, theirs, strict=True):
                assert torch.allclose(one, other, atol=1e-4)


@forms
def test_old_parts_run_only_where_they_are_needed(form: str) -> None:
    got = training_model(lively(form), mask_old=True, run_old=False)(images())
    for key in ("old", "old_one2one"):
        assert len(got[key]) == (1 if form == "rows" else 0)


@forms
def test_the_trunk_learns_from_the_one_to_many_branch_alone(form: str) -> None:
    model = training_model(lively(form), mask_old=False, run_old=True)
    first = model.model[0].conv.weight
    got = model(images())
    apart = sum(pair[kind].sum() for pair in got["old_one2one"] for kind in (0, 1))
    apart = apart + got["one2one"]["boxes"].sum() + got["one2one"]["scores"].sum()
    (nothing,) = torch.autograd.grad(apart, [first], allow_unused=True, retain_graph=True)
    assert nothing is None
    (something,) = torch.autograd.grad(got["one2many"]["scores"].square().sum(), [first])
    assert something.any()


@pytest.mark.slow
@pytest.mark.parametrize("mask", [True, False], ids=["mask", "train"])
@cases
@forms
def test_state_survives_the_training_form(
    form: str, counts: tuple[int, ...], architecture: str, mask: bool
) -> None:
    state = lively(form, counts, architecture)
    back = trained_state(training_model(state, mask_old=mask, run_old=True), state)
    assert not moved(flat(state), flat(back))
    assert back.fingerprint() == state.fingerprint()


@pytest.mark.slow
@forms
def test_trained_old_parts_come_back(form: str) -> None:
    state = lively(form, (2, 1, 3))
    parts = tuple(shaken_part(part, 40 + i) for i, part in enumerate(state.parts))
    other = replace(state, parts=parts)
    back = trained_state(training_model(other, mask_old=False, run_old=True), state)
    assert not moved(flat(back), flat(other))


# ---- growing ------------------------------------------------------------------------------------


@architectures
@forms
def test_growing_adds_equal_rows_to_both_branches(form: str, architecture: str) -> None:
    state = lively(form, (2,), architecture)
    grown = FAMILY.grow(state, classes=["a", "b", "c"], increment="t9", seed=5, source=None)
    assert not moved(flat(state), flat(replace(grown, parts=grown.parts[:1])))
    new, last = grown.parts[1].tensors, state.parts[0].tensors
    assert new.keys() == last.keys()
    for name in new:
        if split_rows(name):
            assert new[name].shape[0] == 3
            assert torch.equal(new[name], new[name.removeprefix("one2one_")])
        else:
            assert torch.equal(new[name], last[name]), name


@pytest.mark.slow
@architectures
@forms
@torch.no_grad()
def test_new_part_cannot_touch_old_answers(form: str, architecture: str) -> None:
    before, x = lively(form, (1, 4, 2), architecture), images()
    new = shaken_part(before.parts[-1], 99, scale=2.0)
    after = replace(before, parts=(*before.parts[:-1], new))
    raws = [inference_model(state)(x)[1] for state in (before, after)]
    for branch in BRANCHES:
        was, now = (raw_parts(raw, branch) for raw in raws)
        if form == "parallel":
            for one, other in zip(was[:-1], now[:-1], strict=True):
                assert all(map(torch.equal, one, other))
        else:
            assert torch.equal(was[0][0], now[0][0])
            assert torch.equal(was[0][1][:, :5], now[0][1][:, :5])
        assert not torch.equal(was[-1][1], now[-1][1])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["towers", "parallel"])
@torch.no_grad()
def test_towers_of_another_width_are_joined(form: str) -> None:
    state = lively(form, (2, 1))
    tensors = shaken(stock_model(YOLO26N, 3, 80).state_dict(), 3)
    wide = FAMILY.start_state(
        StartWeights(tensors), architecture=YOLO26N, head=form,
        classes=["other", "another", "third"], increment="wide", seed=0,
    )  # fmt: skip
    state = replace(state, parts=(*state.parts, wide.parts[0]))
    _, raw = inference_model(state)(images())
    for branch in BRANCHES:
        singles = [
            inference_model(alone(state, i))(images())[1][branch]["scores"] for i in range(3)
        ]
        joined = torch.cat([scores for _, scores in raw_parts(raw, branch)], 1)
        assert torch.equal(joined, torch.cat(singles, 1))
    model = training_model(state, mask_old=True, run_old=True)
    assert trained_state(model, state).fingerprint() == state.fingerprint()


# ---- scores for learned merges ------------------------------------------------------------------


@architectures
@forms
def test_learned_merges_see_the_branch_that_answers(form: str, architecture: str) -> None:
    state, x = lively(form, (2, 1), architecture), images()
    shared = {name: tensor.clone().requires_grad_() for name, tensor in state.shared.items()}
    scores = FAMILY.class_logits(state)(shared, x)
    with torch.no_grad():
        _, raw = inference_model(state)(x)
    expected = torch.cat([pair[1] for pair in raw_parts(raw, "one2one")], 1)
    assert torch.allclose(scores, expected, atol=1e-4)
    scores.square().sum().backward()
    prefix = head_prefix(theta_0(architecture))
    reached = {name for name, tensor in shared.items() if tensor.grad is not None}
    assert "model.0.conv.weight" in reached  # nothing is detached outside of training
    in_head = {name.removeprefix(prefix).split(".")[0] for name in reached if prefix in name}
    assert in_head == ({"one2one_cv3"} if form == "rows" else set())


# ---- two files of the engine --------------------------------------------------------------------


@pytest.mark.slow
@architectures
def test_two_foreign_files_merge(architecture: str, tmp_path: Path) -> None:
    base = original(architecture)
    paths = [tmp_path / "mine.pt", tmp_path / "theirs.pt"]
    for seed, (path, classes) in enumerate(zip(paths, (["cup", "fork"], ["bolt"]), strict=True)):
        model = copy.deepcopy(base)
        resize_classes(model.model[-1], len(classes))
        moved_ = shaken(model.state_dict(), seed, 1e-3)
        model.load_state_dict(moved_)
        model.names, model.yaml["nc"] = dict(enumerate(classes)), len(classes)
        stored(path, model)
    words = ["merge", *map(str, paths), "--out", str(tmp_path / "m"), "--json"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.exception
    assert json.loads(result.stdout)["classes"] == ["cup", "fork", "bolt"]
    state = load_detector(tmp_path / "m").state
    files = [FAMILY.foreign(ForeignModel(path), name="a")[0] for path in paths]
    for name, tensor in state.shared.items():
        mean = (files[0].shared[name] + files[1].shared[name]) / 2
        torch.testing.assert_close(tensor, mean, rtol=1e-5, atol=1e-6)
    for part, file in zip(state.parts, files, strict=True):
        assert not moved(part.tensors, file.parts[0].tensors)
    assert FAMILY.detector(state, image_size=64).layout == "picked"


# ---- all architectures --------------------------------------------------------------------------

GENERATIONS = {
    "yolov8": "nsmlx", "yolov9": "tsmce", "yolov10": "nsmblx", "yolo11": "nsmlx", "yolo12": "nsmlx",
    "yolo26": "nsmlx",
}  # fmt: skip
ALL = [f"{name}{size}.yaml" for name, sizes_ in GENERATIONS.items() for size in sizes_]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ALL)
def test_every_tensor_of_every_architecture_has_one_role(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Detect, "bias_init", lambda head: None)  # needs the numbers of the strides
    with torch.device("meta"):
        model = DetectionModel(architecture, nc=1, verbose=False)
        width = model.model[-1].cv3[0][-1].in_channels
        larger = stock_model(architecture, 5, width).state_dict()
    tensors = dict(model.state_dict())
    head, prefix = model.model[-1], head_prefix(tensors)
    end_to_end = architecture.startswith(("yolov10", "yolo26"))
    assert is_end_to_end(head) == end_to_end
    assert (head.reg_max == 1) == architecture.startswith("yolo26")
    for form in FORMS:
        roles = split_roles(tensors, form)
        names = [*roles.shared, *roles.buffers, *(prefix + name for name in roles.own)]
        assert sorted(names) == sorted(tensors)
        assert all(tensor.is_floating_point() for tensor in roles.shared.values())
        parameters = {name for name, _ in model.named_parameters()}
        own = {prefix + name for name in roles.own}
        assert roles.shared.keys() == parameters - own
    rows = {prefix + name for name in split_roles(tensors, "rows").own}
    assert larger.keys() == tensors.keys()
    assert rows == {name for name in tensors if larger[name].shape != tensors[name].shape}
    assert len(rows) == 2 * len(class_layers(head)) == (12 if end_to_end else 6)
