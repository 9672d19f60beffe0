"""The plain training loop on a toy network: what every family gets from it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories_toy import (
    ToyLearner,
    make_job,
    schedule,
    start_state,
    stop_after,
)
from factories_toy import data as data
from safetensors.torch import load_file, save_file
from torch import nn

from duet.errors import ConfigError, DuetError, ModelError
from duet.families.detector import prepare_batch
from duet.images import Fit, fit_image, read_image
from duet.increments.state import DetectorState
from duet.series import Slice
from duet.training.batches import EpochOrder, SquareImages, collate, loader, to_device
from duet.training.checkpoint import CHECKPOINT
from duet.training.config import Directional
from duet.training.ema import Ema
from duet.training.job import (
    Job,
    JobPart,
    read_job,
    read_slice,
    read_state,
    write_job,
    write_slice,
)
from duet.training.loop import require_trainable, run_job
from duet.training.optimizer import learning_rate
from duet.training.pseudo import Target
from duet.training.schedule import Augmentation
from duet.training.seen import Seen


def trained(folder: Path, build: Any = ToyLearner) -> DetectorState:
    run_job(folder, build, lambda record: None)
    return read_state(folder / "trained.safetensors")


def moved(one: DetectorState, other: DetectorState) -> set[str]:
    before, after = one.to_tensors(), other.to_tensors()
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


# ---- the result -------------------------------------------------------------------------------


def test_a_finished_job_leaves_its_files(tmp_path: Path, data: Slice) -> None:
    folder = make_job(tmp_path / "job", data, schedule=schedule(fisher_images=4))
    records: list[dict[str, Any]] = []
    run_job(folder, ToyLearner, records.append)
    outcome = json.loads((folder / "outcome.json").read_text())
    assert outcome["images_seen"] == 30
    assert outcome["fisher_images"] == 4
    assert [set(epoch) for epoch in outcome["history"]] == [{"cls"}] * 3
    assert outcome["history"][-1]["cls"] < outcome["history"][0]["cls"]
    assert not (folder / CHECKPOINT).exists()
    assert [record["done"] for record in records] == list(range(1, 10))
    assert {record["total"] for record in records} == {9}
    assert [record["epoch"] for record in records] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    fisher = load_file(folder / "fisher.safetensors")
    assert fisher.keys() == start_state().shared.keys()
    assert all(bool((tensor >= 0).all()) for tensor in fisher.values())
    assert bool(fisher["conv.weight"].any())


def test_old_rows_stay_bit_for_bit(tmp_path: Path, data: Slice) -> None:
    changed = moved(start_state(), trained(make_job(tmp_path / "job", data)))
    assert not [name for name in changed if name.startswith("part/0/")]
    assert {"shared/conv.weight", "buffers/bn.running_mean", "part/1/row.weight"} <= changed


def test_old_rows_train_where_they_may(tmp_path: Path, data: Slice) -> None:
    after = trained(make_job(tmp_path / "job", data, old_part="trained"))
    assert {"part/0/row.weight", "part/0/row.bias"} <= moved(start_state(), after)


@pytest.mark.parametrize("settings", [{"phase": "refit"}, {"trunk": "frozen"}], ids=str)
def test_a_frozen_trunk_stays_bit_for_bit(
    tmp_path: Path, data: Slice, settings: dict[str, Any]
) -> None:
    folder = make_job(tmp_path / "job", data, schedule=schedule(fisher_images=2), **settings)
    assert moved(start_state(), trained(folder)) == {"part/1/row.weight", "part/1/row.bias"}
    assert json.loads((folder / "outcome.json").read_text())["fisher_images"] == 0


# ---- resuming ---------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_a_killed_job_ends_in_the_same_bits(tmp_path: Path, data: Slice, optimizer: str) -> None:
    settings = {"schedule": schedule(optimizer=optimizer, decay="one-cycle", warmup_epochs=1)}
    straight, struck = (make_job(tmp_path / name, data, **settings) for name in ("one", "two"))
    expected = trained(straight)
    for steps in (4, 8):  # in the second epoch, then in the third
        with pytest.raises(KeyboardInterrupt):
            run_job(struck, ToyLearner, stop_after(steps))
    assert (struck / CHECKPOINT).exists()
    assert trained(struck).fingerprint() == expected.fingerprint()
    outcomes = [json.loads((one / "outcome.json").read_text()) for one in (straight, struck)]
    assert outcomes[0]["history"] == outcomes[1]["history"]
    assert outcomes[0]["images_seen"] == outcomes[1]["images_seen"]


def test_another_seed_is_another_training(tmp_path: Path, data: Slice) -> None:
    one, other = (trained(make_job(tmp_path / str(seed), data, seed=seed)) for seed in (0, 1))
    assert one.fingerprint() != other.fingerprint()


def test_foreign_checkpoints_are_refused(tmp_path: Path, data: Slice) -> None:
    folder = make_job(tmp_path / "job", data)
    with pytest.raises(KeyboardInterrupt):
        run_job(folder, ToyLearner, stop_after(4))
    write_job(folder, read_job(folder).model_copy(update={"seed": 9}))
    with pytest.raises(ModelError, match="another job"):
        trained(folder)
    (folder / CHECKPOINT).write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="cannot be read"):
        trained(folder)


# ---- the extra gradient, accumulation, divergence ---------------------------------------------


def test_directional_loss_holds_the_direction(tmp_path: Path, data: Slice) -> None:
    start = start_state()
    free = trained(make_job(tmp_path / "free", data))
    step = {name: free.shared[name] - start.shared[name] for name in start.shared}
    held = make_job(tmp_path / "held", data, directional=Directional(weight=100.0))
    save_file({name: -tensor for name, tensor in step.items()}, held / "direction.safetensors")
    state = trained(held)
    # The previous stage moved the other way: most scalars may not go where they went freely.
    went = sum(float((free.shared[k] - start.shared[k]).abs().sum()) for k in step)
    against = sum(
        float(((state.shared[k] - start.shared[k]) * step[k].sign()).clamp(min=0).sum())
        for k in step
    )
    assert against < 0.5 * went


class Plain(ToyLearner):
    """Without BatchNorm and noise: the loss of a step is the mean of its images' losses."""

    def losses(self, images: torch.Tensor, targets: Sequence[Target]) -> dict[str, torch.Tensor]:
        features = self.module["conv"](images).mean((2, 3))
        wanted = images.mean((1, 2, 3))[:, None]
        return {"cls": (self.module["row"](features) - wanted).square().mean()}


def test_accumulated_steps_are_one_large_step(tmp_path: Path, data: Slice) -> None:
    large = make_job(tmp_path / "large", data, schedule=schedule(batch=10, optimizer="SGD"))
    small = schedule(batch=5, accumulate=2, optimizer="SGD")
    one, other = (
        trained(large, Plain),
        trained(make_job(tmp_path / "small", data, schedule=small), Plain),
    )
    for name, tensor in one.to_tensors().items():
        torch.testing.assert_close(other.to_tensors()[name], tensor, rtol=1e-4, atol=1e-6)


def test_divergence_is_told(tmp_path: Path, data: Slice) -> None:
    start = start_state()
    start = replace(
        start, shared={**start.shared, "conv.weight": start.shared["conv.weight"] * 1e30}
    )
    with pytest.raises(ModelError, match=r"diverged in epoch 1: the loss is (inf|nan)"):
        trained(make_job(tmp_path / "job", data, start), Plain)


# ---- parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [("0,1", "one device"), ("toaster", "no device"), ("97", "no GPU|no cuda:97")],
)
def test_devices_that_are_refused(tmp_path: Path, data: Slice, name: str, words: str) -> None:
    device = schedule().model_copy(update={"device": name})  # as somebody may write into job.json
    folder = make_job(tmp_path / "job", data, schedule=device)
    with pytest.raises(ConfigError, match=words):
        trained(folder)


def test_ranks_are_refused(tmp_path: Path, data: Slice) -> None:
    folder = make_job(tmp_path / "job", data, schedule=schedule(ranks=2, batch=2))
    words = "trains in one process, got 2 ranks"
    with pytest.raises(ConfigError, match=words):
        require_trainable(read_job(folder))
    with pytest.raises(ConfigError, match=words):
        trained(folder)


@pytest.mark.parametrize("name", ["mosaic", "mixup"])
def test_unknown_augmentation_is_refused(tmp_path: Path, data: Slice, name: str) -> None:
    folder = make_job(
        tmp_path / "job", data, schedule=schedule(augmentation=Augmentation(**{name: 0.5}))
    )
    with pytest.raises(DuetError, match=f"without {name}"):
        trained(folder)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"decay": "linear"}, [1.0, 0.7525, 0.505, 0.2575]),
        ({"decay": "one-cycle"}, [1.0, 0.855018, 0.505, 0.154982]),
        ({"decay": "linear", "warmup_epochs": 1}, [0.5, 0.7525, 0.505, 0.2575]),
    ],
    ids=["linear", "one-cycle", "warm-up"],
)
def test_learning_rate(settings: dict[str, Any], expected: list[float]) -> None:
    parts = (JobPart(increment="t", classes=("a",)),)
    plan = schedule(epochs=2, lr=1e-2, final_lr=0.01, **settings)
    job = Job(
        family="toy", architecture="toy", head="rows", parts=parts, phase="base", schedule=plan
    )
    got = [learning_rate(job, step, steps=2) / 1e-2 for step in range(4)]
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_ema_keeps_what_does_not_move() -> None:
    module = nn.Linear(3, 2)
    start = module.weight.detach().clone()
    ema = Ema(module)
    with torch.no_grad():
        for _ in range(5):
            module.weight[0] += 0.1
            ema.update(module)
    assert torch.equal(ema.tensors["weight"][1], start[1])
    assert bool((ema.tensors["weight"][0] > start[0]).all())
    assert bool((ema.tensors["weight"][0] < module.weight[0]).all())


# ---- data -------------------------------------------------------------------------------------


def square_images(folder: Path, data: Slice, **changes: Any) -> SquareImages:
    write_slice(folder / "slice.npz", data)
    return SquareImages(read_slice(folder / "slice.npz"), schedule(**changes), seed=5)


@pytest.mark.parametrize("cache", [True, False])
def test_items_depend_on_seed_epoch_and_place_alone(
    tmp_path: Path, data: Slice, cache: bool
) -> None:
    images = square_images(tmp_path, data, cache=cache)
    first = images[0, 3]
    images[0, 4], images[1, 3]
    again = images[0, 3]
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert not np.array_equal(first[0], images[1, 3][0])


def test_loading_processes_change_nothing(tmp_path: Path, data: Slice) -> None:
    images, order = square_images(tmp_path, data), EpochOrder(10, 4, seed=2)
    runs = []
    for workers in (0, 2):
        epochs = loader(images, order, workers, torch.device("cpu"))
        found = []
        for epoch in (0, 1):
            order.epoch = epoch
            found += list(epochs)
        runs.append(found)
    assert len(runs[0]) == len(runs[1]) == 6
    for one, other in zip(*runs, strict=True):
        assert one.counts == other.counts
        for name in ("images", "boxes", "labels"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    assert not torch.equal(runs[0][0].images, runs[0][3].images)


def test_a_batch_is_split_into_its_images() -> None:
    square, boxes = np.zeros((8, 8, 3), np.uint8), np.full((2, 4), 0.5)
    square[..., 0] = 255  # blue
    items = [
        (square, boxes, np.array([1, 2])), (square, np.zeros((0, 4)), np.zeros(0)),
        (square, boxes[:1], np.array([3])),
    ]  # fmt: skip
    images, targets = to_device(collate(items), torch.device("cpu"))
    assert images.shape == (3, 3, 8, 8)
    assert images[0, :, 0, 0].tolist() == [0, 0, 1]
    assert [target.labels.tolist() for target in targets] == [[1, 2], [], [3]]
    assert [tuple(target.boxes.shape) for target in targets] == [(2, 4), (0, 4), (1, 4)]


def test_losses_are_looked_at_now_and_then_and_none_is_missed() -> None:
    seen = Seen(torch.device("cpu"))
    seen._every = 4  # as on a GPU
    for step, value in enumerate([1.0, 2.0, math.nan, 4.0, 5.0]):
        seen.add({"box": torch.tensor(value)}, torch.tensor(value))
        assert seen.last == (5.0 if step == 4 else 1.0)
        assert math.isnan(seen.total) == (step == 4)
    assert math.isnan(seen.means()["box"])
    plain = Seen(torch.device("cpu"))
    for value in (1.0, 2.0):
        plain.add({"box": torch.tensor(value), "cls": torch.tensor(1.0)}, torch.tensor(value + 1))
    assert (plain.last, plain.total) == (3.0, 5.0)
    assert plain.means() == {"box": 1.5, "cls": 1.0}


def test_unchanged_items_are_stretched(tmp_path: Path, data: Slice) -> None:
    square, boxes, class_ids = square_images(tmp_path, data)[-1, 0]
    assert square.shape == (32, 32, 3)  # of 32 x 24 pixels
    np.testing.assert_allclose(boxes, [[0.5, 0.5, 0.25, 0.5]])
    assert class_ids.tolist() == [0]


@pytest.mark.parametrize(("height", "width"), [(24, 32), (31, 7), (5, 50), (32, 32)])
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_boxes_follow_into_the_square(fit: Fit, height: int, width: int) -> None:
    """Labels are where a detector that sees the same square would find them."""
    sides = np.random.default_rng(0).uniform(0, 0.5, (50, 4)).astype(np.float32)
    fitted = fit_image(np.zeros((height, width, 3), np.uint8), 32, fit)
    boxes = fitted.to_input(sides)
    assert boxes.dtype == np.float32
    assert np.array_equal(boxes, sides) == (fit == "stretch" or height == width)
    cx, cy, w, h = boxes.T * 32
    back = fitted.to_original(np.stack((cx, cy, cx + w, cy + h), 1))  # all inside the image
    expected = sides * [width, height, width, height]
    np.testing.assert_allclose(back[:, :2], expected[:, :2], atol=1e-4)
    np.testing.assert_allclose(back[:, 2:] - back[:, :2], expected[:, 2:], atol=1e-4)


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_a_family_s_fit_is_trained(fit: Fit, tmp_path: Path, data: Slice) -> None:
    seen: list[torch.Tensor] = []

    class Watcher(ToyLearner):
        def losses(
            self, images: torch.Tensor, targets: Sequence[Target]
        ) -> dict[str, torch.Tensor]:
            seen.append(images)
            return super().losses(images, targets)

    still = Augmentation(flip=0, scale=0, translate=0, hue=0, saturation=0, brightness=0)
    job = make_job(tmp_path / "job", data, schedule=schedule(epochs=1, augmentation=still))
    run_job(job, Watcher, lambda record: None, fit)
    expected = prepare_batch([read_image(path) for path in data.images], 32, fit)
    order = EpochOrder(len(expected), 4, seed=0)
    places = [place for batch in order for _, place in batch]
    assert torch.equal(torch.cat(seen), expected[places])


def test_boxes_follow_the_picture(tmp_path: Path, data: Slice) -> None:
    strong = Augmentation(flip=0.5, scale=0.5, translate=0.3, degrees=0, hue=0.1, brightness=0.2)
    images = square_images(tmp_path, data, augmentation=strong, image_size=64)
    picture, box = np.zeros((64, 64, 3), np.uint8), np.array([[0.25, 0.75, 0.25, 0.25]])
    picture[40:56, 8:24] = 255
    for seed in range(20):
        changed, boxes, ids = images._augment(picture, box, np.array([1]), seed=seed)
        white = np.argwhere(changed.min(2) > 170)
        if not len(boxes):  # pushed out of the picture
            assert len(white) < 0.2 * 16 * 16 * 4
            continue
        (top, left), (bottom, right) = white.min(0), white.max(0) + 1
        seen = np.array([left + right, top + bottom, 2 * (right - left), 2 * (bottom - top)]) / 128
        np.testing.assert_allclose(boxes[0], seen, atol=2 / 64)
        assert ids.tolist() == [1]
