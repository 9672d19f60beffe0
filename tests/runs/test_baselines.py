"""The baselines: their losses against slow ones, and what each may and may not move."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from factories_training import trained_here
from factories_yolo import NAMES, YOLO11N, make_domain, micro_schedule, theta_0
from safetensors.torch import save_file

from duet.config import parse_config
from duet.errors import ConfigError
from duet.evaluation.pairs import gi_pairs, pi_pairs, reference_slices, ri_pairs
from duet.families.yolo.adapter import FAMILY
from duet.increments.base import StartWeights
from duet.increments.state import DetectorState
from duet.increments.store import load_detector, load_increment
from duet.increments.tensorfile import write_tensors
from duet.recipes.apply import merge_plan
from duet.recipes.plan import make_plan
from duet.recipes.recipe import Entry, Recipe
from duet.runs.inputs import read_strategies
from duet.runs.keep import keep_chain
from duet.runs.lab import Lab
from duet.runs.learn import run_chain
from duet.runs.learnable import require_learnable
from duet.runs.plan import RunPlan
from duet.runs.repeat import repeats
from duet.runs.setting import Setting, StageResult
from duet.series import Increment, Series, train_slice
from duet.series.problems import DataError
from duet.series.series import joint_slice
from duet.series.slices import join_slices, with_classes
from duet.training.config import Directional, Distillation, Ewc, PseudoLabels, Strategy
from duet.training.job import DIRECTION, IMPORTANCE, Job, JobPart, identity, unlabelled_classes
from duet.training.losses.distillation import duet, erd, lwf
from duet.training.losses.distillation.responses import Anchors, Places, Quantiles
from duet.training.losses.distillation.table import DISTILLATIONS, resolve_distillation
from duet.training.losses.weights import ewc_steps, read_pulls

BASELINES = (
    "seq-ft", "masked", "frozen", "lwf", "erd", "pseudo", "ewc", "joint-partial", "joint-full",
)  # fmt: skip


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def boxes_like(anchors: int, images: int = 2) -> torch.Tensor:
    """Disjoint unit boxes, so that suppression removes none."""
    left = torch.arange(anchors, dtype=torch.float32) * 10
    one = torch.stack([left, left * 0, left + 1, left * 0 + 1], -1)
    return one.expand(images, -1, -1)


# ---- losses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DISTILLATIONS)
@pytest.mark.parametrize("bins", [1, 4])
def test_nothing_is_lost_at_the_start(name: str, bins: int) -> None:
    raw = Anchors(
        noise(2, 4 * bins, 50, seed=1), noise(2, 3, 50, seed=2), bins, lambda: boxes_like(50)
    )
    places = Places(noise(2, 50, 4, seed=3).sigmoid(), noise(2, 3, 50, seed=4))
    method = resolve_distillation(name)
    losses = (
        *method.of_anchors(raw, raw, Quantiles()),
        *method.of_places(places, places, Quantiles()),
    )
    assert [float(loss) for loss in losses] == pytest.approx([0, 0, 0, 0], abs=1e-6)


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_gradients_reach_the_student_alone(name: str) -> None:
    student = Anchors(
        noise(1, 16, 60, seed=1).requires_grad_(), noise(1, 3, 60, seed=2).requires_grad_(), 4
    )
    teacher = Anchors(
        noise(1, 16, 60, seed=3).requires_grad_(), noise(1, 3, 60, seed=4).requires_grad_(), 4,
        lambda: boxes_like(60, 1),
    )  # fmt: skip
    cls, box = resolve_distillation(name).of_anchors(student, teacher, Quantiles())
    torch.autograd.backward(cls + box)
    assert student.boxes.grad is not None
    assert float(student.boxes.grad.abs().sum()) > 0
    assert student.scores.grad is not None
    assert float(student.scores.grad.abs().sum()) > 0
    assert teacher.boxes.grad is None
    assert teacher.scores.grad is None


def test_lwf_is_the_squared_distance_of_everything() -> None:
    ours, theirs = (Anchors(noise(2, 8, 5, seed=s), noise(2, 3, 5, seed=s + 1), 2) for s in (1, 5))
    cls, box = lwf.of_anchors(ours, theirs, Quantiles())
    gap = (ours.scores - theirs.scores).numpy() ** 2
    assert float(cls) == pytest.approx(gap.sum() / 10, rel=1e-5)
    assert float(box) == pytest.approx(((ours.boxes - theirs.boxes).numpy() ** 2).mean(), rel=1e-5)


def slow_erd(ours: Anchors, theirs: Anchors) -> tuple[float, float]:
    """Return both losses anchor by anchor, from the equations."""
    bins, cls, box = theirs.bins, [], []
    for image in range(len(theirs.scores)):
        old = theirs.scores[image].numpy().astype(np.float64)
        new = ours.scores[image].numpy().astype(np.float64)
        peak = old.max(0)
        for anchor in np.flatnonzero(peak > peak.mean() + 2 * peak.std(ddof=1)):
            cls.append(((old[:, anchor] - new[:, anchor]) ** 2).sum())
        sides = [
            side.boxes[image].numpy().astype(np.float64).reshape(4, bins, -1)
            for side in (theirs, ours)
        ]
        soft = [
            np.exp(s / t) / np.exp(s / t).sum(1, keepdims=True)
            for s, t in ((sides[0], 1), (sides[0], 10), (sides[1], 10))
        ]
        sharp = soft[0].max(1).mean(0)
        for anchor in np.flatnonzero(sharp > sharp.mean() + 2 * sharp.std(ddof=1)):
            p, q = soft[1][:, :, anchor], soft[2][:, :, anchor]
            box.append((p * np.log(p / q)).sum(1).mean() * 100)
    return sum(cls) / len(cls), sum(box) / len(box)


def test_erd_keeps_what_stands_out() -> None:
    ours, theirs = (
        Anchors(
            noise(2, 32, 80, seed=s) * 2, noise(2, 3, 80, seed=s + 1) * 2, 8, lambda: boxes_like(80)
        )
        for s in (1, 5)
    )
    cls, box = erd.of_anchors(ours, theirs, Quantiles())
    expected = slow_erd(ours, theirs)
    assert expected[0] > 0
    assert (float(cls), float(box)) == pytest.approx(expected, rel=1e-3)


def test_erd_counts_a_place_once_however_many_boxes_lie_there() -> None:
    anchors = 60
    theirs = noise(1, 16, anchors, seed=3) * 0.1
    theirs[:, ::4, :2] = 9  # two anchors with sharp sides
    scores = noise(1, 2, anchors, seed=4)
    ours = Anchors(noise(1, 16, anchors, seed=5), scores, 4)
    piled = boxes_like(anchors, 1).clone()
    piled[0, 1] = piled[0, 0]
    apart = erd.of_anchors(
        ours, Anchors(theirs, scores, 4, lambda: boxes_like(anchors, 1)), Quantiles()
    )
    on_top = erd.of_anchors(ours, Anchors(theirs, scores, 4, lambda: piled), Quantiles())
    best = int(scores[0].amax(0)[:2].argmax())
    single = theirs.clone()
    single[:, :, 1 - best] = noise(1, 16, anchors, seed=6)[:, :, 0] * 0.1
    alone = erd.of_anchors(
        ours, Anchors(single, scores, 4, lambda: boxes_like(anchors, 1)), Quantiles()
    )
    assert float(on_top[1]) == pytest.approx(float(alone[1]), rel=1e-4)
    assert float(on_top[1]) != pytest.approx(float(apart[1]), rel=1e-3)


def test_ewc_gradient_is_that_of_its_loss() -> None:
    p, q, f = (
        noise(4, 5, seed=1).requires_grad_(),
        noise(4, 5, seed=2),
        noise(4, 5, seed=3).square(),
    )
    (expected,) = torch.autograd.grad((f * (p - q).square()).sum() / 2, p)
    assert torch.allclose(ewc_steps([p.detach()], [q], [f])[0] * f, expected, atol=1e-6)
    assert float(ewc_steps([q], [q], [f])[0].abs().max()) == 0


def test_losses_of_the_weights_add_up(tmp_path: Path) -> None:
    """Both L_DC and EWC, each with its λ, on the parameters that train and nowhere else."""
    names = ("a", "b", "frozen")
    start = {name: noise(3, seed=k) for k, name in enumerate(names)}
    d, f = ({name: noise(3, seed=10 * m + k) for k, name in enumerate(names)} for m in (1, 2))
    f = {name: tensor.square().bfloat16() for name, tensor in f.items()}
    save_file(d, tmp_path / DIRECTION)
    save_file(f, tmp_path / IMPORTANCE)
    settings: dict[str, Any] = {
        "family": "yolo", "architecture": YOLO11N, "head": "rows", "parts": (),
        "directional": Directional(weight=0.5), "ewc": Ewc(weight=2.0),
        "schedule": micro_schedule(),
    }  # fmt: skip
    parameters = {name: torch.nn.Parameter(tensor + 0.1) for name, tensor in start.items()}
    parameters["frozen"].requires_grad_(False)
    for parameter in parameters.values():
        parameter.grad = torch.ones(3)
    job = Job(phase="increment", **settings)
    for pull in read_pulls(tmp_path, job, parameters.items(), start, torch.device("cpu")):
        pull.add(4.0)
    for name in ("a", "b"):
        p, q = parameters[name].detach(), start[name]
        expected = 1 + 4 * 0.5 * torch.where((p - q) * d[name] < 0, -d[name], 0)
        expected = expected + 4 * 2.0 * f[name].float() * (p - q)
        assert torch.allclose(parameters[name].grad, expected, atol=1e-5), name
    assert torch.equal(parameters["frozen"].grad, torch.ones(3))
    for phase in ("base", "refit"):
        other = Job(phase=phase, **settings)
        assert read_pulls(tmp_path, other, parameters.items(), start, torch.device("cpu")) == []


def test_duet_of_places_looks_at_the_teacher_s_best() -> None:
    ours, theirs = (
        Places(noise(1, 8, 4, seed=s).sigmoid(), noise(1, 2, 8, seed=s + 1)) for s in (1, 5)
    )
    _, box = duet.of_places(ours, theirs, Quantiles(scores=0.75, boxes=1.0))
    best = int(theirs.scores[0].amax(0).argmax())
    assert float(box) == pytest.approx(float((ours.boxes - theirs.boxes).abs().sum(-1)[0, best]))


# ---- configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["yolo", "rtdetr", "dfine"])
def test_every_baseline_is_shipped_for_every_family(family: str) -> None:
    methods = read_strategies(BASELINES, family=family)
    assert [method.name for method in methods] == list(BASELINES)
    forms = {"yolo": {"rows", "towers"}, "rtdetr": {"rows"}, "dfine": {"rows"}}
    assert {method.head for method in methods} == forms[family]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"distill": {"method": "erdd"}}, "did you mean 'erd'"),
        ({"data": "joint-full", "head": "towers"}, "needs head: rows"),
        ({"data": "joint"}, "joint-partial"),
        ({"ewc": {"weight": -1}}, "ewc.weight"),
    ],
)
def test_wrong_methods_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(Strategy, {"name": "x", **wrong}, where="x.yaml")
    assert words in str(caught.value)


def test_what_nobody_labelled_follows_from_the_job() -> None:
    parts = (
        JobPart(increment="a", classes=("cat", "dog")),
        JobPart(increment="b", classes=("bus",)),
    )
    settings: dict[str, Any] = {
        "family": "yolo", "architecture": YOLO11N, "head": "rows", "parts": parts,
        "schedule": micro_schedule(),
    }  # fmt: skip
    assert unlabelled_classes(Job(phase="base", **settings)) == []
    assert unlabelled_classes(Job(phase="increment", **settings)) == [0, 1]
    assert unlabelled_classes(Job(phase="increment", adapts=("dog",), **settings)) == [0, 2]


def test_older_trainings_keep_their_identity() -> None:
    """What came with the baselines must not make results of other methods unknown."""
    job = Job(
        family="yolo", architecture=YOLO11N, head="towers", phase="increment",
        parts=(JobPart(increment="a", classes=("cat",)),), schedule=micro_schedule(),
        distill=Distillation(weight=0.1),
    )  # fmt: skip
    assert not {"pseudo", "ewc", "adapts"} & identity(job).keys()
    assert set(identity(job)["distill"]) == {"weight", "class_quantile", "box_quantile"}
    changed = [
        job.model_copy(update={"distill": Distillation(method="lwf", weight=0.1)}),
        job.model_copy(update={"distill": Distillation(images=0.5, weight=0.1)}),
        job.model_copy(update={"ewc": Ewc(weight=1.0)}),
        job.model_copy(update={"adapts": ("cat",)}),
        job.model_copy(update={"pseudo": PseudoLabels()}),
    ]
    for one, other in itertools.combinations([job, *changed], 2):
        assert identity(one) != identity(other)


# ---- series -----------------------------------------------------------------------------------


def test_pairs_of_a_series_of_new_domains() -> None:
    classes = ("cat", "dog")
    steps = [("day", classes), ("night", classes), ("fog", classes)]
    assert [(p.stage, p.slice) for p in ri_pairs(steps)] == [
        (3, ("day", classes)),
        (3, ("night", classes)),
    ]
    assert gi_pairs(steps) == ()
    assert [p.cell for p in pi_pairs(steps)] == [(2, "night", classes), (3, "fog", classes)]
    assert reference_slices(steps) == (("night", classes), ("fog", classes))


def test_pairs_of_a_series_of_new_classes() -> None:
    steps = [("day", ("cat",)), ("day", ("dog",))]
    assert gi_pairs(steps) == ()
    assert [p.cell for p in ri_pairs(steps)] == [(2, "day", ("cat",))]


def test_new_and_known_classes_together_still_generalise() -> None:
    steps = [("day", ("cat",)), ("night", ("dog",)), ("fog", ("cat", "dog"))]
    asked = {(p.stage, p.domain, p.classes) for p in gi_pairs(steps)}
    assert asked == {
        (2, "day", ("dog",)), (2, "night", ("cat",)), (3, "day", ("dog",)), (3, "night", ("cat",)),
    }  # fmt: skip


@pytest.mark.parametrize(
    "steps",
    [
        [("day", ("cat",)), ("day", ("cat", "dog"))],
        [("day", ("cat",)), ("night", ("cat", "dog"))],
    ],
    ids=["in one domain", "in two"],
)
def test_increments_that_are_neither_are_refused(steps: Any) -> None:
    with pytest.raises(DataError):
        ri_pairs(steps)


def test_joined_slices_count_classes_alike(tmp_path: Path) -> None:
    day, night = (
        make_domain(tmp_path, name, count=6, seed=s) for s, name in enumerate(("day", "night"))
    )
    first, second = train_slice(day, NAMES[:2]), train_slice(night, NAMES[2:3])
    joined = join_slices([first, second], NAMES[:3])
    assert joined.images == (*first.images, *second.images)
    assert {int(i) for ids in joined.class_ids[len(first) :] for i in ids} == {2}
    turned = with_classes(first, (NAMES[2], NAMES[1], NAMES[0]))
    assert [ids.tolist() for ids in turned.class_ids] == [
        (2 - ids).tolist() for ids in first.class_ids
    ]
    again = join_slices([first, first], NAMES[:3])
    assert again.images == first.images
    assert again.sha256 == with_classes(first, NAMES[:3]).sha256
    with pytest.raises(DataError):
        join_slices([], NAMES[:3])


def test_joint_slices_know_partial_and_full_labels(tmp_path: Path) -> None:
    day = make_domain(tmp_path, "day", count=8, seed=1)
    night = make_domain(tmp_path, "night", count=8, seed=2)
    steps = (Increment("a", "day", NAMES[:2], day), Increment("b", "night", NAMES[2:3], night))
    partial, full = (joint_slice(steps, NAMES[:3], full=f) for f in (False, True))
    assert len(partial) == len(train_slice(day, NAMES[:2])) + len(train_slice(night, NAMES[2:3]))
    assert sum(map(len, full.class_ids)) > sum(map(len, partial.class_ids))
    assert sum(map(len, full.class_ids)) == sum(
        len(ids) for data in (day, night) for ids in train_slice(data, NAMES[:3]).class_ids
    )
    again = (steps[0], Increment("b", "day", NAMES[2:3], day))
    shared = joint_slice(again, NAMES[:3], full=False)
    assert len(set(shared.images)) == len(shared.images)


# ---- training ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Setting, Path]]:
    """A series of two increments; trainings stay in this process, a worker costs five seconds."""
    folder = tmp_path_factory.mktemp("baselines")
    steps = tuple(
        Increment(domain, domain, classes, make_domain(folder, domain, count=9, seed=seed))
        for seed, (domain, classes) in enumerate({"day": NAMES[:2], "night": NAMES[2:3]}.items())
    )
    with trained_here() as here:
        made = Setting(
            series=Series("toy", "", steps), family="yolo", architecture=YOLO11N,
            theta_0=StartWeights(theta_0()), schedule=micro_schedule(lr=5e-3, epochs=3), seed=3,
            lab=Lab(folder / "lab", run=here),
        )  # fmt: skip
        yield made, folder


def far(one: DetectorState, other: DetectorState) -> float:
    return math.sqrt(
        sum(float((one.shared[n] - other.shared[n]).square().sum()) for n in one.shared)
    )


def chain(setting: Setting, name: str, **changes: Any) -> list[StageResult]:
    (method,) = read_strategies((name,), family="yolo")
    return run_chain(setting, method.model_copy(update=changes))


@pytest.mark.slow
def test_masked_rows_stay_and_the_trunk_moves(setting: tuple[Setting, Path]) -> None:
    base, last = chain(setting[0], "masked")
    assert far(base.merged, last.merged) > 0
    old, kept = base.merged.parts[0].tensors, last.merged.parts[0].tensors
    assert all(torch.equal(old[name], kept[name]) for name in old)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lwf", "erd"])
def test_distillation_keeps_the_detector_nearer(setting: tuple[Setting, Path], name: str) -> None:
    weak, strong = (
        chain(setting[0], name, distill=Distillation(method=name, weight=weight))
        for weight in (1e-6, 30.0)
    )
    assert {"kd_cls", "kd_box"} <= strong[-1].trained.history[-1].keys()
    assert strong[-1].trained.history[-1]["kd_cls"] < weak[-1].trained.history[-1]["kd_cls"]


@pytest.mark.slow
def test_ewc_holds_back_what_the_old_classes_need(setting: tuple[Setting, Path]) -> None:
    free, held = (chain(setting[0], "ewc", ewc=Ewc(weight=weight)) for weight in (0.0, 1e9))
    fisher = free[0].trained.fisher
    assert fisher is not None

    def moved(results: list[StageResult]) -> float:
        before, after = results[0].merged.shared, results[-1].merged.shared
        return sum(
            float((fisher[n].float() * (after[n] - before[n]).square()).sum()) for n in before
        )

    assert 0 < moved(held) < 0.1 * moved(free)


@pytest.mark.slow
def test_joint_training_starts_anew_on_everything(setting: tuple[Setting, Path]) -> None:
    results = chain(setting[0], "joint-full")
    assert results[-1].merged.labels.names == NAMES[:3]
    assert len(results[-1].merged.parts) == 1
    (method,) = read_strategies(("joint-full",), family="yolo")
    out = setting[1] / "joint"
    keep_chain(out, setting[0], method, results)
    stored = load_detector(out / "models" / "joint-full" / "2-night")
    assert stored.state.labels.names == NAMES[:3]
    assert not (out / "increments").exists()


# ---- known classes in a new domain ------------------------------------------------------------


def in_new_domain(setting: Setting, classes: tuple[str, ...] = NAMES[:2]) -> Setting:
    first, second = setting.series.increments
    again = Increment(second.name, second.domain, classes, second.data)
    return Setting(
        Series("again", "", (first, again)), setting.family, setting.architecture, setting.theta_0,
        setting.schedule, setting.seed, setting.lab,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["duet-plus", "duet", "lwf", "ewc", "seq-ft", "joint-partial"])
def test_the_head_keeps_its_rows(setting: tuple[Setting, Path], name: str) -> None:
    base, last = chain(in_new_domain(setting[0]), name)
    assert last.merged.labels == base.merged.labels
    assert len(last.merged.parts) == 1
    assert far(base.merged, last.merged) > 0
    old, now = base.merged.parts[0].tensors, last.merged.parts[0].tensors
    same = all(torch.equal(old[name], now[name]) for name in old)
    assert same == (name in ("duet-plus", "duet"))
    assert last.refit is None


@pytest.mark.slow
def test_a_frozen_detector_refines_its_rows_there(setting: tuple[Setting, Path]) -> None:
    base, last = chain(in_new_domain(setting[0]), "frozen")
    assert far(base.merged, last.merged) == 0
    old, now = base.merged.parts[0].tensors, last.merged.parts[0].tensors
    rows = {name for name in old if FAMILY.rules.CLASS_ROWS.match(name)}
    assert {name for name in old if not torch.equal(old[name], now[name])} == rows


@pytest.mark.slow
def test_task_vectors_of_new_domains_merge_again(setting: tuple[Setting, Path]) -> None:
    made, out = in_new_domain(setting[0]), setting[1] / "again"
    (method,) = read_strategies(("duet-plus",), family="yolo")
    results = run_chain(made, method)
    keep_chain(out, made, method, results)
    folder = out / "increments" / "duet-plus"
    kept = load_increment(folder / "night")
    assert kept.part is None
    assert (kept.manifest.classes, kept.manifest.adapts) == ((), NAMES[:2])
    start = out / "start.safetensors"
    write_tensors(start, made.theta_0.tensors)
    recipe = Recipe(
        method=method.merge.method, params=method.merge.params, batchnorm=method.batchnorm,
        increments=tuple(Entry(path=str(folder / name)) for name in ("day", "night")),
        weights=str(start),
    )  # fmt: skip
    again = merge_plan(make_plan(recipe))
    assert again.state.labels.names == NAMES[:2]
    for name, tensor in results[-1].merged.shared.items():
        assert torch.allclose(again.state.shared[name], tensor, atol=1e-6), name


@pytest.mark.slow
def test_classes_that_nobody_labelled_there_are_no_background(
    setting: tuple[Setting, Path],
) -> None:
    """Of two known classes one is shown in the new domain: the other takes no part in the loss."""
    made = in_new_domain(setting[0], NAMES[:1])
    base, masked = chain(made, "masked", old_part="trained")
    _, train = chain(made, "seq-ft")
    for result, silent in ((masked, True), (train, False)):
        old, now = (s.merged.parts[0].tensors for s in (base, result))
        rows = [name for name in old if name.endswith(".2.bias")]
        # Weight decay leaves biases alone: a row without a gradient stays.
        still = [bool(torch.allclose(old[n][1], now[n][1], atol=1e-7)) for n in rows]
        assert all(still) == silent, rows


# ---- who can learn known classes, asked before anything is trained -----------------------------


def steps(*classes: tuple[str, ...]) -> list[Increment]:
    """Return increments in one domain each; nobody reads their data."""
    return [
        Increment(f"d{n}", f"d{n}", names, cast("Any", None)) for n, names in enumerate(classes)
    ]


@pytest.mark.parametrize("family", ["rtdetr", "dfine"])
def test_families_whose_loss_takes_all_classes_say_so_at_once(family: str) -> None:
    masked, pseudo = read_strategies(("masked", "pseudo"), family=family)
    some, everything = steps(NAMES[:2], NAMES[:1]), steps(NAMES[:2], NAMES[:2])
    with pytest.raises(ConfigError, match=f"background: {NAMES[1]}; .*'{family}'") as caught:
        require_learnable((pseudo, masked), family, some)
    assert "increment 'd1'" in (caught.value.where or "")
    require_learnable((pseudo,), family, some)
    require_learnable((pseudo, masked), family, everything)
    require_learnable(read_strategies(("masked",), family="yolo"), "yolo", some)


def test_whole_heads_in_parallel_learn_known_classes_only_while_there_is_one() -> None:
    (whole,) = read_strategies(("duet",), family="yolo")
    assert whole.head == "parallel"
    require_learnable((whole,), "yolo", steps(NAMES[:2], NAMES[:2], NAMES[2:3]))
    with pytest.raises(ConfigError, match="trains no head of its own"):
        require_learnable((whole,), "yolo", steps(NAMES[:2], NAMES[2:3], NAMES[:3]))
    joint = read_strategies(("joint-full",), family="yolo")
    require_learnable(joint, "yolo", steps(NAMES[:2], NAMES[2:3], NAMES[:3]))


@pytest.mark.slow
def test_another_order_may_not_mix_new_classes_and_known_ones(
    setting: tuple[Setting, Path],
) -> None:
    """What is in order as written: all classes, then one of them; the other way round is not."""
    first, second = setting[0].series.increments
    again = Increment(second.name, second.domain, first.classes[:1], second.data)
    plan = RunPlan(
        Series("again", "", (first, again)), setting[0].schedule, Path("w"), "yolo11n.yaml", "yolo",
        strategies=read_strategies(("duet-plus",), family="yolo"), seed=0,
        out=setting[1] / "orders",
    )  # fmt: skip
    with pytest.raises(DataError, match="brings new classes and known ones"):
        repeats(plan, seeds=1, orders=2)


def test_pseudo_labels_do_not_go_with_whole_heads() -> None:
    wanted = {"name": "m", "head": "parallel", "old_negatives": "pseudo"}
    with pytest.raises(
        ConfigError, match="needs a head that knows the old classes: rows or towers"
    ):
        parse_config(Strategy, wanted, where="m.yaml")
