"""Numbers that go with the schedule and the data: re-fit, warm-up, references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from places import REPO

from duet.errors import ConfigError
from duet.training.config import Refit, Strategy, load_strategy
from duet.training.job import Job, identity
from duet.training.optimizer import learning_rate
from duet.training.schedule import Schedule, load_schedule

STRATEGIES = REPO / "configs" / "strategy"
EMBEDDED = load_schedule(REPO / "configs" / "train" / "emoji.yaml")
RELATIVE = ("duet-plus", "frozen-long", "duet-detr")


def shipped(name: str) -> Strategy:
    return load_strategy(name, folder=STRATEGIES)


def job(schedule: Schedule, **settings: Any) -> Job:
    return Job(
        family="yolo", architecture="yolo11n.yaml", head="rows", parts=(), schedule=schedule,
        **{"phase": "base", **settings},
    )  # fmt: skip


@pytest.mark.parametrize("name", RELATIVE)
def test_the_embedded_series_is_refit_as_ever(name: str) -> None:
    found = shipped(name).refit.of(EMBEDDED, 450)
    assert found is not None
    assert (found.epochs, found.lr, found.lr_increment, found.warm_up) == (12, 4e-3, None, 0.0)
    before = EMBEDDED.model_copy(
        update={"epochs": 12, "lr": 0.004, "lr_increment": None, "warmup_epochs": 0.0}
    )
    assert identity(job(found, phase="refit")) == identity(job(before, phase="refit"))


def test_the_embedded_series_warms_up_as_ever() -> None:
    assert EMBEDDED.warm_up == 1.4
    before = EMBEDDED.model_copy(update={"warmup_epochs": 1.4, "reference_steps": 0})
    assert identity(job(EMBEDDED)) == identity(job(before))
    steps = EMBEDDED.steps(450)
    rates = [learning_rate(job(EMBEDDED), done, steps) for done in range(8 * steps)]
    assert rates == [learning_rate(job(before), done, steps) for done in range(8 * steps)]
    assert rates.index(max(rates)) + 1 == 41


@pytest.mark.parametrize(
    ("images", "epochs", "steps"),
    [(0, 300, 300), (60, 75, 300), (200, 24, 312), (450, 12, 348), (16_000, 12, 12_000)],
)
def test_few_images_get_enough_steps(images: int, epochs: int, steps: int) -> None:
    found = shipped("duet-plus").refit.of(EMBEDDED, images)
    assert found is not None
    assert (found.epochs, found.epochs * max(found.steps(images), 1)) == (epochs, steps)


@pytest.mark.parametrize(
    ("schedule", "epochs", "lr"),
    [
        ({"epochs": 24, "lr": 5e-4, "batch": 4}, 36, 2e-3),
        ({"epochs": 24, "lr": 1e-3, "lr_increment": 5e-4, "batch": 4}, 36, 2e-3),
        ({"epochs": 100, "lr": 0.5, "optimizer": "SGD", "batch": 4}, 150, 1.0),
        ({"epochs": 1, "batch": 1}, 2, 4e-3),
    ],
)
def test_multiples_go_with_the_schedule(schedule: dict[str, Any], epochs: int, lr: float) -> None:
    found = shipped("duet-plus").refit.of(Schedule(**schedule), 450)
    assert found is not None
    assert (found.epochs, found.lr) == (epochs, pytest.approx(lr))


@pytest.mark.parametrize("images", [60, 450, 16_000])
@pytest.mark.parametrize("schedule", [EMBEDDED, Schedule()], ids=["embedded", "default"])
def test_numbers_stay_what_they_are(tmp_path: Path, schedule: Schedule, images: int) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("name: old\nrefit: {epochs: 12, lr: 0.004}\n")
    found = load_strategy(str(path), folder=STRATEGIES).refit.of(schedule, images)
    assert found is not None
    assert (found.epochs, found.lr) == (12, 0.004)


@pytest.mark.parametrize("epochs", [0, "0x", "0.0x"])
def test_no_epochs_are_no_refit(epochs: Any) -> None:
    assert Refit(epochs=epochs, min_steps=300).of(EMBEDDED, 60) is None


def test_what_is_neither_number_nor_multiple_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: bad\nrefit: {epochs: 1.5, lr: -4x}\n")
    with pytest.raises(ConfigError, match="2 problems") as caught:
        load_strategy(str(path), folder=STRATEGIES)
    assert "line 2: refit.epochs" in str(caught.value)
    assert str(caught.value).count("such as 1.5x") == 2
    path.write_text("warmup_epochs: a fifth\n")
    with pytest.raises(ConfigError, match="a number from 0, or a multiple"):
        load_schedule(path)


@pytest.mark.parametrize(
    ("images", "epochs"), [(60, 188), (254, 47), (450, 26), (2_000, 8), (16_000, 8)]
)
def test_references_of_few_images_train_longer(images: int, epochs: int) -> None:
    found = EMBEDDED.of_reference(images)
    assert found.epochs == epochs
    assert found.epochs * found.steps(images) >= 750
    assert found.warm_up == pytest.approx(0.175 * epochs)
    assert Schedule(epochs=5, batch=4).of_reference(images).epochs == 5
