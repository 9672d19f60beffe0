"""Heads of several increments: who owns which tensor, and that joining changes no output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from factories_states import images, moved
from factories_yolo import (
    FORMS,
    NAMES,
    WIDTH,
    YOLO11N,
    YOLOV8N,
    alone,
    box_names,
    decoded,
    flat,
    make_state,
    shaken_part,
    theta_0,
)
from torch import nn

from duet.errors import ModelError
from duet.families.ultralytics.names import head_prefix
from duet.families.yolo.adapter import FAMILY
from duet.families.yolo.build import (
    inference_model,
    narrowest_towers,
    stock_model,
    trained_state,
    training_model,
)
from duet.families.yolo.heads import raw_parts
from duet.families.yolo.roles import split_roles
from duet.increments.base import StartWeights
from duet.increments.state import DetectorState
from duet.vectors.tensors import Tensors

SIZES = {"T=1": (2,), "T=2": (2, 1), "T=3, unequal": (1, 4, 2)}
forms = pytest.mark.parametrize("form", FORMS)
sizes = pytest.mark.parametrize("counts", SIZES.values(), ids=SIZES)
architectures = pytest.mark.parametrize("architecture", [YOLO11N, YOLOV8N])


@torch.no_grad()
def outputs(
    state: DetectorState, x: torch.Tensor
) -> tuple[torch.Tensor, list[tuple[torch.Tensor, ...]]]:
    """Return decoded ``(B, 4 + C, A)`` and the raw ``(boxes, scores)`` of each head."""
    decoded, raw = inference_model(state)(x)
    return decoded, raw_parts(raw)


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 2e-5) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= tolerance)


# ---- roles ------------------------------------------------------------------------------------


@architectures
@forms
def test_every_tensor_has_one_role(form: str, architecture: str) -> None:
    tensors = theta_0(architecture)
    roles = split_roles(tensors, form)
    prefix = head_prefix(tensors)
    names = [*roles.shared, *roles.buffers, *(prefix + name for name in roles.own)]
    assert sorted(names) == sorted(tensors)
    assert all(tensor.is_floating_point() for tensor in roles.shared.values())
    statistics = {n for n in roles.buffers if n.endswith(("running_mean", "running_var"))}
    counters = {n for n in roles.buffers if n.endswith("num_batches_tracked")}
    assert statistics | counters == set(roles.buffers)
    assert (
        box_names(tensors)
        <= {
            "rows": {n.removeprefix(prefix) for n in names if n not in roles.own},
            "towers": {n.removeprefix(prefix) for n in (*roles.shared, *roles.buffers)},
            "parallel": set(roles.own),
        }[form]
    )


@pytest.mark.parametrize("architecture", [YOLO11N, YOLOV8N, "yolov9t.yaml", "yolo12n.yaml"])
def test_class_rows_are_what_changes_with_the_class_count(architecture: str) -> None:
    small, large = (stock_model(architecture, count, WIDTH).state_dict() for count in (3, 5))
    assert small.keys() == large.keys()
    changing = {name for name in small if small[name].shape != large[name].shape}
    own = split_roles(large, "rows").own
    assert {head_prefix(large) + name for name in own} == changing
    assert len(own) == 6


# ---- joined heads against one after another -----------------------------------------------------


@pytest.mark.slow
@architectures
@sizes
@forms
def test_joined_heads_answer_like_single_ones(
    form: str, counts: tuple[int, ...], architecture: str
) -> None:
    state, x = make_state(form, counts, architecture=architecture), images()
    decoded, raws = outputs(state, x)
    singles = [outputs(alone(state, index), x) for index in range(len(counts))]
    anchors = singles[0][0].shape[-1]
    assert decoded.shape == (2, 4 + sum(counts), anchors * len(raws))
    if len(raws) == 1:
        boxes, scores = raws[0]
        assert close(scores, torch.cat([raw[0][1] for _, raw in singles], 1))
        for _, raw in singles:
            assert close(boxes, raw[0][0])
        expected = torch.cat([singles[0][0][:, :4], *(y[:, 4:] for y, _ in singles)], 1)
        assert close(decoded[:, 4:], expected[:, 4:])
        assert close(decoded[:, :4], expected[:, :4], 1e-3)
        return
    start = 4
    for index, (y, raw) in enumerate(singles):
        own = decoded[:, :, index * anchors : (index + 1) * anchors]
        assert torch.equal(raws[index][0], raw[0][0])
        assert torch.equal(raws[index][1], raw[0][1])
        assert torch.equal(own[:, :4], y[:, :4])
        end = start + counts[index]
        assert torch.equal(own[:, start:end], y[:, 4:])
        foreign = [c for c in range(4, own.shape[1]) if not start <= c < end]
        assert not own[:, foreign].any()
        start = end


@pytest.mark.parametrize("architecture", [YOLO11N, YOLOV8N], ids=["depth-wise", "dense"])
@pytest.mark.slow
def test_towers_answer_bit_for_bit_as_alone(architecture: str) -> None:
    state, x = make_state("towers", (1, 4, 2), architecture=architecture), images()
    _, [(_, scores)] = outputs(state, x)
    alone_ = [outputs(alone(state, index), x)[1][0][1] for index in range(3)]
    assert torch.equal(scores, torch.cat(alone_, 1))


@forms
def test_one_increment_is_a_stock_head(form: str) -> None:
    from ultralytics.nn.modules.head import Detect

    model = inference_model(make_state(form, (3,)))
    assert type(model.model[-1]) is Detect
    assert model.state_dict().keys() == stock_model(YOLO11N, 3, WIDTH).state_dict().keys()


@pytest.mark.slow
@architectures
@sizes
@forms
def test_folding_batchnorm_keeps_the_outputs(
    form: str, counts: tuple[int, ...], architecture: str
) -> None:
    state, x = make_state(form, counts, architecture=architecture), images()
    expected, _ = outputs(state, x)
    detector = FAMILY.detector(state, image_size=64)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in detector.module.modules())
    got = decoded(detector.module(x))
    assert close(got[:, :4], expected[:, :4], 1e-3)
    assert close(got[:, 4:], expected[:, 4:], 1e-5)


# ---- the training form ------------------------------------------------------------------------


@torch.no_grad()
def trained_outputs(
    state: DetectorState, x: torch.Tensor, *, mask: bool, run: bool
) -> dict[str, object]:
    raw: dict[str, object] = training_model(state, mask_old=mask, run_old=run).eval()(x)
    return raw


@pytest.mark.slow
@pytest.mark.parametrize("mask", [True, False], ids=["mask", "train"])
@pytest.mark.parametrize("counts", [(2, 1), (1, 4, 2)], ids=["T=2", "T=3"])
@forms
def test_training_form_answers_like_the_inference_form(
    form: str, counts: tuple[int, ...], mask: bool
) -> None:
    state, x = make_state(form, counts), images()
    got = trained_outputs(state, x, mask=mask, run=True)
    _, raws = outputs(state, x)
    _, olds = outputs(replace(state, parts=state.parts[:-1]), x)
    boxes = raws[-1][0]
    scores = torch.cat([raw[1] for raw in raws], 1)
    n_old = sum(counts[:-1])
    assert close(got["boxes"], boxes)
    assert close(got["scores"], scores[:, n_old:] if mask else scores)
    assert len(got["old"]) == len(olds)
    for (old_boxes, old_scores), (its_boxes, its_scores) in zip(got["old"], olds, strict=True):
        assert close(old_boxes, its_boxes)
        assert close(old_scores, its_scores)


@forms
def test_old_parts_run_only_where_they_are_needed(form: str) -> None:
    got = trained_outputs(make_state(form), images(), mask=True, run=False)
    assert len(got["old"]) == (1 if form == "rows" else 0)  # rows come for free


@pytest.mark.slow
@pytest.mark.parametrize("mask", [True, False], ids=["mask", "train"])
@architectures
@sizes
@forms
def test_state_survives_the_training_form(
    form: str, counts: tuple[int, ...], architecture: str, mask: bool
) -> None:
    state = make_state(form, counts, architecture=architecture)
    model = training_model(state, mask_old=mask, run_old=True)
    assert model.names == dict(enumerate(NAMES[: sum(counts)][-counts[-1] if mask else 0 :]))
    back = trained_state(model, state)
    assert not moved(flat(state), flat(back))
    assert back.fingerprint() == state.fingerprint()


@forms
def test_trained_old_parts_come_back(form: str) -> None:
    state = make_state(form, (2, 1, 3))
    other = replace(
        state, parts=tuple(shaken_part(part, 40 + i) for i, part in enumerate(state.parts))
    )
    back = trained_state(training_model(other, mask_old=False, run_old=True), state)
    assert not moved(flat(back), flat(other))  # `old_part: trained` must not be lost


# ---- growing and recasting --------------------------------------------------------------------


@forms
def test_recasting_keeps_the_detector(form: str) -> None:
    state, x = make_state("rows", (3,)), images()
    other = FAMILY.recast(state, form)
    assert other.head == form
    assert set(other.parts[0].tensors) == set(split_roles(theta_0(), form).own)
    assert torch.equal(outputs(other, x)[0], outputs(state, x)[0])
    back = FAMILY.recast(other, "rows")
    assert back.fingerprint() == state.fingerprint()


def test_recasting_needs_one_increment() -> None:
    with pytest.raises(ModelError, match=r"2 increments .* 'towers'"):
        FAMILY.recast(make_state("towers"), "rows")


@pytest.mark.parametrize("source", [None, StartWeights(theta_0())], ids=["previous", "pretrained"])
@forms
def test_growing_changes_nothing_old(form: str, source: StartWeights | None) -> None:
    state = make_state(form, (2, 1))
    grown = FAMILY.grow(state, classes=["new", "newer"], increment="t9", seed=5, source=source)
    assert not moved(flat(state), flat(replace(grown, parts=grown.parts[:-1])))
    new, rows = grown.parts[-1], set(split_roles(theta_0(), "rows").own)
    origin = split_roles(theta_0(), form).own if source is not None else state.parts[-1].tensors
    for name in set(new.tensors) - rows:
        assert torch.equal(new.tensors[name], origin[name]), name
    assert {new.tensors[name].shape[0] for name in rows} == {2}
    again = FAMILY.grow(state, classes=["new", "newer"], increment="t9", seed=5, source=source)
    assert not moved(flat(grown), flat(again))
    other = FAMILY.grow(state, classes=["new", "newer"], increment="t9", seed=6, source=source)
    fresh = {f"part/2/{name}" for name in rows if name.endswith("weight")}
    assert moved(flat(grown), flat(other)) == fresh  # the bias is the engine's prior, not random


@architectures
@pytest.mark.parametrize("counts", [(2, 1), (1, 4, 2)], ids=["T=2", "T=3"])
@forms
@pytest.mark.slow
def test_new_part_cannot_touch_old_answers(
    form: str, counts: tuple[int, ...], architecture: str
) -> None:
    before, x = make_state(form, counts, architecture=architecture), images()
    new = shaken_part(before.parts[-1], 99, scale=2.0)
    after = replace(before, parts=(*before.parts[:-1], new))
    old = 4 + sum(counts[:-1])
    detectors = [FAMILY.detector(state, image_size=64).module for state in (before, after)]
    was, now = (decoded(detector(x)) for detector in detectors)
    anchors = was.shape[-1] // (len(counts) if form == "parallel" else 1)
    kept = slice(0, was.shape[-1] - anchors if form == "parallel" else None)
    assert torch.equal(was[:, :old, kept], now[:, :old, kept])
    assert not torch.equal(was, now)


# ---- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        pytest.param("yolo99n.yaml", "unknown YOLO architecture", id="no such version"),
        pytest.param("resnet50", "unknown YOLO architecture", id="no YOLO"),
        pytest.param("../../etc/passwd", "unknown YOLO architecture", id="a path"),
        pytest.param("yolo11n-seg.yaml", "unknown YOLO architecture", id="another task"),
        pytest.param("rtdetr-l.yaml", "unknown YOLO architecture", id="rtdetr-l"),
        pytest.param("yolo26n-seg.yaml", "unknown YOLO architecture", id="another task of 26"),
    ],
)
def test_other_architectures_are_refused(architecture: str, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        stock_model(architecture, 3, WIDTH)
    assert caught.value.remedy


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def with_extra(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: torch.zeros(1)}


def misshaped(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {
        **tensors,
        name: tensors[name][..., :1].repeat(7, *[1] * (tensors[name].ndim - 1)),
    }


DAMAGE = {
    "missing": (without, "missing"),
    "unexpected": (with_extra, "unexpected"),
    "misshaped": (misshaped, "expected"),
}


BUILDERS: dict[str, Callable[[DetectorState], nn.Module]] = {
    "inference": inference_model,
    "training": lambda state: training_model(state, mask_old=True, run_old=True),
}


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("index", [0, 1], ids=["old part", "new part"])
@forms
def test_damaged_parts_are_named(form: str, index: int, kind: str, build: str) -> None:
    damage, word = DAMAGE[kind]
    name = "cv3.9.2.weight" if kind == "unexpected" else "cv3.1.2.weight"
    state = make_state(form)
    part = replace(state.parts[index], tensors=damage(name)(state.parts[index].tensors))
    parts = tuple(part if i == index else p for i, p in enumerate(state.parts))
    damaged = replace(state, parts=parts)
    with pytest.raises(ModelError) as caught:
        BUILDERS[build](damaged)
    assert name in str(caught.value)
    assert word in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("group", ["shared", "buffers"])
def test_damaged_shared_tensors_are_named(group: str, kind: str) -> None:
    damage, word = DAMAGE[kind]
    tail = "conv.weight" if group == "shared" else "bn.running_mean"
    name = f"model.99.{tail}" if kind == "unexpected" else f"model.2.cv1.{tail}"
    state = make_state("towers", (2,))
    changed = {group: damage(name)(getattr(state, group))}
    with pytest.raises(ModelError, match=word) as caught:
        inference_model(replace(state, **changed))
    assert name in str(caught.value)


def test_part_without_class_rows_is_refused() -> None:
    state = make_state("towers", (2,))
    part = replace(state.parts[0], tensors=without("cv3.0.2.weight")(state.parts[0].tensors))
    with pytest.raises(ModelError, match=r"cv3\.0\.2\.weight"):
        inference_model(replace(state, parts=(part,)))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["towers", "parallel"])
def test_towers_of_another_width_are_joined(form: str) -> None:
    state, x = with_wide_part(form), images()
    decoded, raws = outputs(state, x)
    assert decoded.shape[1] == 4 + 2 + 1 + 3
    singles = [outputs(alone(state, index), x)[1][0] for index in range(3)]
    expected = torch.cat([scores for _, scores in singles], 1)
    assert torch.equal(torch.cat([scores for _, scores in raws], 1), expected)
    for mask in (True, False):
        model = training_model(state, mask_old=mask, run_old=True)
        assert trained_state(model, state).fingerprint() == state.fingerprint()


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ModelError, match=r"t0: 64, t1: 64, wide: 80 .*\n.*'towers'"):
        inference_model(with_wide_part("rows"))


def with_wide_part(form: str) -> DetectorState:
    """Return a detector whose third part comes from a file of 80 classes, as far as width goes."""
    state = make_state(form)
    wide = FAMILY.start_state(
        StartWeights(stock_model(YOLO11N, 3, 80).state_dict()), architecture=YOLO11N, head=form,
        classes=["other", "another", "third"], increment="wide", seed=0,
    )  # fmt: skip
    return replace(state, parts=(*state.parts, wide.parts[0]))


def test_a_fresh_detector_is_the_first_that_its_seed_draws() -> None:
    width = narrowest_towers(YOLO11N)
    fresh = FAMILY.fresh(YOLO11N, ("cat", "dog"), seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = stock_model(YOLO11N, 2, width).state_dict()
    assert fresh.classes == ("cat", "dog")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in fresh.tensors.items())
