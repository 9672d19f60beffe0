"""RT-DETR: class rows in one decoder, decoders side by side, pseudo-labels, foreign files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from factories_training import settled

from duet.cli.main import cli
from duet.conformance.case import NEW, OLD, Case, squares
from duet.conformance.training import train as run_job
from duet.errors import ModelError
from duet.families.decode import Objects
from duet.families.foreign import family_of_file
from duet.families.opened import ForeignModel
from duet.families.rtdetr import roles
from duet.families.rtdetr.adapter import FAMILY
from duet.families.rtdetr.build import inference_model, stock_model, trained_state, training_model
from duet.families.rtdetr.train import RTDETRStageTrainer
from duet.families.table import family_of
from duet.families.ultralytics import engine
from duet.families.ultralytics.arguments import engine_overrides
from duet.families.ultralytics.data import extend_batch
from duet.increments.state import DetectorState, HeadForm
from duet.series import Annotation, Slice
from duet.training.config import PseudoLabels
from duet.training.job import Job, JobPart, read_job, write_job, write_slice, write_state

TINY = "rtdetr-tiny.yaml"
CASE = Case("rtdetr", TINY)
ARCHITECTURES = (
    TINY, "rtdetr-l.yaml", "rtdetr-x.yaml", "rtdetr-resnet50.yaml", "rtdetr-resnet101.yaml",
    "yolov8n-rtdetr.yaml", "yolov8x-rtdetr.yaml",
)  # fmt: skip
FORMS: tuple[HeadForm, ...] = ("rows", "parallel")


@pytest.fixture(scope="module", autouse=True)
def _process_state() -> Iterator[None]:
    with settled():
        yield


@pytest.fixture(scope="module")
def new_slice(tmp_path_factory: pytest.TempPathFactory) -> Slice:
    return squares(tmp_path_factory.mktemp("toy") / "new", NEW, count=8, size=64)


def ready(folder: Path, start: DetectorState, data: Slice, **settings: Any) -> RTDETRStageTrainer:
    """Set a trainer up as `Family.train` does, at the start of its first epoch."""
    schedule = {
        "epochs": 1, "batch": 4, "image_size": 64, "warmup_epochs": 0, "threads": 1,
        "fisher_images": 0, "augmentation": {"flip": 0.0, "scale": 0.0, "translate": 0.0},
    }  # fmt: skip
    parts = tuple(JobPart(increment=p.increment, classes=p.classes) for p in start.parts)
    job = Job.model_validate(
        {
            "family": "rtdetr", "architecture": TINY, "head": start.head, "parts": parts,
            "phase": "increment", "schedule": schedule, **settings,
        }
    )  # fmt: skip
    folder.mkdir(parents=True)
    write_state(folder / "start.safetensors", start)
    write_slice(folder / "slice.npz", data)
    write_job(folder, job)
    os.environ["DUET_JOB"] = str(folder)
    engine.set_threads(1)
    trainer = RTDETRStageTrainer(overrides=engine_overrides(read_job(folder), folder))
    trainer._setup_train()
    trainer.epoch = 0
    trainer._model_train()
    return trainer


def one_batch(trainer: RTDETRStageTrainer) -> dict[str, Any]:
    batch: dict[str, Any] = trainer.preprocess_batch(next(iter(trainer.train_loader)))
    return batch


# ---- who owns what ------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_splits(architecture: str) -> None:
    assert family_of(architecture) == "rtdetr"
    with torch.device("meta"):
        small, large = (stock_model(architecture, count).state_dict() for count in (6, 8))
    grown = {name for name in small if small[name].shape != large[name].shape}
    prefix = roles.RULES.head_of(architecture)
    layers = 2 if architecture == TINY else 6
    assert len(grown) == 3 + 2 * layers  # 15 in RT-DETR-l, which has six decoder layers
    for form in FORMS:
        split = roles.split_roles(small, form)
        own = {prefix + name for name in split.own}
        assert not own & (split.shared.keys() | split.buffers.keys())
        assert own | split.shared.keys() | split.buffers.keys() == small.keys()
        assert grown <= own
        assert (own == grown) == (form == "rows")
        assert roles.layers(split.shared, architecture).keys() == split.shared.keys()


@pytest.mark.parametrize("name", ["model.24.enc_score_head.weight", "model.3.conv.weight"])
def test_a_tensor_without_a_role_is_named(name: str) -> None:
    tensors = dict(FAMILY.fresh(TINY, OLD, seed=0).tensors)
    head = roles.RULES.head_of(TINY)
    odd = f"{head}mask_head.weight" if "enc" in name else name.replace("weight", "scale")
    with pytest.raises(ModelError, match=rf"{odd}.* has no role"):
        roles.split_roles({**tensors, odd: torch.zeros(2)}, "rows")


@pytest.mark.parametrize("form", FORMS)
def test_a_decoder_without_class_rows_is_refused(form: HeadForm) -> None:
    tensors = FAMILY.fresh(TINY, OLD, seed=0).tensors
    head = roles.RULES.head_of(TINY)
    rest = {k: v for k, v in tensors.items() if not roles.CLASS_ROWS.match(k.removeprefix(head))}
    with pytest.raises(ModelError, match="there are no class rows"):
        roles.split_roles(rest, form)


def test_unknown_architectures_and_forms_are_refused() -> None:
    with pytest.raises(ModelError, match=r"rtdetr-tiny\.yaml"):
        roles.architecture_file("rtdetr-huge.yaml")
    with pytest.raises(ModelError, match="no head form 'towers'"):
        roles.RULES.own_pattern("towers")


def test_fresh_rows_are_quiet_beside_trained_ones() -> None:
    """The engine's own prior for ten classes is a score of 0.36, which would win the queries."""
    state = FAMILY.grow(CASE.start("rows"), classes=NEW, increment="t", seed=0, source=None)
    bias = state.parts[-1].tensors["enc_score_head.bias"]
    assert torch.allclose(bias.sigmoid(), torch.tensor(0.01))


# ---- decoders side by side ----------------------------------------------------------------------


def test_parallel_decoders_keep_the_best_of_all() -> None:
    state = CASE.grown("parallel")
    batch = CASE.batch(3)
    with torch.no_grad():
        joined, raws = inference_model(state)(batch)
        alone = [inference_model(replace(state, parts=(part,)))(batch)[0] for part in state.parts]
    alone[1][..., 5] += len(OLD)
    every = torch.cat(alone, 1)
    assert len(raws) == 2
    for got, candidates in zip(joined, every, strict=True):
        order = candidates[:, 4].argsort(descending=True)[: len(got)]
        assert torch.allclose(got[:, 4], candidates[order, 4])
        assert torch.allclose(got, candidates[order], atol=1e-5)


def test_a_new_decoder_cannot_see_old_classes() -> None:
    with pytest.raises(ModelError, match="their own classes only"):
        training_model(CASE.grown("parallel"), mask_old=False, run_old=False)


# ---- the loss -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("negatives", "moves"), [("mask", False), ("train", True)])
def test_old_rows_see_the_loss_only_without_mask(
    negatives: str, moves: bool, new_slice: Slice, tmp_path: Path
) -> None:
    trainer = ready(tmp_path / "job", CASE.grown("rows"), new_slice, old_negatives=negatives)
    loss, items = trainer.model(one_batch(trainer))
    loss.backward()
    assert set(items) == {"giou_loss", "cls_loss", "l1_loss"}
    head = trainer.model.model[-1]
    for layer in (head.enc_score_head, *head.dec_score_head):
        old, new = layer.weight.grad[: len(OLD)], layer.weight.grad[len(OLD) :]
        assert bool(old.any()) == moves
        assert bool(new.any())


@pytest.mark.slow
def test_labels_count_from_the_first_class_in_the_loss(new_slice: Slice, tmp_path: Path) -> None:
    masked = ready(tmp_path / "a", CASE.grown("rows"), new_slice, old_negatives="mask")
    whole = ready(tmp_path / "b", CASE.grown("rows"), new_slice, old_negatives="train")
    for trainer, expected in ((masked, {0.0, 1.0}), (whole, {3.0, 4.0})):
        seen = [trainer.preprocess_batch(batch)["cls"] for batch in trainer.train_loader]
        assert set(torch.cat(seen).flatten().tolist()) == expected
    assert (masked.model.nc, whole.model.nc) == (2, 5)


def lively_boxes(state: DetectorState) -> DetectorState:
    """Return the state with boxes that depend on the image: fresh box branches end in zeros."""
    name = "enc_bbox_head.layers.2.weight"
    noise = 0.3 * torch.randn((4, 64), generator=torch.Generator().manual_seed(8))
    if state.head == "rows":
        return replace(state, shared={**state.shared, roles.RULES.head_of(TINY) + name: noise})
    parts = [replace(part, tensors={**part.tensors, name: noise.clone()}) for part in state.parts]
    return replace(state, parts=tuple(parts))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_distillation_is_zero_at_first_and_pulls_back(
    form: HeadForm, new_slice: Slice, tmp_path: Path
) -> None:
    """Student and teacher agree before the first step, BatchNorm apart; later they do not."""
    state = lively_boxes(CASE.grown(form))
    trainer = ready(tmp_path / "job", state, new_slice, distill={"weight": 1.0})
    model, batch = trainer.model, one_batch(trainer)
    for module in model.modules():  # on stored statistics, as the teacher
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    _, items = model(batch)
    assert float(items["kd_cls"]) < 1e-6
    assert float(items["kd_box"]) < 1e-5
    with torch.no_grad():
        for layer in (16, 19, 22):  # the levels that heads read
            model.model[layer].cv2.bn.bias.add_(torch.linspace(-1, 1, 64))
    plain = float(sum(v for k, v in model(batch)[1].items() if "kd" not in k))
    loss, items = model(batch)
    assert float(items["kd_cls"]) > 1e-3
    assert float(items["kd_box"]) > 1e-5
    loss.backward()
    assert bool(model.model[0].conv.weight.grad.any())
    assert plain > 0
    assert all(p.grad is None for p in trainer.teacher.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_first_images_alone_are_distilled(
    form: HeadForm, new_slice: Slice, tmp_path: Path
) -> None:
    images = torch.rand((4, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    found, seen = [], []
    for share in (0.5, 1.0):
        trainer = ready(
            tmp_path / str(share), lively_boxes(CASE.grown(form)), new_slice,
            distill={"weight": 1.0, "images": share},
        )  # fmt: skip
        model = trainer.model
        for module in model.modules():  # on stored statistics no image depends on another
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        with torch.no_grad():
            for layer in (16, 19, 22):  # the levels that heads read
                model.model[layer].cv2.bn.bias.add_(torch.linspace(-1, 1, 64))
        trainer.teacher.network.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
        batch = images if share < 1 else images[:2]
        model(batch)
        found.append(torch.stack(trainer.distillation(model, batch)))
    assert bool((found[0] > 0).all())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
    assert seen == [2, 2]


@pytest.mark.slow
def test_the_loss_counts_per_image(new_slice: Slice, tmp_path: Path) -> None:
    """RT-DETR's loss is a mean over images, unlike YOLO's sum: the weights of ours follow."""
    trainer = ready(tmp_path / "job", CASE.grown("rows"), new_slice)
    assert trainer.per_image(7) == 1


@pytest.mark.slow
def test_mixed_precision_is_off_unless_asked_for(new_slice: Slice, tmp_path: Path) -> None:
    trainer = ready(tmp_path / "job", CASE.grown("rows"), new_slice)
    assert trainer.args.amp is False


def test_images_fill_the_square(tmp_path: Path) -> None:
    """Trained as it predicts: stretched, not letterboxed."""
    from PIL import Image

    image = np.full((40, 80, 3), 200, np.uint8)
    Image.fromarray(image).save(tmp_path / "wide.png")
    labelled = Annotation(np.array([0]), np.array([[0.5, 0.5, 0.5, 0.5]]), 80, 40)
    data = Slice("d", "train", NEW, (tmp_path / "wide.png",), (labelled,))
    trainer = ready(tmp_path / "job", CASE.grown("rows"), data)
    item = trainer.build_dataset("slice", mode="val", batch=1)[0]
    assert item["img"].shape[1:] == (64, 64)
    assert int(item["img"].min()) > 190  # no grey border
    assert torch.allclose(item["bboxes"], torch.tensor([[0.5, 0.5, 0.5, 0.5]]), atol=1e-3)


# ---- pseudo-labels ------------------------------------------------------------------------------


def objects(*rows: tuple[float, float, float, float, float, int]) -> Objects:
    found = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return found[:, :4], found[:, 4], found[:, 5].long()


def test_found_objects_join_the_labels() -> None:
    batch = {
        "cls": torch.tensor([[3.0], [4.0]]),
        "bboxes": torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 0.2, 0.2]]),
        "batch_idx": torch.tensor([0.0, 2.0]),
    }
    found = [
        objects((0, 0, 50, 50, 0.9, 1), (60, 60, 90, 90, 0.8, 0)),  # on the label; elsewhere
        objects((-20, 10, 40, 50, 0.7, 2), (0, 0, 9, 9, 0.2, 2)),  # leaves the image; unsure
        objects(),
    ]
    extend_batch(batch, found, PseudoLabels(confidence=0.4, iou=0.5), range(3), size=100)
    assert batch["batch_idx"].tolist() == [0, 0, 1, 2]
    assert batch["cls"].flatten().tolist() == [3, 0, 2, 4]
    expected = [[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.3, 0.3], [0.2, 0.3, 0.4, 0.4]]
    assert torch.allclose(batch["bboxes"][:3], torch.tensor(expected))
    assert batch["cls"].dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.4, 1.0])
def test_the_previous_detector_labels_old_objects(
    confidence: float, new_slice: Slice, tmp_path: Path
) -> None:
    state = CASE.grown("rows")
    loud = dict(state.parts[0].tensors)
    for name in loud:
        if name.startswith("dec_score_head") and name.endswith("bias"):
            loud[name] = loud[name] + torch.tensor([8.0, 0.0, 0.0])  # "red" everywhere
    state = replace(state, parts=(replace(state.parts[0], tensors=loud), state.parts[1]))
    trainer = ready(
        tmp_path / "job", state, new_slice, old_negatives="pseudo",
        pseudo={"confidence": confidence, "iou": 0.5},
    )  # fmt: skip
    assert not trainer._cut_old()
    classes = one_batch(trainer)["cls"].flatten().tolist()
    assert classes.count(OLD.index("red")) == 0 if confidence == 1.0 else classes.count(0) > 4
    assert sum(value >= len(OLD) for value in classes) == 4


@pytest.mark.slow
def test_a_refit_has_no_use_for_them(new_slice: Slice, tmp_path: Path) -> None:
    trainer = ready(
        tmp_path / "job", CASE.grown("rows"), new_slice, phase="refit", old_negatives="pseudo",
        pseudo={"confidence": 0.1},
    )  # fmt: skip
    assert trainer._cut_old()
    assert trainer.teacher is None


# ---- what moves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_untrained_models_read_back_to_the_bit(form: HeadForm) -> None:
    start = CASE.grown(form)
    back = trained_state(training_model(start, mask_old=True, run_old=True), start)
    assert back.fingerprint() == start.fingerprint()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("settings", "shared", "old"),
    [
        ({}, True, False),
        ({"phase": "refit"}, False, False),
        ({"trunk": "frozen"}, False, False),
        ({"old_part": "trained", "old_negatives": "train"}, True, True),
    ],
    ids=["increment", "refit", "frozen", "fine-tuning"],
)
def test_exactly_these_parts_move(
    form: HeadForm, settings: dict[str, Any], shared: bool, old: bool, new_slice: Slice,
    tmp_path: Path,
) -> None:  # fmt: skip
    if form == "parallel" and old:
        pytest.skip("old decoders are their own: they do not take part in a new one's loss")
    start = CASE.grown(form)
    after = run_job(
        CASE, tmp_path / "job", start, new_slice, epochs=1, **{"phase": "increment", **settings}
    )
    before, now = start.to_tensors(), after.to_tensors()
    moved = {name for name in before if not torch.equal(before[name], now[name])}
    assert any(name.startswith("shared/") for name in moved) == shared
    assert any(name.startswith("part/0/") for name in moved) == old
    assert any(name.startswith("part/1/") for name in moved)


# ---- files of the engine ------------------------------------------------------------------------


def stored(path: Path, classes: tuple[str, ...], seed: int = 0) -> Path:
    """Save a detector as Ultralytics does: the module, float16."""
    torch.manual_seed(seed)
    model = stock_model("yolov8n-rtdetr.yaml", len(classes)).half()
    model.names, model.args = dict(enumerate(classes)), {}
    content = {"model": model, "ema": None, "train_args": {"imgsz": 96, "model": "rtdetr-l.pt"}}
    torch.save(content, path)
    return path


@pytest.mark.slow
def test_two_files_merge_and_predict(tmp_path: Path) -> None:
    one, two = stored(tmp_path / "a.pt", OLD), stored(tmp_path / "b.pt", NEW, seed=1)
    assert family_of_file(ForeignModel(one)) == "rtdetr"
    state, facts = FAMILY.foreign(ForeignModel(one), name="a")
    assert (state.architecture, state.head, state.labels.names) == (
        "yolov8n-rtdetr.yaml", "rows", OLD,
    )  # fmt: skip
    assert facts["image_size"] == 96
    run = CliRunner().invoke(cli, ["merge", str(one), str(two), "--out", str(tmp_path / "m")])
    assert run.exit_code == 0, run.output
    from duet.increments.store import load_detector

    merged = load_detector(tmp_path / "m").state
    assert (merged.family, merged.head, merged.labels.names) == ("rtdetr", "rows", OLD + NEW)
    both = [FAMILY.foreign(ForeignModel(path), name=path.stem)[0].shared for path in (one, two)]
    name = "model.0.conv.weight"
    assert torch.allclose(merged.shared[name], (both[0][name] + both[1][name]) / 2, atol=1e-6)


def test_a_yolo_file_is_not_an_rtdetr(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolo11n.yaml", nc=2, verbose=False).half()
    model.names = {0: "a", 1: "b"}
    torch.save({"model": model, "train_args": {}}, tmp_path / "y.pt")
    assert family_of_file(ForeignModel(tmp_path / "y.pt")) == "yolo"
    with pytest.raises(ModelError, match="expected an RT-DETR"):
        FAMILY.foreign(ForeignModel(tmp_path / "y.pt"), name="y")


def test_class_rows_of_start_weights_are_found_by_name(tmp_path: Path) -> None:
    """θ_0 from a `.pt`: 'Couch' means 'sofa', its row is taken over."""
    start = FAMILY.weights(stored(tmp_path / "a.pt", ("couch", "cat")))
    state = FAMILY.start_state(
        start, architecture="yolov8n-rtdetr.yaml", head="rows", classes=("dog", "sofa"),
        increment="base", seed=0,
    )  # fmt: skip
    head = roles.RULES.head_of("yolov8n-rtdetr.yaml")
    rows = state.parts[0].tensors["dec_score_head.5.weight"]
    assert torch.equal(rows[1], start.tensors[f"{head}dec_score_head.5.weight"][0])
