"""Series whose increments are trained apart and merged at once."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from factories_run import OLD, Tiny, copy_tiny, duet_here, tiny
from factories_states import moved
from factories_training import trained_here
from factories_yolo import NAMES, YOLO11N, make_domain, micro_schedule, theta_0

from duet.errors import ModelError
from duet.increments.base import load_start, save_base
from duet.increments.store import load_detector, load_increment
from duet.recipes.apply import merge_plan
from duet.recipes.edits import kept_recipe, located, revert
from duet.recipes.plan import make_plan
from duet.runs.apart import apart_stages
from duet.runs.keep import require_place
from duet.runs.lab import Lab
from duet.runs.setting import FinishedStage, Setting
from duet.series import Increment, Series
from duet.training.config import Directional, Distillation, MergeChoice, Strategy
from duet.weights.start import start_weights_of

pytestmark = pytest.mark.slow

OFF: dict[str, Any] = {"distill": Distillation(weight=0), "directional": Directional(weight=0)}
APART = Strategy(
    name="apart", head="towers", merge=MergeChoice(method="average"), geometry="independent", **OFF
)


@dataclass(frozen=True)
class Learned:
    """A series that was learned, and the trainings that really ran."""

    setting: Setting
    stages: list[FinishedStage]
    ran: list[Path]
    folder: Path

    def model(self, name: str) -> Path:
        return self.folder / "run" / "models" / "apart" / name

    def increment(self, name: str) -> Path:
        return self.folder / "run" / "increments" / "apart" / name


def learned(folder: Path, steps: dict[str, tuple[str, ...]]) -> Learned:
    """Learn (domain -> classes) apart, in this process."""
    weights = folder / "w.safetensors"
    save_base(weights, theta_0(), info={"architecture": YOLO11N})
    series = Series("toy", "", tuple(
        Increment(domain, domain, classes, make_domain(folder, domain, count=6, seed=seed))
        for seed, (domain, classes) in enumerate(steps.items())
    ))  # fmt: skip
    with trained_here() as here:
        setting = Setting(
            series=series, family="yolo", architecture=YOLO11N, theta_0=load_start(weights),
            schedule=micro_schedule(lr=5e-3, fisher_images=None), seed=3,
            lab=Lab(folder / "lab", run=here), weights=weights,
        )  # fmt: skip
        stages = list(apart_stages(folder / "run", setting, APART))
        return Learned(setting, stages, here.ran, folder)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    steps = {"day": NAMES[:1], "night": NAMES[1:2], "fog": NAMES[2:3]}
    return learned(tmp_path_factory.mktemp("classes"), steps)


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    steps = {"day": NAMES[:2], "night": NAMES[:2], "fog": (NAMES[1],)}
    return learned(tmp_path_factory.mktemp("domains"), steps)


def mean(*tensors: torch.Tensor) -> torch.Tensor:
    return torch.stack(tensors).double().mean(0).float()


def test_new_classes_are_trained_from_theta_0_and_all_so_far_are_merged(classes: Learned) -> None:
    start = classes.setting.shared_start("towers")
    items = [load_increment(classes.increment(name)) for name in ("day", "night", "fog")]
    assert [item.manifest.kind for item in items] == ["base", "independent", "independent"]
    assert all(item.manifest.parent is None for item in items)
    for stage, name in enumerate(("1-day", "2-night", "3-fog"), start=1):
        state = load_detector(classes.model(name)).state
        assert state.labels.names == NAMES[:stage]
        for key, tensor in state.shared.items():
            whole = mean(*(item.vector.stage(start)[key] for item in items[:stage]))
            torch.testing.assert_close(tensor, whole, rtol=1e-5, atol=1e-6)
    for item, part in zip(items, state.parts, strict=True):
        assert item.part is not None
        assert not moved(item.part.tensors, part.tensors)


def test_known_classes_are_adapted_from_the_base_which_is_no_part_of_the_merge(
    domains: Learned,
) -> None:
    base = load_detector(domains.model("1-day")).state
    start = start_weights_of(base)
    night = load_increment(domains.increment("night"))
    assert night.manifest.base != load_increment(domains.increment("day")).manifest.base
    assert night.manifest.classes == NAMES[:2]
    second = load_detector(domains.model("2-night")).state
    assert second.labels.names == NAMES[:2]
    assert night.part is not None
    assert not moved(night.part.tensors, second.parts[0].tensors)  # a merge of one is that one
    assert moved(second.parts[0].tensors, base.parts[0].tensors)  # heads are adapted, too
    third = load_detector(domains.model("3-fog")).state
    fog = load_increment(domains.increment("fog")).vector.stage(base.shared)
    for key, tensor in third.shared.items():
        whole = mean(night.vector.stage(base.shared)[key], fog[key])
        torch.testing.assert_close(tensor, whole, rtol=1e-5, atol=1e-6)
    assert set(start.classes) == set(NAMES[:2])


@pytest.mark.parametrize("kind", ["classes", "domains"])
def test_what_is_kept_gives_the_detector_again_without_training(
    kind: str, request: pytest.FixtureRequest
) -> None:
    one: Learned = request.getfixturevalue(kind)
    last = one.model("3-fog")
    file = load_detector(last)
    again = merge_plan(make_plan(located(kept_recipe(file.manifest, last), last)))
    assert again.state.fingerprint() == file.manifest.fingerprint
    assert revert(last, "night").exact
    before = len(one.ran)
    setting = replace(one.setting, lab=Lab(one.folder / "lab"))
    stages = list(apart_stages(one.folder / "run", setting, APART))
    assert len(one.ran) == before == 3
    assert stages[-1].merged.fingerprint() == file.manifest.fingerprint
    assert stages[-1].trace is not None
    with pytest.raises(ModelError, match="was trained on its own"):
        require_place(one.folder / "run", APART, "fog", independent=False)


@pytest.fixture
def series(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.getbasetemp().parent
    mine = copy_tiny(tiny(root), tmp_path_factory.mktemp("apart") / "tiny")
    file = yaml.safe_load(mine.series.read_text())
    shown: set[str] = set(OLD)
    for step in file["increments"]:
        data = mine.folder / "data" / step["domain"]
        names = yaml.safe_load((data / "data.yaml").read_text())["names"]
        labels = "\n".join(path.read_text() for path in data.glob("labels/train/*.txt"))
        ids = {int(line.split()[0]) for line in labels.splitlines() if line}
        shown &= {names[number] for number in ids}
    for step in file["increments"]:
        step["classes"] = sorted(shown)
    mine.series.write_text(yaml.safe_dump(file))
    return mine


def test_a_series_of_domains_by_one_command(
    series: Tiny, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [
        "run", series.series, "--strategies", "mtda,seq-ft", "--geometry", "independent",
        "--out", tmp_path / "run", "--epochs", 1, "--jobs", 1, "--json",
    ]  # fmt: skip
    done = duet_here(capsys, *words)
    assert done.code == 0, done.err
    assert set(json.loads(done.out)["indices"]) == {"mtda", "seq-ft"}
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["protocol"]["strategy_config"]["geometry"] == "independent"
    assert [merge["increment"] for merge in results["strategies"][0]["merges"]] == [2]
    folder = tmp_path / "run" / "models" / "mtda"
    assert sorted(path.name for path in folder.iterdir()) == ["1-flat", "2-comic"]
    chained = duet_here(
        capsys, "increment", series.series, "comic", "--strategy", "mtda", "--out", tmp_path / "x"
    )
    assert chained.code != 0
    assert "--independent" in chained.err


def test_a_chain_is_written_as_before_there_was_a_geometry() -> None:
    assert "geometry" not in APART.model_copy(update={"geometry": "sequential"}).model_dump()
    assert APART.model_dump()["geometry"] == "independent"
    assert not APART.model_copy(update={"old_part": "trained"}).apart
