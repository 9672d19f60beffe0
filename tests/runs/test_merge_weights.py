"""Merge weights that grow along a chain: the same while it is learned and merged again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from factories_training import trained_here
from factories_yolo import NAMES, YOLO11N, make_domain, micro_schedule, theta_0

from duet.increments.base import load_start, save_base
from duet.increments.store import load_detector, load_traces
from duet.merging.batchnorm import BatchNormFusion
from duet.recipes.edits import revert
from duet.recipes.plan import make_plan
from duet.recipes.recipe import Entry, Recipe
from duet.recipes.write import write_detector
from duet.runs.keep import keep_chain
from duet.runs.lab import Lab
from duet.runs.learn import run_chain
from duet.runs.setting import Setting, StageResult
from duet.series import Increment, Series
from duet.training.config import Directional, Distillation, MergeChoice, Strategy

pytestmark = pytest.mark.slow

CLASSES = {"day": NAMES[:2], "night": NAMES[2:3], "fog": NAMES[3:5]}
PARAMS = {"gamma": 0, "alpha_base": 0.6}


def strategy(weights: str) -> Strategy:
    return Strategy(
        name=weights, head="towers",
        merge=MergeChoice(method="duet", params={**PARAMS, "weights": weights}),
        batchnorm=BatchNormFusion(weights="uniform"),
        distill=Distillation(weight=0), directional=Directional(weight=0),
    )  # fmt: skip


@dataclass(frozen=True)
class World:
    """Chains of three stages by `weights`, and the run folder that keeps them."""

    chains: dict[str, list[StageResult]]
    run: Path
    start: Path

    def increments(self, weights: str) -> tuple[Entry, ...]:
        root = self.run / "increments" / weights
        return tuple(Entry(path=str(root / name)) for name in CLASSES)

    def model(self, weights: str, number: int) -> Path:
        return self.run / "models" / weights / f"{number}-{list(CLASSES)[number - 1]}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("weights")
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
            lab=Lab(folder / "lab", run=here), weights=start,
        )  # fmt: skip
        chains = {}
        for weights in ("fixed", "uniform"):
            chains[weights] = run_chain(setting, strategy(weights))
            keep_chain(folder / "run", setting, strategy(weights), chains[weights])
    return World(chains, folder / "run", start)


def test_the_newest_increment_weighs_less_from_stage_to_stage(world: World) -> None:
    for weights, last in (("fixed", 0.6), ("uniform", 2 / 3)):
        alphas = [
            stage.trace.summary().alpha_mean for stage in world.chains[weights] if stage.trace
        ]
        assert alphas == pytest.approx([0.6, last])
    first, second = (world.chains[name][1].merged.fingerprint() for name in ("fixed", "uniform"))
    assert first == second  # alpha_base is more than a half
    before, stage = world.chains["uniform"][1:]
    for name, merged in stage.merged.shared.items():
        expected = before.merged.shared[name].lerp(stage.trained.state.shared[name], 1 - 2 / 3)
        torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("weights", ["fixed", "uniform"])
def test_merging_again_gives_the_same_bits(world: World, weights: str, tmp_path: Path) -> None:
    recipe = Recipe(
        method="duet", params={**PARAMS, "weights": weights}, increments=world.increments(weights),
        batchnorm=BatchNormFusion(weights="uniform"), weights=str(world.start),
        geometry="sequential",
    )  # fmt: skip
    written = write_detector(make_plan(recipe), tmp_path / "again")
    learned = world.chains[weights][-1]
    assert written.result.state.fingerprint() == learned.merged.fingerprint()
    assert written.result.traces[-1].tensors == load_traces(world.model(weights, 3))[-1].tensors
    assert (
        load_detector(world.model(weights, 3)).state.fingerprint() == learned.merged.fingerprint()
    )


def test_the_kept_recipe_says_the_weights_and_goes_back(world: World, tmp_path: Path) -> None:
    edit = revert(world.model("uniform", 3), "fog")
    assert edit.exact
    assert edit.plan.recipe.params["weights"] == "uniform"
    before = write_detector(edit.plan, tmp_path / "before").result.state
    assert before.fingerprint() == world.chains["uniform"][1].merged.fingerprint()
