"""A Fisher is computed where somebody reads it, or later, without training again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from factories_dfine import make_job as dfine_job
from factories_dfine import make_state as dfine_state
from factories_training import settled
from factories_yolo import class_groups, make_job, make_slice, make_state, micro_schedule

from duet.config import parse_config
from duet.families.table import resolve_family
from duet.increments.fisher import FISHER
from duet.increments.tensorfile import read_tensors
from duet.runs.lab import Lab
from duet.runs.plan import RunPlan
from duet.runs.setting import Setting
from duet.series import Slice
from duet.training.config import Strategy, load_strategy
from duet.training.job import Job, identity, read_job
from duet.training.schedule import Schedule

OLD, NEW = class_groups((2, 1))
STRATEGIES = Path(__file__).parents[2] / "configs" / "strategy"


@pytest.fixture(autouse=True)
def _process_state() -> Iterator[None]:
    with settled():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Slice:
    return make_slice(tmp_path_factory.mktemp("new"), NEW, images=5, seed=2)


def strategy(name: str, **changes: Any) -> Strategy:
    chosen = load_strategy(name, folder=STRATEGIES)
    return parse_config(Strategy, chosen.model_dump() | changes, where=name)


FISHER_MERGE = {"merge": {"method": "fisher"}}


@pytest.mark.parametrize(
    ("strategies", "asked", "expected"),
    [
        ([("duet-plus", {})], None, None),
        ([("duet-plus", {}), ("ewc", {})], None, 128),
        ([("duet", FISHER_MERGE)], None, 128),
        ([("joint-full", {})], None, None),
        ([("duet-plus", {})], 16, 16),
        ([("duet-plus", {})], 0, 0),
    ],
)
def test_a_fisher_is_for_those_who_read_it(
    strategies: list[tuple[str, dict[str, Any]]], asked: int | None, expected: int | None
) -> None:
    plan = RunPlan.__new__(RunPlan)
    chosen = tuple(strategy(name, **changes) for name, changes in strategies)
    plan.__dict__.update(schedule=Schedule(fisher_images=asked), strategies=chosen)
    assert plan.training.fisher_images == expected
    setting = Setting.__new__(Setting)
    setting.__dict__.update(schedule=plan.training)
    assert not setting.schedule.of_reference(9).fisher_images  # references are never merged


def test_when_it_is_computed_makes_no_other_training() -> None:
    def known(images: int | None) -> Any:
        job = Job(
            family="yolo", architecture="yolo11n.yaml", head="rows", parts=(), phase="base",
            schedule=Schedule(fisher_images=images),
        )  # fmt: skip
        return identity(job)["schedule"]["fisher_images"]

    assert known(None) == known(128) == 128
    assert known(64) == 64


@pytest.mark.slow
@pytest.mark.parametrize("family", ["yolo", "dfine"])
def test_it_is_added_without_training_again(family: str, data: Slice, tmp_path: Path) -> None:
    make = make_job if family == "yolo" else dfine_job
    folders = []
    for name, images in (("at once", 128), ("later", None)):
        start = make_state("towers") if family == "yolo" else dfine_state((2, 1))
        folders.append(make(tmp_path / name, start, data, schedule=schedule(family, images)))
        resolve_family(family).train(folders[-1], lambda record: None)
    once, later = folders
    assert (once / FISHER).is_file()
    assert not (later / FISHER).exists()
    before = (later / "trained.safetensors").read_bytes()
    outcome = json.loads((later / "outcome.json").read_text())
    job = read_job(later)
    asked = job.model_copy(update={"schedule": schedule(family, 128)})
    (later / "job.json").write_text(json.dumps(asked.model_dump(mode="json")))
    epochs: list[Any] = []
    resolve_family(family).train(later, epochs.append)
    assert epochs == []
    assert (later / "trained.safetensors").read_bytes() == before
    added = json.loads((later / "outcome.json").read_text())
    assert added["fisher_images"] == 5
    for key in ("history", "seconds", "images_seen", "versions", "peak_memory"):
        assert added[key] == outcome[key]
    ours, theirs = (read_tensors(folder / FISHER)[0] for folder in (later, once))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any(bool(tensor.any()) for tensor in ours.values())


def schedule(family: str, images: int | None) -> Schedule:
    if family == "yolo":
        return micro_schedule(fisher_images=images)
    from factories_dfine import micro_schedule as micro

    return micro(fisher_images=images)


@pytest.mark.slow
def test_a_lab_asks_for_what_a_kept_training_lacks(data: Slice, tmp_path: Path) -> None:
    said: list[Any] = []
    lab = Lab(tmp_path / "lab", listen=lambda title, record: said.append(record))
    start = make_state("rows", (1,))
    folder = make_job(tmp_path / "job", start, data, schedule=micro_schedule(fisher_images=None),
                      phase="base")  # fmt: skip
    job = read_job(folder)
    first = lab.train("a", job, start, data)
    assert first.fisher is None
    wanted = job.schedule.model_copy(update={"fisher_images": 128})
    again = lab.train("a", job.model_copy(update={"schedule": wanted}), start, data)
    assert again.reused
    assert again.key == first.key
    assert again.fisher is not None
    third = lab.train("a", job, start, data)
    assert third.fisher is not None  # what is there is not thrown away
    assert {"state": "reused"} in said
