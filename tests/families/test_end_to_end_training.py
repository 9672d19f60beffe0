"""Trainings of end-to-end heads (v10, 26), of a second each: what moves, losses, resuming."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from factories_heads import YOLO26N, YOLOV10N, lively
from factories_states import moved
from factories_trainer import InterruptionError, backward, ready, silent, stop_in_epoch
from factories_training import settled
from factories_yolo import YOLO11N, class_groups, make_job, make_slice, make_state, micro_schedule

from duet.families.ultralytics import data
from duet.families.ultralytics.arguments import restore_frozen
from duet.families.yolo.adapter import FAMILY
from duet.families.yolo.build import inference_model, trained_state
from duet.families.yolo.roles import RULES
from duet.increments.state import DetectorState
from duet.series import Slice
from duet.training.config import Distillation, PseudoLabels
from duet.training.job import read_state
from duet.training.losses.distillation.duet import box_distillation
from duet.vectors.tensors import Tensors

pytestmark = pytest.mark.slow

SIZES = (2, 1)
OLD, NEW = class_groups(SIZES)
IMAGES = 8
PSEUDO = {"old_negatives": "pseudo", "pseudo": PseudoLabels(confidence=0.05)}


@pytest.fixture(autouse=True)
def _process_state() -> Iterator[None]:
    with settled():
        yield


@pytest.fixture(scope="module")
def new_slice(tmp_path_factory: pytest.TempPathFactory) -> Slice:
    """Return the training data of the second increment."""
    return make_slice(tmp_path_factory.mktemp("new"), NEW, images=IMAGES, seed=2)


# ---- what moves and what must not ---------------------------------------------------------------


def groups(state: DetectorState) -> dict[str, Tensors]:
    """Sort all tensors of a state by what they do; `1:1` marks the one-to-one branch."""
    prefix = RULES.head_of(state.architecture)
    stock = {**state.shared, **state.buffers}
    stock |= {prefix + name: tensor for name, tensor in state.parts[-1].tensors.items()}
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in stock.items():
        local = name.removeprefix(prefix)
        kind = "trunk"
        if local != name:
            branch = "1:1 " if local.startswith("one2one_") else ""
            layer = local.removeprefix("one2one_").split(".")
            rows = layer[0] == "cv3" and layer[2] == "2"
            kind = {"cv2": "box", "cv3": "rows" if rows else "tower", "dfl": "dfl"}[layer[0]]
            kind = branch + kind
        found.setdefault(kind, {})[name] = tensor
    for part in state.parts[:-1]:
        for name, tensor in part.tensors.items():
            kind = "1:1 old" if name.startswith("one2one_") else "old"
            found.setdefault(kind, {})[f"{part.increment}/{name}"] = tensor
    return found


def moved_groups(before: DetectorState, after: DetectorState) -> set[str]:
    was, now = groups(before), groups(after)
    return {kind for kind in was if moved(was[kind], now[kind])}


def both(*kinds: str) -> set[str]:
    return {*kinds, *(f"1:1 {kind}" for kind in kinds)}


TRUNK = {"trunk"}
FREE = {"old_part": "trained", "old_negatives": "train"}


@pytest.mark.parametrize(
    ("architecture", "form", "settings", "expected"),
    [
        pytest.param(YOLO26N, "rows", {}, TRUNK | both("box", "tower", "rows"), id="26, rows"),
        pytest.param(
            YOLO26N,
            "towers",
            {},
            TRUNK | both("tower", "rows"),
            id="26, towers",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            YOLOV10N, "parallel", {}, TRUNK | both("box", "tower", "rows"), id="v10, parallel"
        ),
        pytest.param(YOLOV10N, "rows", {"phase": "refit"}, both("rows"), id="v10, rows, re-fit"),
        pytest.param(
            YOLO26N,
            "rows",
            FREE,
            TRUNK | both("box", "tower", "rows", "old"),
            id="26, fine-tuning",
            marks=pytest.mark.thorough,
        ),
        pytest.param(YOLOV10N, "towers", PSEUDO, TRUNK | both("tower", "rows"), id="v10, pseudo"),
    ],
)
def test_exactly_these_tensors_move(
    architecture: str, form: str, settings: dict[str, Any], expected: set[str],
    new_slice: Slice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    start = make_state(form, SIZES, architecture=architecture)
    increment = settings.get("phase") != "refit"
    folder = make_job(
        tmp_path / "job", start, new_slice,
        distill=Distillation(weight=0.1) if increment else None, **settings,
    )  # fmt: skip
    trainer = ready(folder)
    monkeypatch.setattr(trainer, "_setup_train", lambda: None)
    trainer._do_train()
    assert moved_groups(start, trained_state(trainer.model, start)) == expected
    ema = trained_state(trainer.ema.ema, start)
    assert moved_groups(start, restore_frozen(ema, start, trainer.job, trainer.held)) == expected
    assert moved_groups(start, read_state(folder / "trained.safetensors")) == expected


# ---- the weights of the branches, and resuming --------------------------------------------------


@pytest.mark.thorough
def test_resuming_gives_the_same_bytes(new_slice: Slice, tmp_path: Path) -> None:
    start = make_state("towers", SIZES, architecture=YOLO26N)
    folders = [
        make_job(
            tmp_path / name, start, new_slice, distill=Distillation(weight=0.1),
            schedule=micro_schedule(epochs=3),
        )
        for name in ("whole", "cut")
    ]  # fmt: skip
    FAMILY.train(folders[0], silent)
    with pytest.raises(InterruptionError):
        FAMILY.train(folders[1], stop_in_epoch(3))
    FAMILY.train(folders[1], silent)
    whole, cut = ((folder / "trained.safetensors").read_bytes() for folder in folders)
    assert whole == cut


def test_weight_goes_from_one_branch_to_the_other(new_slice: Slice, tmp_path: Path) -> None:
    start = make_state("towers", SIZES, architecture=YOLO26N)
    schedule = micro_schedule(epochs=4)
    trainer = ready(make_job(tmp_path / "job", start, new_slice, schedule=schedule))
    seen = []
    for epoch in (0, 1, 3, 2):  # a resumed run enters any epoch first
        trainer.epoch = epoch
        if epoch == 3:
            trainer.model.criterion = None
        trainer._model_train()
        backward(trainer)
        criterion = trainer.model.criterion
        seen.append((round(criterion.o2m, 6), round(criterion.o2o, 6)))
    assert seen == [
        (0.8, 0.2), (pytest.approx(0.566667), pytest.approx(0.433333)),
        (0.1, 0.9), (pytest.approx(0.333333), pytest.approx(0.666667)),
    ]  # fmt: skip


# ---- distillation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "form", "settings", "apart"),
    [
        pytest.param(YOLO26N, "rows", {}, True, id="26, rows"),
        pytest.param(YOLOV10N, "rows", {}, True, id="v10, rows"),
        pytest.param(YOLO26N, "towers", {}, False, id="26, towers"),
        pytest.param(YOLO26N, "parallel", {}, False, id="26, parallel"),
        pytest.param(YOLOV10N, "parallel", {"old_part": "trained"}, True, id="v10, old trained"),
    ],
)
def test_distillation_reaches_what_can_learn(
    architecture: str, form: str, settings: dict[str, Any], apart: bool,
    new_slice: Slice, tmp_path: Path,
) -> None:  # fmt: skip
    folder = make_job(
        tmp_path / "job", lively(form, SIZES, architecture), new_slice,
        distill=Distillation(weight=1), **settings,
    )  # fmt: skip
    trainer = ready(folder)
    batch = trainer.preprocess_batch(next(iter(trainer.train_loader)))
    model = trainer.model
    model(batch)
    cls, box = trainer.distillation(model, batch["img"])
    assert cls > 0
    assert box > 0
    (cls + box).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert "model.0.conv.weight" in reached
    assert any("one2one" in name for name in reached) == apart
    if form == "rows":
        assert any(".one2one_cv2.0.0" in name for name in reached)
        assert any(".one2one_cv3.0.0" in name for name in reached)


@pytest.mark.parametrize(
    ("architecture", "form", "settings", "looked_at"),
    [
        pytest.param(YOLO11N, "rows", {}, 2, id="rows"),
        pytest.param(YOLO11N, "towers", {}, 2, id="towers"),
        pytest.param(YOLO11N, "parallel", {}, 2, id="parallel"),
        pytest.param(YOLO26N, "rows", {}, 2, id="26, rows"),
        pytest.param(YOLO11N, "towers", {"old_negatives": "train"}, 2, id="towers, all trained"),
        pytest.param(YOLO11N, "towers", PSEUDO, 4, id="towers, pseudo-labels"),
    ],
)
@pytest.mark.parametrize("method", ["duet", "erd"])
def test_the_first_images_alone_are_distilled(
    method: str, architecture: str, form: str, settings: dict[str, Any], looked_at: int,
    new_slice: Slice, tmp_path: Path,
) -> None:  # fmt: skip
    images = torch.rand((4, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    found, seen = [], []
    for share in (0.5, 1.0):
        choice = Distillation(method=method, weight=1, images=share)
        start = lively(form, SIZES, architecture)
        folder = make_job(tmp_path / str(share), start, new_slice, distill=choice, **settings)
        trainer = ready(folder)
        model = trainer.model
        for module in model.modules():  # on stored statistics no image depends on another
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        with torch.no_grad():
            for level in model.model[-1].f:
                bias = model.model[level].cv2.bn.bias
                bias.add_(torch.linspace(-1, 1, len(bias)))
        trainer.teacher.network.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
        batch = images if share < 1 else images[:2]
        if trainer.job.pseudo is not None:
            trainer.teacher(batch)  # as `preprocess_batch` does
        model(batch)
        found.append(torch.stack(trainer.distillation(model, batch)))
    assert float(found[0][0]) > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
    assert seen == [looked_at, 2]


def test_teacher_answers_with_both_branches(new_slice: Slice, tmp_path: Path) -> None:
    start = lively("towers", SIZES)
    folder = make_job(
        tmp_path / "job", start, new_slice, distill=Distillation(weight=1),
        old_negatives="pseudo", pseudo=PseudoLabels(),
    )  # fmt: skip
    trainer = ready(folder)
    assert trainer.layout == "picked"
    x = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    picked, raw = trainer.teacher(x)
    with torch.no_grad():
        objects, unfolded = inference_model(replace(start, parts=start.parts[:1]))(x)
    assert picked.shape == objects.shape == (2, 84, 6)
    assert torch.allclose(picked[..., 4], objects[..., 4], atol=1e-3)  # equals may change places
    for branch in ("one2many", "one2one"):
        for kind in ("boxes", "scores"):
            ours, theirs = raw["parts"][0][branch][kind], unfolded[branch][kind]
            assert torch.allclose(ours, theirs, atol=1e-3)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in trainer.teacher.modules())


def bell(sides_BSA: torch.Tensor, deviation: float) -> torch.Tensor:
    """Return DFL logits ``(B, 16 S, A)`` whose softmax is a normal distribution per side."""
    distance = torch.arange(16.0).view(1, 1, 16, 1) - sides_BSA[:, :, None]
    return (-(distance**2) / (2 * deviation**2)).flatten(1, 2)


def test_sides_without_bins_weigh_like_narrow_bins() -> None:
    """(s - t)² is the KL of normal distributions of variance 1/2 around the sides."""
    generator = torch.Generator().manual_seed(0)
    teacher = 5 + 3 * torch.rand((2, 4, 9), generator=generator)
    student = teacher + 0.8 * torch.rand(teacher.shape, generator=generator)
    plain = box_distillation(student, teacher, 1, 1.0)
    spread = 0.5**0.5
    binned = box_distillation(bell(student, spread), bell(teacher, spread), 16, 1.0)
    assert plain.item() == pytest.approx((student - teacher).square().mean().item(), rel=1e-5)
    assert plain.item() == pytest.approx(binned.item(), rel=0.02)


def test_gradient_of_sides_without_bins() -> None:
    teacher = torch.tensor([[[1.0, -0.5], [2, -0.5], [3, 0], [4, 0]]])  # sides may be negative
    student = (teacher + torch.tensor([[[1.0], [-2], [0], [0.5]]])).requires_grad_()
    box_distillation(student, teacher, 1, 0.0).backward()
    # The anchor whose sides differ least alone, the mean over its sides.
    expected = torch.tensor([[[0.0, 0.5], [0, -1], [0, 0], [0, 0.25]]])
    assert student.grad is not None
    assert torch.allclose(student.grad, expected)


# ---- pseudo labels ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "architecture"),
    [("rows", YOLO26N), ("towers", YOLOV10N), ("rows", "yolo11n.yaml"), ("towers", "yolo11n.yaml")],
)
def test_previous_detector_labels_old_objects(
    form: str, architecture: str, new_slice: Slice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = lively(form, SIZES, architecture)
    folder = make_job(tmp_path / "job", start, new_slice, **PSEUDO)
    trainer = ready(folder)
    plain = next(iter(trainer.train_loader))
    labels = len(plain["cls"])
    seen: list[Any] = []
    extend = data.extend_batch

    def spy(batch: dict[str, Any], found: Any, *rest: Any, **options: Any) -> None:
        seen.extend(found)
        extend(batch, found, *rest, **options)

    monkeypatch.setattr("duet.families.ultralytics.train.extend_batch", spy)
    batch = trainer.preprocess_batch(plain)
    assert trainer.layout == ("anchors" if architecture == "yolo11n.yaml" else "picked")
    assert len(batch["cls"]) > labels
    assert set(batch["cls"].flatten().tolist()) <= {0, 1, 2}
    assert (batch["cls"] == 2).sum() == labels  # the slice's class comes after the old ones
    assert (batch["batch_idx"].diff() >= 0).all()
    assert ((batch["bboxes"] >= 0) & (batch["bboxes"] <= 1)).all()
    for boxes, scores, ids in seen:
        assert len(boxes) <= 100
        assert (scores > 0.05).all()
        assert set(ids.tolist()) <= {0, 1}
    loss, _ = trainer.model(batch)
    loss.sum().backward()
    assert trainer.model.model[0].conv.weight.grad.any()
