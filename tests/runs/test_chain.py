"""Chains of two increments with trainings of a second, and detectors rebuilt from files."""

from __future__ import annotations

import gc
import importlib.metadata
import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from factories_states import images, moved
from factories_training import trained_here
from factories_yolo import NAMES, YOLO11N, flat, make_domain, micro_schedule, theta_0

from duet.errors import ModelError
from duet.families.yolo.adapter import FAMILY
from duet.families.yolo.build import inference_model
from duet.increments.base import StartWeights
from duet.increments.state import DetectorState
from duet.increments.store import IncrementFile, load_detector, load_increment, load_traces
from duet.increments.tensorfile import write_tensors
from duet.merging.batchnorm import BatchNormFusion
from duet.recipes.apply import Remerged, merge_plan
from duet.recipes.plan import Plan, make_plan
from duet.recipes.recipe import Entry, Recipe
from duet.recipes.write import write_detector
from duet.runs.keep import keep_chain, keep_independent, kept_stages
from duet.runs.kept import kept_models, require_whole
from duet.runs.lab import Lab
from duet.runs.learn import chain_stages, run_chain, run_independent, train_alone
from duet.runs.setting import Setting, StageResult
from duet.series import Increment, Series, train_slice
from duet.training.config import Directional, Distillation, MergeChoice, Refit, Strategy
from duet.vectors.tensors import fingerprint

pytestmark = pytest.mark.slow

OFF: dict[str, Any] = {"distill": Distillation(weight=0), "directional": Directional(weight=0)}
METHODS = {
    "duet": Strategy(
        name="duet", head="parallel", new_part="pretrained",
        distill=Distillation(weight=0.1), directional=Directional(weight=0.1),
        merge=MergeChoice(method="duet", params={"gamma": 0.2, "alpha_base": 0.6}),
    ),
    "refit": Strategy(
        name="refit", head="towers", merge=MergeChoice(method="average"), refit=Refit(epochs=1),
        distill=Distillation(weight=0.1), directional=Directional(weight=0),
    ),
    "seq-ft": Strategy(
        name="seq-ft", head="rows", old_part="trained", old_negatives="train",
        merge=MergeChoice(method="newest"), batchnorm=BatchNormFusion(rule="newest"), **OFF,
    ),
    "fisher": Strategy(
        name="fisher", head="towers", merge=MergeChoice(method="fisher"),
        distill=Distillation(weight=0.1), directional=Directional(weight=0),
    ),
    "frozen": Strategy(
        name="frozen", head="towers", trunk="frozen", merge=MergeChoice(method="newest"),
        batchnorm=BatchNormFusion(rule="oldest"), **OFF,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """A series, its trainings, and how many of them really ran."""

    setting: Setting
    chains: dict[str, list[StageResult]]
    ran: list[Path]
    folder: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Run every method once; trainings stay in this process, a worker costs five seconds."""
    folder = tmp_path_factory.mktemp("chain")

    steps = tuple(
        Increment(domain, domain, classes, make_domain(folder, domain, count=9, seed=seed))
        for seed, (domain, classes) in enumerate({"day": NAMES[:2], "night": NAMES[2:3]}.items())
    )
    with trained_here() as here:
        setting = Setting(
            series=Series("toy", "", steps), family="yolo", architecture=YOLO11N,
            theta_0=StartWeights(theta_0()), schedule=micro_schedule(lr=5e-3), seed=3,
            lab=Lab(folder / "lab", run=here),
        )  # fmt: skip
        chains = {name: run_chain(setting, method) for name, method in METHODS.items()}
        for name, method in METHODS.items():
            keep_chain(folder / "run", setting, method, chains[name])
        yield World(setting, chains, here.ran, folder)


def increments(world: World, name: str) -> list[IncrementFile]:
    root = world.folder / "run" / "increments" / name
    return [load_increment(root / step.name) for step in world.setting.series.increments]


def answers(state: DetectorState) -> torch.Tensor:
    with torch.no_grad():
        decoded: torch.Tensor = inference_model(state)(images())[0]
    return decoded


# ---- training ---------------------------------------------------------------------------------


def test_every_training_ran_once(world: World) -> None:
    # One base for all methods, one re-fit, and an increment for each way of training: `refit` and
    # `fisher` differ only after it.
    kinds = sorted(folder.name.split("-")[0] for folder in world.ran)
    assert kinds == ["base", *["increment"] * (len(METHODS) - 1), "refit"]


@pytest.mark.parametrize("name", METHODS)
def test_running_again_trains_nothing(world: World, name: str) -> None:
    before = len(world.ran)
    setting = replace(world.setting, lab=Lab(world.folder / "lab"))  # as a new process would
    again = run_chain(setting, METHODS[name])
    assert len(world.ran) == before
    assert all(result.trained.reused for result in again)
    for one, other in zip(world.chains[name], again, strict=True):
        assert one.merged.fingerprint() == other.merged.fingerprint()


def test_reference_on_the_base_slice_is_the_base(world: World) -> None:
    first = world.setting.series.increments[0]
    before = len(world.ran)
    reference = train_alone(world.setting, train_slice(first.data, first.classes), first.name)
    assert len(world.ran) == before
    assert reference.reused


def test_another_seed_is_another_training(world: World) -> None:
    first = world.setting.series.increments[0]
    before = len(world.ran)
    cut = train_slice(first.data, first.classes)
    other = train_alone(replace(world.setting, seed=4), cut, first.name)
    assert len(world.ran) == before + 1
    assert other.key != world.chains["duet"][0].trained.key


# ---- merging ----------------------------------------------------------------------------------


def expected_duet(world: World, name: str) -> dict[str, torch.Tensor]:
    """The equations of docs/method.md, in float64 and with task vectors."""
    method = METHODS[name]
    gamma, base = (method.merge.params[key] for key in ("gamma", "alpha_base"))
    before, stage = world.chains[name]
    theta = FAMILY.rules.split_roles(world.setting.theta_0.tensors, method.head).shared
    merged = {}
    for key, zero in theta.items():
        old = before.merged.shared[key].double() - zero.double()
        new = stage.trained.state.shared[key].double() - zero.double()
        p = (old.abs().sum() - new.abs().sum()) / ((old + new).abs().sum() + 1e-8)
        alpha = base + gamma * math.tanh(p.item())
        merged[key] = (zero.double() + alpha * old + (1 - alpha) * new).float()
    return merged


def test_merged_trunk_follows_the_equation(world: World) -> None:
    merged = world.chains["duet"][1].merged
    for key, expected in expected_duet(world, "duet").items():
        torch.testing.assert_close(merged.shared[key], expected, rtol=1e-5, atol=1e-7)


def test_merged_statistics_are_the_mixture(world: World) -> None:
    before, stage = world.chains["duet"]
    for key, got in stage.merged.buffers.items():
        if not key.endswith("running_var"):
            continue
        pairs = [
            (buffers[key.replace("_var", "_mean")].double(), buffers[key].double())
            for buffers in (before.merged.buffers, stage.trained.state.buffers)
        ]
        mean = sum(m for m, _ in pairs) / 2
        expected = sum(v + (m - mean) ** 2 for m, v in pairs) / 2
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["duet", "refit", "frozen"])
def test_old_parts_stay_bit_for_bit(world: World, name: str) -> None:
    before, stage = world.chains[name]
    old = replace(stage.merged, shared=before.merged.shared, buffers=before.merged.buffers,
                  parts=stage.merged.parts[:-1])  # fmt: skip
    assert not moved(flat(before.merged), flat(old))


def test_frozen_control_keeps_old_answers_bit_for_bit(world: World) -> None:
    before, stage = world.chains["frozen"]
    assert not moved(before.merged.shared, stage.merged.shared)
    assert not moved(before.merged.buffers, stage.merged.buffers)
    # The old detector in the same form: its new part says something else altogether.
    new = stage.merged.parts[1]
    other = {k: v * 2 if v.is_floating_point() else v for k, v in new.tensors.items()}
    parts = (*before.merged.parts, replace(new, tensors=other))
    old, joined = answers(replace(before.merged, parts=parts)), answers(stage.merged)
    seen = 4 + len(before.merged.labels)
    assert torch.equal(old[:, :seen], joined[:, :seen])
    assert not torch.equal(old[:, seen:], joined[:, seen:])
    # One head alone runs as plain convolutions, which round differently.
    torch.testing.assert_close(joined[:, :seen], answers(before.merged), rtol=1e-4, atol=1e-4)


def test_plain_fine_tuning_moves_everything(world: World) -> None:
    before, stage = world.chains["seq-ft"]
    assert not moved(stage.trained.state.shared, stage.merged.shared)
    assert moved(before.merged.parts[0].tensors, stage.merged.parts[0].tensors)
    assert moved(before.merged.shared, stage.merged.shared)


def test_refit_changes_the_new_part_alone(world: World) -> None:
    stage = world.chains["refit"][1]
    assert stage.refit is not None
    unfit = replace(stage.merged, parts=(*stage.merged.parts[:-1], stage.trained.state.parts[-1]))
    changed = moved(flat(unfit), flat(stage.merged))
    assert changed
    assert {name.split("/")[1] for name in changed} == {"1"}
    assert not moved(flat(stage.refit.state), flat(stage.merged))


# ---- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_kept_detectors_load_again(world: World, name: str) -> None:
    for number, result in enumerate(world.chains[name], start=1):
        folder = world.folder / "run" / "models" / name / f"{number}-{result.increment.name}"
        loaded = load_detector(folder)
        assert loaded.state.fingerprint() == result.merged.fingerprint()
        assert loaded.manifest.image_size == 64


def test_trained_old_rows_leave_no_increments(world: World) -> None:
    assert not (world.folder / "run" / "increments" / "seq-ft").exists()


def plan_of(
    world: World, name: str, chosen: tuple[int, ...] = (0, 1), method: Strategy | None = None,
    start: str | None = None,
) -> Plan:  # fmt: skip
    """Plan a merge of kept increments of a chain with a method's merge settings."""
    method = method or METHODS[name]
    folder = world.folder / "run" / "increments" / name
    paths = [folder / world.chains[name][index].increment.name for index in chosen]
    recipe = Recipe(
        method=method.merge.method, params=method.merge.params, batchnorm=method.batchnorm,
        increments=tuple(Entry(path=str(path)) for path in paths), weights=start,
    )  # fmt: skip
    return make_plan(recipe)


def remerged(world: World, name: str, **options: Any) -> Remerged:
    return merge_plan(plan_of(world, name, start=start_of(world), **options))


def start_of(world: World, name: str = "start", more: float = 0) -> str:
    """Return a file with θ_0, or with other weights."""
    path = world.folder / f"{name}.safetensors"
    tensors = world.setting.theta_0.tensors
    write_tensors(path, {k: v + more if v.is_floating_point() else v for k, v in tensors.items()})
    return str(path)


@pytest.mark.parametrize("name", ["duet", "refit", "frozen", "fisher"])
def test_merging_again_gives_the_same_bits(world: World, name: str) -> None:
    for count in (1, 2):
        result = remerged(world, name, chosen=tuple(range(count)))
        assert result.state.fingerprint() == world.chains[name][count - 1].merged.fingerprint()
        assert len(result.traces) == count - 1
        assert not result.remarks


@pytest.mark.parametrize("name", ["duet", "refit"])
def test_merging_into_a_folder_gives_the_same_bits(world: World, name: str, tmp_path: Path) -> None:
    written = write_detector(plan_of(world, name, start=start_of(world)), tmp_path / "out")
    loaded = load_detector(tmp_path / "out")
    assert loaded.state.fingerprint() == world.chains[name][-1].merged.fingerprint()
    assert written.manifest == loaded.manifest
    assert load_traces(tmp_path / "out") == written.result.traces
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # no workspace is left


def test_an_increment_trained_apart_merges_with_the_base(world: World) -> None:
    night, method = world.setting.series.increments[1], METHODS["refit"]
    result = run_independent(world.setting, method, night)
    folder = keep_independent(world.folder / "apart", world.setting, method, result)
    manifest = load_increment(folder).manifest
    assert (manifest.kind, manifest.parent, manifest.index) == ("independent", None, 0)
    base = world.folder / "run" / "increments" / "refit" / "day"
    entries = (Entry(path=str(base)), Entry(path=str(folder)))
    recipe = Recipe(method="ties", increments=entries, weights=start_of(world))
    plan = make_plan(recipe)
    assert (plan.geometry, plan.ancestor) == ("independent", None)
    state = merge_plan(plan).state
    assert state.labels.names == NAMES[:3]
    assert not moved(state.parts[1].tensors, result.merged.parts[0].tensors)


def test_kept_detectors_know_their_recipe(world: World) -> None:
    folder = world.folder / "run" / "models" / "duet" / "2-night"
    recipe = load_detector(folder).manifest.recipe
    assert recipe is not None
    assert recipe["method"] == "duet"
    paths = [folder / entry["path"] for entry in recipe["increments"]]
    found = [load_increment(path).manifest.fingerprint() for path in paths]
    assert found == [entry["fingerprint"] for entry in recipe["increments"]]
    assert len(load_traces(folder)) == 1


def test_kept_stages_are_not_held_in_memory(world: World) -> None:
    setting = replace(world.setting, lab=Lab(world.folder / "lab"))
    method, held = METHODS["refit"], list[weakref.ref[DetectorState]]()

    def watched() -> Iterator[StageResult]:
        for result in chain_stages(setting, method):
            held.extend(weakref.ref(state) for state in (result.merged, result.trained.state))
            yield result

    stages = list(kept_stages(world.folder / "run", setting, method, watched()))
    gc.collect()
    assert [one() for one in held] == [None] * 4
    assert [stage.merged.fingerprint() for stage in stages] == [
        result.merged.fingerprint() for result in world.chains["refit"]
    ]


def test_folders_that_lost_their_manifest_are_set_aside(world: World, tmp_path: Path) -> None:
    heard: list[str] = []

    def listen(_title: str, record: dict[str, Any]) -> None:
        heard.extend([record["note"]] if "note" in record else [])

    setting = replace(world.setting, lab=Lab(tmp_path / "lab", listen=listen))
    method, results, out = METHODS["refit"], world.chains["refit"], tmp_path / "run"
    keep_chain(out, setting, method, results)
    written = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    first, second = kept_models(out, method)
    (first / "manifest.json").unlink()
    with pytest.raises(ModelError, match=r"stage 1 is missing or has no manifest\.json"):
        require_whole(kept_models(out, method))
    (out / "increments" / "refit" / "night" / "manifest.json").write_text("{")
    (second / "model.safetensors").write_bytes(b"")  # the manifest says whose it was
    keep_chain(out, setting, method, results)
    assert {path: path.read_bytes() for path in written} == written
    assert len(heard) == 2
    assert (first.parent / "damaged-1-1-day" / "model.safetensors").is_file()
    assert (out / "increments" / "refit" / "damaged-1-night" / "manifest.json").is_file()
    assert kept_models(out, method) == [first, second]
    require_whole([first, second])
    with pytest.raises(ModelError, match="stage 1 is missing"):
        require_whole([second])


def test_increments_tell_what_they_were_trained_with_not_what_runs_now(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, results = METHODS["refit"], world.chains["refit"]
    kept = world.folder / "run" / "increments" / "refit"
    monkeypatch.setattr("duet.training.outcome.versions", lambda: {"torch": "9.9.9"})
    schedule = world.setting.schedule.model_copy(update={"workers": 7, "device": "9"})
    keep_chain(tmp_path, replace(world.setting, schedule=schedule), method, results)
    for name in ("day", "night"):
        manifest = load_increment(tmp_path / "increments" / "refit" / name).manifest
        assert manifest.versions["torch"] == importlib.metadata.version("torch")
        assert manifest.fingerprint() == load_increment(kept / name).manifest.fingerprint()


@pytest.mark.parametrize("name", ["duet", "refit"])
def test_fishers_are_kept(world: World, name: str) -> None:
    for file, result in zip(increments(world, name), world.chains[name], strict=True):
        assert file.manifest.fisher_images == result.trained.fisher_images == 2
        assert file.fisher is not None
        assert result.trained.fisher is not None
        assert file.fisher.keys() == result.merged.shared.keys()  # fewer than the base's rows share
        assert not moved(file.fisher, {key: result.trained.fisher[key] for key in file.fisher})


def test_a_frozen_trunk_has_no_fisher(world: World) -> None:
    base, stage = increments(world, "frozen")
    assert base.fisher is not None
    assert stage.fisher is None


def with_merge(name: str, **params: float) -> Strategy:
    merge = MergeChoice(method="duet", params=params)
    return METHODS[name].model_copy(update={"merge": merge})


@pytest.mark.parametrize(
    ("alpha", "kept"), [pytest.param(1.0, "old", id="alpha 1"), pytest.param(0.0, "new", id="0")]
)
def test_extreme_weights_give_one_trunk_back(world: World, alpha: float, kept: str) -> None:
    before, stage = world.chains["duet"]
    method = with_merge("duet", alpha_base=alpha, gamma=0)
    state = remerged(world, "duet", method=method).state
    expected = before.merged if kept == "old" else stage.trained.state
    assert not moved(expected.shared, state.shared)
    other = stage.trained.state if kept == "old" else before.merged
    assert moved(other.shared, state.shared)


def test_another_alpha_gives_another_detector(world: World) -> None:
    state = remerged(world, "duet", method=with_merge("duet", alpha_base=0.7, gamma=0.2)).state
    merged = world.chains["duet"][1].merged
    changed = moved(flat(merged), flat(state))
    assert {name.split("/")[0] for name in changed} == {"shared"}
    assert state.fingerprint() != merged.fingerprint()


def test_refit_on_other_weights_is_remarked(world: World) -> None:
    files = increments(world, "refit")
    assert files[1].manifest.refit_on == fingerprint(world.chains["refit"][1].merged.shared)
    method = with_merge("refit", alpha_base=0.9, gamma=0)
    result = remerged(world, "refit", method=method)
    state, (remark,) = result.state, result.remarks
    assert "'night' was re-fit on other merged weights" in remark
    assert not moved(world.chains["refit"][1].merged.parts[1].tensors, state.parts[1].tensors)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        pytest.param((1,), "in order", id="no base"),
        pytest.param((1, 0), "in order", id="other order"),
        pytest.param((0, 0), "occurs 2 times", id="twice"),
    ],
)
def test_incomplete_chains_are_refused(world: World, chosen: tuple[int, ...], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        plan_of(world, "duet", chosen)


def test_head_forms_are_not_mixed(world: World) -> None:
    plans = [plan_of(world, name, (0,)) for name in ("refit", "duet")]
    entries = tuple(plan.recipe.increments[0] for plan in plans)
    with pytest.raises(ModelError, match="head: "):
        make_plan(Recipe(increments=entries))


def test_another_base_is_refused(world: World) -> None:
    other = start_of(world, "other", more=1)
    with pytest.raises(ModelError, match="other start weights"):
        merge_plan(plan_of(world, "duet", start=other))


def test_theta_0_is_asked_for(world: World) -> None:
    with pytest.raises(ModelError, match="need the start weights"):
        merge_plan(plan_of(world, "duet"))
