"""Options that a model owns: one a field, and `--set` for what lies deeper."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from factories_series import make_clean_series
from places import REPO
from pydantic import Field

from duet.cli import options
from duet.cli.main import cli
from duet.cli.options import TrainingCommand, given, model_options
from duet.errors import ConfigError
from duet.runs.inputs import Inputs, read_inputs, read_strategies
from duet.training import schedule
from duet.training.schedule import Augmentation, Schedule

WEIGHTS = REPO / "weights" / "yolo11n-emoji.safetensors"


@pytest.fixture(autouse=True)
def _made_anew() -> Iterator[None]:
    options._schedule_options.cache_clear()
    yield
    options._schedule_options.cache_clear()


def parsed(*words: str) -> dict[str, Any]:
    """Return what a training command tells the library."""

    @click.command(cls=TrainingCommand)
    @options.training_options
    def command(**values: Any) -> None:
        told.update(given(values))

    told: dict[str, Any] = {}
    result = CliRunner().invoke(command, list(words), standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return told


def inputs(folder: Path, *words: str) -> Inputs:
    return read_inputs(make_clean_series(folder), **{**parsed(*words), "weights": WEIGHTS})


def test_every_plain_field_is_an_option() -> None:
    made = {option.name: option for option in model_options(Schedule)}
    assert list(made) == [name for name in Schedule.model_fields if name != "augmentation"]
    assert made["cache"].secondary_opts == ["--no-cache"]
    assert made["precision"].type.choices == ("auto", "fp32", "bf16", "fp16")  # type: ignore[attr-defined]
    assert made["optimizer"].type.choices == ("AdamW", "SGD")  # type: ignore[attr-defined]
    assert (made["epochs"].type.min, made["epochs"].type.max) == (1, 10**6)  # type: ignore[attr-defined]
    assert made["lr_increment"].type is click.FLOAT
    assert all(option.help for option in made.values())
    assert len(model_options(Augmentation)) == len(Augmentation.model_fields)


def test_a_field_more_is_an_option_more(monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(Schedule):
        patience: int = Field(default=3, ge=1, description="epochs to wait")

    monkeypatch.setattr(schedule, "Schedule", Longer)
    for command in ("run", "base", "increment"):
        text = CliRunner().invoke(cli, [command, "--help"]).output
        assert "--patience" in text
        assert "epochs to wait" in text
    assert parsed("--patience", "7")["changes"] == {"patience": 7}


def test_what_is_not_given_is_not_told() -> None:
    assert parsed() == {
        "data_root": None, "train": None, "weights": None, "architecture": None, "changes": {},
    }  # fmt: skip


def test_options_change_the_schedule_and_every_strategy(tmp_path: Path) -> None:
    found = inputs(
        tmp_path, "--epochs", "3", "--lr", "0.002", "--no-cache", "--device", "cuda:1",
        "--set", "augmentation.mosaic=1", "--set", "refit.epochs=5",
        "--set", "merge.params.gamma=0.2",
    )  # fmt: skip
    schedule = found.schedule
    assert (schedule.epochs, schedule.lr, schedule.cache, schedule.device) == (3, 0.002, False, "1")
    assert (schedule.augmentation.mosaic, schedule.augmentation.flip) == (1, 0.5)
    for strategy in read_strategies(("duet", "duet-plus"), family="yolo", changes=found.changes):
        assert strategy.refit.epochs == 5
        assert strategy.merge.params["gamma"] == 0.2


def test_multiples_are_given_as_numbers_are(tmp_path: Path) -> None:
    found = inputs(
        tmp_path, "--warmup-epochs", "0.1x", "--epochs", "30", "--set", "refit.epochs=2x"
    )
    assert found.schedule.warm_up == pytest.approx(3)
    assert inputs(tmp_path, "--warmup-epochs", "2").schedule.warm_up == 2
    (strategy,) = read_strategies(("duet-plus",), family="yolo", changes=found.changes)
    refit = strategy.refit.of(found.schedule, 10**6)
    assert refit is not None
    assert refit.epochs == 60


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--warmup-epochs", "x"], "a number from 0, or a multiple"),
        (["--set", "epocs=3"], "did you mean 'epochs'"),
        (["--set", "augmentation.mosaik=1"], "did you mean 'mosaic'"),
        (["--set", "augmentation.mosaic=7"], "less than or equal to 1"),
        (["--set", "augmentation.mosaic"], "expected KEY=VALUE"),
        (["--lr", "2"], "less than or equal to 1"),
    ],
)
def test_wrong_keys_and_values_are_refused(tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        inputs(tmp_path, *words)


@pytest.mark.parametrize("own", [False, True])
def test_a_strategy_is_printed_as_it_is_written(own: bool, tmp_path: Path) -> None:
    shipped = REPO / "configs" / "strategy" / "erd.yaml"
    name = str(shutil.copy(shipped, tmp_path / "mine.yaml")) if own else "erd"
    printed = CliRunner().invoke(cli, ["strategies", name], standalone_mode=False)
    assert printed.exception is None
    assert printed.stdout.rstrip() == shipped.read_text().rstrip()


def test_a_wrong_key_of_a_strategy_is_refused(tmp_path: Path) -> None:
    changes = inputs(tmp_path, "--set", "refit.epoch=5").changes
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        read_strategies(("duet",), family="yolo", changes=changes)
