"""`min_retention`: the trunk goes only as far as the earlier detector still finds itself."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from factories_states import moved
from factories_training import trained_here
from factories_yolo import NAMES, YOLO11N, make_domain, micro_schedule, theta_0

from duet.errors import ConfigError
from duet.increments.base import load_start, save_base
from duet.increments.state import DetectorState
from duet.increments.store import load_increment, load_traces
from duet.recipes.plan import make_plan
from duet.recipes.recipe import Entry, Recipe
from duet.recipes.write import write_detector
from duet.runs.keep import keep_chain
from duet.runs.lab import Lab
from duet.runs.learn import run_chain
from duet.runs.questions import Agreeing, Question
from duet.runs.retain import drawn_back
from duet.runs.setting import RETENTION, Setting, StageResult
from duet.series import Increment, Series
from duet.training.config import Directional, Distillation, MergeChoice, Refit, Strategy

pytestmark = pytest.mark.slow

CLASSES = {"day": NAMES[:2], "night": NAMES[2:3], "fog": NAMES[3:5]}


def strategy(least: float, **changes: Any) -> Strategy:
    return Strategy(
        name=f"least-{100 * least:g}", head="towers", min_retention=least,
        merge=MergeChoice(method="duet", params={"alpha_base": 0.5}), refit=Refit(epochs=1),
        distill=Distillation(weight=0), directional=Directional(weight=0), **changes,
    )  # fmt: skip


@dataclass
class Witness:
    """Answers as if what is kept fell with the distance that the trunk went.

    Detectors of one epoch find nothing; how far counts here, not what is seen.
    """

    unit: float = 0.0
    asked: list[float] = field(default_factory=list)

    def __call__(
        self, question: Question, folder: Path, stopped: threading.Event
    ) -> dict[str, Any]:
        assert isinstance(question, Agreeing)
        assert question.after.labels.names == question.before.labels.names  # old parts alone
        before, after = question.before.shared, question.after.shared
        way = sum(float((after[n] - one).abs().sum()) for n, one in before.items())
        self.unit = self.unit or way
        self.asked.append(way / self.unit)
        return {"before": 1000, "kept": max(round(1000 * (1 - 0.5 * way / self.unit)), 0)}


@dataclass(frozen=True)
class World:
    """The setting, and chains by `min_retention`, kept in a run folder."""

    setting: Setting
    chains: dict[float, list[StageResult]]
    run: Path
    start: Path


LEAST = (0.0, 0.4, 0.8, 1.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("retain")
    start = folder / "base.safetensors"
    save_base(start, theta_0())
    steps = tuple(
        Increment(
            name, name, classes, make_domain(folder, name, classes=NAMES[:5], count=10, seed=seed)
        )
        for seed, (name, classes) in enumerate(CLASSES.items())
    )
    with trained_here() as here:
        setting = Setting(
            series=Series("toy", "", steps), family="yolo", architecture=YOLO11N,
            theta_0=load_start(start), schedule=micro_schedule(lr=5e-3, fisher_images=0), seed=3,
            lab=Lab(folder / "run" / "lab", run=here), weights=start,
        )  # fmt: skip
        setting.lab.asked.answer = Witness()
        chains = {}
        for least in LEAST:
            chains[least] = run_chain(setting, strategy(least))
            keep_chain(folder / "run", setting, strategy(least), chains[least])
    return World(setting, chains, folder / "run", start)


def told(stage: StageResult) -> dict[str, Any]:
    assert stage.trace is not None
    found: dict[str, Any] = stage.trace.facts.get(RETENTION, {})
    return found


def test_what_keeps_enough_is_left_alone(world: World) -> None:
    plain, held = world.chains[0.0][1], world.chains[0.4][1]
    assert not told(plain)
    assert told(held)["moved"] == 1
    assert held.drawn is None
    assert held.merged.fingerprint() == plain.merged.fingerprint()


def test_the_largest_part_of_the_way_that_keeps_enough_is_taken(world: World) -> None:
    stage = world.chains[0.8][1]
    found = told(stage)
    # All of the way keeps a half, so 0.8 is kept up to 0.4 of it: 6/16.
    assert [moved for moved, _ in found["tried"]] == [1, 0.5, 0.25, 0.375, 0.4375]
    assert found["moved"] == 0.375
    assert 0.8 <= found["retained"] == pytest.approx(1 - 0.375 / 2, abs=0.02)
    assert stage.drawn is not None
    before = world.chains[0.8][0].merged
    for name, start in before.shared.items():
        trained = stage.trained.state.shared[name]
        torch.testing.assert_close(stage.drawn.shared[name], start.lerp(trained, 0.375))


def test_at_the_worst_the_trunk_is_frozen(world: World) -> None:
    before, stage, _ = world.chains[1.0]
    assert (told(stage)["moved"], told(stage)["retained"]) == (0, 1)
    assert not moved(before.merged.shared, stage.merged.shared)
    statistics = {
        name: tensor for name, tensor in before.merged.buffers.items() if "running" in name
    }
    assert not moved(statistics, {name: stage.merged.buffers[name] for name in statistics})
    assert stage.refit is not None  # the new part is fitted to the trunk that stayed


@pytest.mark.parametrize("least", LEAST)
def test_increments_merge_again_to_the_same_bits(
    world: World, least: float, tmp_path: Path
) -> None:
    root = world.run / "increments" / strategy(least).name
    recipe = Recipe(
        method="duet", params={"alpha_base": 0.5}, weights=str(world.start), geometry="sequential",
        increments=tuple(Entry(path=str(root / name)) for name in CLASSES),
    )  # fmt: skip
    state = write_detector(make_plan(recipe), tmp_path / "again").result.state
    assert state.fingerprint() == world.chains[least][-1].merged.fingerprint()


def test_the_files_tell_it(world: World) -> None:
    name = strategy(0.8).name
    metrics = load_increment(world.run / "increments" / name / "night").manifest.metrics
    found = told(world.chains[0.8][1])
    assert metrics == {"moved": found["moved"], "retained": found["retained"]}
    (trace,) = load_traces(world.run / "models" / name / "2-night")
    assert trace.facts[RETENTION]["tried"] == [list(one) for one in found["tried"]]
    plain = load_increment(world.run / "increments" / strategy(0).name / "night").manifest
    assert plain.metrics == {}


def test_again_it_neither_trains_nor_looks(world: World) -> None:
    """Also after the lab let go of what the run keeps: a drawn state is not the trained one."""

    def nobody(question: Question, folder: Path, stopped: threading.Event) -> dict[str, Any]:
        raise AssertionError("looked again")

    def never(*_: Any) -> None:
        raise AssertionError("trained again")

    lab = Lab(world.setting.lab.folder, run=never, answer=nobody)
    again = run_chain(replace(world.setting, lab=lab), strategy(0.8))
    for one, other in zip(world.chains[0.8], again, strict=True):
        assert one.merged.fingerprint() == other.merged.fingerprint()


def test_both_ends_of_the_way_are_given_back(world: World) -> None:
    before, stage, _ = world.chains[0.0]
    trained = stage.trained.state
    assert drawn_back(before.merged, trained, 1) is trained
    none: DetectorState = drawn_back(before.merged, trained, 0)
    assert not moved(before.merged.shared, none.shared)
    assert none.parts == trained.parts


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"merge": MergeChoice(method="ties")}, "equal models back"),
        ({"old_part": "trained", "head": "rows"}, "old_part: kept"),
    ],
)
def test_what_cannot_be_held_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=words):
        Strategy(name="x", min_retention=0.9, **changes)
