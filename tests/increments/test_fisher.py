"""The diagonal Fisher: the right numbers, no effect on training, and safe on disk."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from factories_increments import make_increment, rewrite
from factories_states import moved
from factories_training import settled
from factories_yolo import FORMS, class_groups, make_job, make_slice, make_state, micro_schedule
from safetensors.torch import load_file, save_file
from ultralytics.cfg import get_cfg
from ultralytics.utils.loss import v8DetectionLoss

from duet.errors import ModelError
from duet.families.ultralytics import engine
from duet.families.ultralytics.arguments import engine_overrides
from duet.families.yolo.adapter import FAMILY
from duet.families.yolo.build import training_model
from duet.families.yolo.train import IncrementTrainer
from duet.files import sha256_file
from duet.increments.state import DetectorState
from duet.increments.store import IncrementFile, load_increment, save_increment
from duet.runs.lab import Lab, Trained
from duet.series import Slice
from duet.training.fisher import diagonal_fisher, evenly_spaced
from duet.training.job import read_job, read_state
from duet.vectors.tensors import Tensors

SIZES = (2, 1)
OLD, NEW = class_groups(SIZES)
IMAGES, SIZE = 5, 64
BF16 = 2**-8
"""Relative error of rounding to bfloat16."""


@pytest.fixture(autouse=True)
def _process_state() -> Iterator[None]:
    with settled():
        yield


@pytest.fixture(scope="module")
def new_slice(tmp_path_factory: pytest.TempPathFactory) -> Slice:
    """Return the training data of the second increment."""
    return make_slice(tmp_path_factory.mktemp("new"), NEW, images=IMAGES, seed=2)


def train(folder: Path) -> dict[str, Any]:
    """Run a job here; return its outcome."""
    FAMILY.train(folder, lambda record: None)
    outcome: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    return outcome


def batch_of(data: Slice, index: int) -> dict[str, torch.Tensor]:
    """Load an image and its boxes without the engine's data pipeline."""
    image = cv2.imread(str(data.images[index]))
    height, width = image.shape[:2]
    scale = SIZE / max(height, width)
    size = (min(SIZE, round(width * scale)), min(SIZE, round(height * scale)))
    if size != (width, height):
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    left, top = (round((SIZE - side) / 2 - 0.1) for side in size)
    canvas = np.full((SIZE, SIZE, 3), 114, np.uint8)
    canvas[top : top + size[1], left : left + size[0]] = image
    boxes = torch.tensor(np.asarray(data.boxes[index]), dtype=torch.float32)
    shift = torch.tensor([left / SIZE, top / SIZE, 0, 0])
    boxes = boxes * torch.tensor([size[0], size[1], size[0], size[1]]) / SIZE + shift
    pixels = torch.from_numpy(canvas[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    return {
        "img": pixels,
        "bboxes": boxes,
        "cls": torch.tensor(np.asarray(data.class_ids[index]), dtype=torch.float32)[:, None],
        "batch_idx": torch.zeros(len(boxes)),
    }


def model_of(state: DetectorState, **gains: float) -> Any:
    """Build the training model with the engine's default gains."""
    model = training_model(state, mask_old=True, run_old=False)
    model.args = get_cfg(overrides=gains)
    return model


def explicit(state: DetectorState, data: Slice, chosen: list[int]) -> dict[str, torch.Tensor]:
    """Average squared gradients of the engine's criterion, one image and one backward at a time."""
    model = model_of(state).train()
    for name, module in model.named_modules():
        if name.endswith(".bn"):
            module.eval()
    criterion = v8DetectionLoss(model)
    squares = {name: torch.zeros_like(tensor) for name, tensor in state.shared.items()}
    for index in chosen:
        model.zero_grad()
        batch = batch_of(data, index)
        criterion(model.predict(batch["img"]), batch)[0].sum().backward()
        for name, parameter in model.named_parameters():
            if name in squares and parameter.grad is not None:
                squares[name] += parameter.grad**2 / len(chosen)
    return squares


def close(got: Tensors, expected: Tensors, *, rtol: float) -> None:
    """Compare with the tolerance of each tensor's own scale."""
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        scale = float(tensor.max())
        torch.testing.assert_close(got[name], tensor, rtol=rtol, atol=1e-5 * scale, msg=name)


# ---- the numbers --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_stored_fisher_is_the_mean_of_squared_gradients(
    form: str, new_slice: Slice, tmp_path: Path
) -> None:
    start = make_state(form)
    folder = make_job(tmp_path / "job", start, new_slice, schedule=micro_schedule(fisher_images=3))
    assert train(folder)["fisher_images"] == 3
    trained = read_state(folder / "trained.safetensors")
    expected = explicit(trained, new_slice, [0, 1, 3])
    if form == "towers":  # the shared box tower is frozen in later stages
        for name in expected:
            if name.startswith("model.23.cv2."):
                expected[name].zero_()
    stored = load_file(folder / "fisher.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    got = {name: tensor.float() for name, tensor in stored.items()}
    close(got, expected, rtol=1.5 * BF16)
    assert not got["model.23.dfl.conv.weight"].any()
    assert got["model.0.conv.weight"].any()


def fisher_of(model: Any, names: Any, batches: Any) -> dict[str, torch.Tensor]:
    losses = (functools.partial(lambda one: model(one)[0].sum(), batch) for batch in batches)
    return diagonal_fisher(model, names, losses)


@pytest.mark.slow
def test_one_image_at_a_time_and_scale(new_slice: Slice) -> None:
    """F is additive over images, unlike a batch's squared gradient, and quadratic in the loss."""
    state = make_state("towers")
    batches = [batch_of(new_slice, index) for index in range(3)]
    names = state.shared.keys()
    whole = fisher_of(model_of(state), names, iter(batches))
    single = [fisher_of(model_of(state), names, [batch]) for batch in batches]
    mean = {name: sum(one[name] for one in single) / 3 for name in names}
    close(whole, mean, rtol=1e-5)
    doubled = fisher_of(model_of(state, box=15.0, cls=1.0, dfl=3.0), names, batches)
    close(doubled, {name: 4 * tensor for name, tensor in whole.items()}, rtol=1e-5)


@pytest.mark.slow
def test_statistics_and_weights_stay_untouched(new_slice: Slice) -> None:
    model = model_of(make_state("towers"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batches = [batch_of(new_slice, index) for index in range(2)]
    fisher = fisher_of(model, make_state("towers").shared.keys(), batches)
    assert not moved(before, model.state_dict())
    assert all(bool((tensor >= 0).all()) for tensor in fisher.values())
    assert {tensor.dtype for tensor in fisher.values()} == {torch.float32}
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [(3, 128, [0, 1, 2]), (10, 3, [0, 3, 6]), (4, 4, [0, 1, 2, 3]), (1000, 2, [0, 500])],
)
def test_images_are_spread_over_the_slice(count: int, wanted: int, expected: list[int]) -> None:
    assert evenly_spaced(count, wanted) == expected


# ---- training -----------------------------------------------------------------------------------


@pytest.mark.thorough
def test_training_is_the_same_with_and_without(new_slice: Slice, tmp_path: Path) -> None:
    outcomes = []
    for count in (0, 128):
        schedule = micro_schedule(epochs=2, fisher_images=count)
        folder = make_job(tmp_path / str(count), make_state("rows"), new_slice, schedule=schedule)
        outcomes.append((train(folder), folder))
    (plain, without), (more, with_fisher) = outcomes
    weights = [(f / "trained.safetensors").read_bytes() for f in (without, with_fisher)]
    assert weights[0] == weights[1]
    assert plain["history"] == more["history"]
    assert (plain["fisher_images"], more["fisher_images"]) == (0, IMAGES)
    assert not (without / "fisher.safetensors").exists()
    assert (with_fisher / "fisher.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"phase": "refit"}, {"trunk": "frozen"}], ids=str)
def test_stages_that_keep_the_trunk_have_none(
    settings: dict[str, Any], new_slice: Slice, tmp_path: Path
) -> None:
    folder = make_job(tmp_path / "job", make_state("towers"), new_slice, **settings)
    assert train(folder)["fisher_images"] == 0
    assert not (folder / "fisher.safetensors").exists()


@pytest.mark.thorough
def test_a_stage_killed_in_its_fisher_is_resumed(
    new_slice: Slice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = micro_schedule(epochs=2)
    whole, cut = (
        make_job(tmp_path / name, make_state("rows"), new_slice, schedule=schedule)
        for name in ("whole", "cut")
    )
    train(whole)
    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", lambda *_, **__: (_ for _ in ()).throw(KeyError))
        with pytest.raises(KeyError):
            train(cut)
    assert not (cut / "outcome.json").exists()
    assert not (cut / "fisher.safetensors").exists()
    train(cut)
    for name in ("trained.safetensors", "fisher.safetensors"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()


@pytest.mark.slow
def test_gradients_that_are_not_finite_are_an_error(new_slice: Slice, tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", make_state("rows"), new_slice)
    os.environ["DUET_JOB"] = str(folder)
    engine.set_threads(1)
    trainer = IncrementTrainer(overrides=engine_overrides(read_job(folder), folder))
    trainer._setup_train()
    trainer.epoch = 0
    trainer.args.box = float("nan")
    with pytest.raises(ModelError, match="training diverged in epoch 1: the squared gradients"):
        trainer.final_eval()
    assert not (folder / "outcome.json").exists()


# ---- lab and folders ----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_lab_hands_it_on(new_slice: Slice, tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", run=lambda job, *_: FAMILY.train(job, print))
    start = make_state("rows")
    job = read_job(make_job(tmp_path / "job", start, new_slice))

    def ask() -> Trained:
        return lab.train("title", job, start, new_slice)

    first, again = ask(), ask()
    assert again.reused
    for trained in (first, again):
        assert trained.fisher_images == 2
        assert trained.fisher is not None
        assert trained.fisher.keys() == start.shared.keys()
        assert {tensor.dtype for tensor in trained.fisher.values()} == {torch.bfloat16}
    (path,) = tmp_path.glob("lab/*/fisher.safetensors")
    path.unlink()
    assert not ask().reused
    assert ask().reused


FISHER = {
    "conv.weight": torch.tensor([[1.0, 1e-30], [0.3, 3e30]]),
    "bn.weight": torch.tensor([0.0, 7.0]),
}


def with_fisher(fisher: Tensors | None = FISHER, images: int = 8) -> IncrementFile:
    plain = make_increment()
    manifest = plain.manifest.model_copy(update={"fisher_images": images})
    return dataclasses.replace(plain, manifest=manifest, fisher=fisher)


def test_increment_round_trip(tmp_path: Path) -> None:
    saved = save_increment(tmp_path / "a", with_fisher())
    assert set(saved.files) == {"increment.safetensors", "fisher.safetensors"}
    stored = load_file(tmp_path / "a" / "fisher.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    loaded = load_increment(tmp_path / "a")
    assert loaded.manifest == saved
    assert loaded.fisher is not None
    for name, tensor in FISHER.items():
        torch.testing.assert_close(loaded.fisher[name].float(), tensor, rtol=BF16, atol=0)
    save_increment(tmp_path / "b", loaded)  # rounded once, never again
    files = [tmp_path / folder / "fisher.safetensors" for folder in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_folders_without_a_fisher_are_what_they_were(tmp_path: Path) -> None:
    saved = save_increment(tmp_path / "a", make_increment())
    rewrite(tmp_path / "a", lambda data: data.pop("fisher_images"))  # as an older duet wrote it
    loaded = load_increment(tmp_path / "a")
    assert loaded.fisher is None
    assert loaded.manifest.fingerprint() == saved.fingerprint()
    assert with_fisher().manifest.fingerprint() != make_increment().manifest.fingerprint()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        pytest.param({"fisher": None}, "got no Fisher of 8 images", id="none"),
        pytest.param({"images": 0}, "got a Fisher of 0 images", id="no images"),
        pytest.param(
            {"fisher": {"bn.weight": FISHER["bn.weight"]}}, r"missing: conv\.weight", id="missing"
        ),
        pytest.param({"fisher": FISHER | {"x": torch.ones(1)}}, "unexpected: x", id="unexpected"),
        pytest.param(
            {"fisher": FISHER | {"bn.weight": torch.ones(3)}},
            r"bn\.weight: shape \(3,\), expected \(2,\)",
            id="shape",
        ),
        pytest.param(
            {"fisher": FISHER | {"bn.weight": torch.ones(2).half()}}, "float16", id="type"
        ),
        pytest.param(
            {"fisher": FISHER | {"bn.weight": torch.tensor([1.0, -1e-9])}},
            r"bn\.weight: 1 negative",
            id="negative",
        ),
        pytest.param(
            {"fisher": FISHER | {"bn.weight": torch.tensor([1.0, float("nan")])}},
            r"bn\.weight: 1 of 2",
            id="NaN",
        ),
    ],
)
def test_impossible_fishers_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        with_fisher(**change)


def tensors_path(folder: Path) -> Path:
    return folder / "fisher.safetensors"


def refisher(folder: Path, metadata: dict[str, str] | None = None, **changes: torch.Tensor) -> None:
    """Change the file and its hash, so that only the content can give it away."""
    path = tensors_path(folder)
    tensors = load_file(path)
    known = {"identity": with_fisher().manifest.identity()}
    save_file({**tensors, **changes}, path, known if metadata is None else metadata)
    rewrite(folder, lambda data: data["files"].update({path.name: sha256_file(path)}))


DAMAGES: list[Any] = [
    pytest.param(lambda f: tensors_path(f).unlink(), "is missing", id="missing"),
    pytest.param(
        lambda f: tensors_path(f).write_bytes(tensors_path(f).read_bytes()[:-1]),
        "changed since it was written",
        id="cut",
    ),
    pytest.param(
        lambda f: shutil.copy(f / "increment.safetensors", tensors_path(f)),
        "changed since",
        id="another file",
    ),
    pytest.param(
        lambda f: rewrite(f, lambda d: d.update(fisher_images=0)), "lists the files", id="disowned"
    ),
    pytest.param(
        lambda f: rewrite(f, lambda d: d["files"].pop("fisher.safetensors")),
        "lists the files",
        id="not listed",
    ),
    pytest.param(
        lambda f: refisher(f, **{"bn.weight": torch.tensor([-1.0, 1.0]).bfloat16()}),
        "1 negative values",
        id="negative",
    ),
    pytest.param(
        lambda f: refisher(f, **{"bn.weight": torch.full((2,), torch.nan).bfloat16()}),
        "2 of 2",
        id="NaN",
    ),
    pytest.param(lambda f: refisher(f, x=torch.ones(1)), "unexpected: x", id="unexpected"),
    pytest.param(
        lambda f: refisher(f, {"identity": "x"}),
        "not the one that they were saved with",
        id="another increment's",
    ),
]


@pytest.mark.parametrize(("damage", "match"), DAMAGES)
def test_damaged_fishers_are_refused(
    tmp_path: Path, damage: Callable[[Path], object], match: str
) -> None:
    folder = tmp_path / "comic"
    save_increment(folder, with_fisher())
    damage(folder)
    with pytest.raises(ModelError, match=match) as caught:
        load_increment(folder)
    assert str(folder) in str(caught.value)
    assert caught.value.remedy
