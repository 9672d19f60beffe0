"""Edit history: log, diff, revert, scale and drop-class on chains, stars and independent merges."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import factories_detectors
import factories_run as make
import pytest
import torch
from factories_increments import applied
from factories_states import images, moved
from factories_training import trained_here
from factories_yolo import (
    NAMES,
    YOLO11N,
    YOLOV8N,
    flat,
    make_domain,
    micro_schedule,
    shaken,
    shaken_part,
    theta_0,
)

from duet.errors import ConfigError, ModelError
from duet.export.export import export_detector
from duet.families.yolo.adapter import FAMILY
from duet.families.yolo.build import inference_model
from duet.families.yolo.roles import CLASS_ROWS
from duet.increments.base import StartWeights, load_start, save_base
from duet.increments.manifest import DetectorManifest, IncrementManifest, read_manifest
from duet.increments.state import DetectorState
from duet.increments.store import (
    IncrementFile,
    load_detector,
    load_increment,
    save_detector,
    save_increment,
)
from duet.recipes.apply import merge_plan
from duet.recipes.diff import compare_models
from duet.recipes.drop import drop_classes
from duet.recipes.edits import located, rescale, revert
from duet.recipes.log import read_history
from duet.recipes.plan import make_plan
from duet.recipes.recipe import Entry, Recipe
from duet.recipes.write import write_detector
from duet.runs.keep import keep_chain
from duet.runs.kept import kept_models, require_line
from duet.runs.lab import Lab
from duet.runs.learn import run_chain
from duet.runs.setting import Setting
from duet.series import Increment, Series
from duet.training.config import Directional, Distillation, MergeChoice, Refit, Strategy
from duet.vectors.task_vector import TaskVector

CLASSES = {"day": NAMES[:2], "night": NAMES[2:3], "fog": NAMES[3:5]}
METHOD = Strategy(
    name="towers", head="towers", merge=MergeChoice(method="duet", params={"alpha_base": 0.6}),
    refit=Refit(epochs=1), distill=Distillation(weight=0.1), directional=Directional(weight=0),
)  # fmt: skip
ZERO = "0" * 64


# ---- detectors to edit --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "base.safetensors"
    save_base(path, theta_0())
    return path


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """Train three stages, each in a second; return the run folder."""
    folder = tmp_path_factory.mktemp("chain")

    steps = tuple(
        Increment(
            name, name, classes, make_domain(folder, name, classes=NAMES[:5], count=10, seed=seed)
        )
        for seed, (name, classes) in enumerate(CLASSES.items())
    )
    with trained_here() as here:
        setting = Setting(
            series=Series("toy", "", steps), family="yolo", architecture=YOLO11N,
            theta_0=load_start(weights),
            schedule=micro_schedule(lr=5e-3, fisher_images=0), seed=3,
            lab=Lab(folder / "lab", run=here), weights=weights,
        )  # fmt: skip
        keep_chain(folder / "run", setting, METHOD, run_chain(setting, METHOD))
    return folder / "run"


def stage(run: Path, number: int) -> Path:
    return run / "models" / "towers" / f"{number}-{list(CLASSES)[number - 1]}"


@dataclass(frozen=True)
class Kept:
    """Increment folders that no training made."""

    folder: Path
    weights: Path

    def increment(
        self, name: str, *, kind: str = "independent", head: str = "towers", index: int = 0,
        parent: str | None = None, classes: tuple[str, ...] | None = None,
    ) -> Path:  # fmt: skip
        """Write the increment ``name``, if it is not there yet."""
        path, seed = self.folder / name, sum(map(ord, name))
        if path.exists():
            return path
        theta = load_start(self.weights).tensors
        state = FAMILY.start_state(
            StartWeights(theta), architecture=YOLO11N, head=head, classes=classes or CLASSES[name],
            increment=name, seed=seed,
        )  # fmt: skip
        start = FAMILY.rules.split_roles(theta, head).shared
        vector = TaskVector.between(start, shaken(start, seed))
        manifest = IncrementManifest(
            kind=kind, name=name, family="yolo", architecture=YOLO11N, head=head,
            classes=classes or CLASSES[name], domain=name, index=index, base=vector.base,
            parent=parent, config={"schedule": {"image_size": 64}}, seed=seed, versions={},
            data=ZERO, images=10, bn_weight=10.0, licence=FAMILY.licence,
        )  # fmt: skip
        part = shaken_part(state.parts[0], seed)
        save_increment(path, IncrementFile(manifest, vector, shaken(state.buffers, seed), part))
        return path


@pytest.fixture(scope="module")
def loose(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Kept:
    """Three increments, each from θ_0 alone."""
    kept = Kept(tmp_path_factory.mktemp("loose"), weights)
    for name in CLASSES:
        kept.increment(name)
    return kept


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Kept:
    """A base, and two increments that were each trained from it."""
    kept = Kept(tmp_path_factory.mktemp("star"), weights)
    base = kept.increment("day", kind="base")
    alone = Recipe(increments=(Entry(path=str(base)),), weights=str(weights))
    parent = merge_plan(make_plan(alone)).state.fingerprint()
    for name in ("night", "fog"):
        kept.increment(name, kind="increment", index=1, parent=parent)
    return kept


def merged(kept: Kept, out: Path, *names: str | Entry, **settings: Any) -> Path:
    entries = tuple(
        Entry(path=str(kept.folder / name)) if isinstance(name, str) else name for name in names
    )
    recipe = Recipe(increments=entries, weights=str(kept.weights), **settings)
    return write_detector(make_plan(recipe), out).folder


def again(edit: Any, out: Path) -> DetectorState:
    return write_detector(edit.plan, out).result.state


def state_of(folder: Path) -> DetectorState:
    return load_detector(folder).state


def same(a: DetectorState, b: DetectorState) -> bool:
    return a.fingerprint() == b.fingerprint()


# ---- revert -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_reverting_the_last_stage_gives_the_detector_before(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    done = make.duet_here(capsys, "revert", stage(chain, 3), "fog", "--out", out, "--json")
    assert done.code == 0, done.err
    result = done.json()
    assert (result["schema"], result["exact"], result["geometry"]) == (1, True, "sequential")
    assert "the detector before it" in result["why"]
    assert "note: exact: " in done.err
    assert done.err.strip().splitlines()[-1].startswith("next: duet ")
    assert same(state_of(out), state_of(stage(chain, 2)))
    # Once more, from the result's own recipe.
    edit = revert(out, "night")
    assert edit.exact
    assert same(again(edit, tmp_path / "first"), state_of(stage(chain, 1)))


@pytest.mark.slow
def test_reverting_a_middle_stage_is_not_exact(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    done = make.duet_here(capsys, "revert", stage(chain, 3), "night", "--out", out, "--json")
    assert done.code == 0, done.err
    result = done.json()
    assert not result["exact"]
    assert "fog was trained on top of 'night'" in result["why"]
    assert "note: not exact: fog was" in done.err
    assert any("missing in between" in remark for remark in result["remarks"])
    assert result["classes"] == [*CLASSES["day"], *CLASSES["fog"]]
    # Each half of the merge has the weight that it would have in a chain of two.
    assert not moved(state_of(out).parts[0].tensors, state_of(stage(chain, 1)).parts[0].tensors)
    assert same(again(revert(out, "fog"), tmp_path / "first"), state_of(stage(chain, 1)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "name", "code", "words"),
    [
        (3, "day", 4, "night, fog were trained on top of 'day'"),
        (1, "day", 2, "all that this detector is made of"),
        (3, "nihgt", 2, "did you mean 'night'?"),
    ],
    ids=["base of a chain", "only increment", "unknown"],
)
def test_impossible_reverts_are_refused(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, name: str,
    code: int, words: str,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    done = make.duet_here(capsys, "revert", stage(chain, number), name, "--out", out, "--json")
    assert done.code == code
    assert words in done.error()["message"]
    assert not list(tmp_path.iterdir())


def weighted(weights: list[int], statistics: list[int]) -> dict[str, Any]:
    params, counts = {"weights": weights}, {"weights": statistics}
    return {"method": "average", "params": params, "batchnorm": counts}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "fewer"),
    [
        ({"method": "task-arithmetic", "params": {"weight": 0.4}}, None),
        ({"method": "magmax"}, None),
        (weighted([1, 2, 3], [3, 2, 1]), weighted([1, 3], [3, 1])),
    ],
    ids=["task-arithmetic", "magmax", "average with weights"],
)  # fmt: skip
def test_reverting_an_independent_increment_equals_never_merging_it(
    loose: Kept, tmp_path: Path, settings: dict[str, Any], fewer: dict[str, Any] | None
) -> None:
    all_three = merged(loose, tmp_path / "three", *CLASSES, **settings)
    edit = revert(all_three, "night")
    assert edit.exact
    assert "never had it" in edit.why
    fresh = merged(loose, tmp_path / "two", "day", "fog", **(fewer or settings))
    assert same(again(edit, tmp_path / "reverted"), state_of(fresh))


@pytest.mark.slow
@pytest.mark.parametrize("params", [{}, {"weights": [1, 2]}], ids=["even", "weighted"])
def test_spokes_of_a_star_can_be_reverted(
    star: Kept, tmp_path: Path, params: dict[str, Any]
) -> None:
    full = merged(star, tmp_path / "full", *CLASSES, method="average", params=params)
    edit = revert(full, "night")
    assert edit.exact
    assert edit.plan.ancestor == 0
    without = again(edit, tmp_path / "without")
    # Named, because a base with one increment looks like a chain.
    settings = {"method": "average", "geometry": "independent"}
    assert same(without, state_of(merged(star, tmp_path / "two", "day", "fog", **settings)))
    # The base alone is itself, not a merge of it.
    base = again(revert(tmp_path / "without", "fog"), tmp_path / "base")
    vector = load_increment(star.folder / "day").vector
    start = FAMILY.rules.split_roles(load_start(star.weights).tensors, "towers").shared
    assert not moved(applied(vector, start), base.shared)


@pytest.mark.slow
def test_the_base_of_a_star_is_not_reverted(star: Kept, tmp_path: Path) -> None:
    full = merged(star, tmp_path / "full", *CLASSES, method="average")
    with pytest.raises(ModelError, match="night, fog were trained on top of 'day'"):
        revert(full, "day")


@pytest.mark.slow
def test_a_lost_increment_can_be_reverted(loose: Kept, tmp_path: Path) -> None:
    shutil.copytree(loose.folder, tmp_path / "copy")
    here = replace(loose, folder=tmp_path / "copy")
    full = merged(here, tmp_path / "full", *CLASSES, method="average")
    shutil.rmtree(here.folder / "night")
    fresh = merged(loose, tmp_path / "fresh", "day", "fog", method="average")
    assert same(again(revert(full, "night"), tmp_path / "out"), state_of(fresh))
    with pytest.raises(ModelError, match="'night'"):
        revert(full, "fog")


@pytest.mark.slow
def test_increments_inside_a_merged_detector_are_explained(loose: Kept, tmp_path: Path) -> None:
    two = merged(loose, tmp_path / "two", "day", "night", method="average")
    entries = (Entry(path=str(two)), Entry(path=str(loose.folder / "fog")))
    nested = merged(loose, tmp_path / "nested", *entries, method="average")
    with pytest.raises(ConfigError, match="it came inside a detector"):
        revert(nested, "night")
    assert revert(nested, "two").plan.labels.names == CLASSES["fog"]
    history = read_history(nested)
    assert [step["name"] for step in history["increments"]] == ["day", "night", "fog"]
    assert [(step["name"], step["kind"]) for step in history["models"]] == [("two", "detector")]
    assert history["models"][0]["classes"] == (*CLASSES["day"], *CLASSES["night"])


def test_detectors_without_a_recipe_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = factories_detectors.make_detector(tmp_path / "detector")
    for line in (["revert", detector, "comic"], ["scale", detector, "comic", "0.5"]):
        done = make.duet_here(capsys, *line, "--out", tmp_path / "out")
        assert done.code == 4
        assert "keeps no recipe" in done.err


# ---- scale --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_factor_of_one_restores_the_chain(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["scale", stage(chain, 3), "night", "0.5", "--out", tmp_path / "half", "--json"]
    done = make.duet_here(capsys, *line)
    assert done.code == 0, done.err
    assert not done.json()["exact"]
    assert "fog was trained on top of 'night' as it was" in done.json()["why"]
    half = state_of(tmp_path / "half")
    changed = moved(flat(state_of(stage(chain, 3))), flat(half))
    assert changed
    assert {name.split("/")[0] for name in changed} == {"shared"}
    line = ["scale", tmp_path / "half", "night", "1", "--out", tmp_path / "full", "--json"]
    done = make.duet_here(capsys, *line)
    assert done.json()["exact"]
    assert same(state_of(tmp_path / "full"), state_of(stage(chain, 3)))


@pytest.mark.slow
def test_a_factor_replaces_the_one_before(loose: Kept, tmp_path: Path) -> None:
    full = merged(loose, tmp_path / "full", *CLASSES, method="average")
    edit = rescale(full, "fog", 0.5)
    assert edit.exact
    again(edit, tmp_path / "half")
    twice = again(rescale(tmp_path / "half", "fog", 0.7), tmp_path / "twice")
    assert same(twice, again(rescale(full, "fog", 0.7), tmp_path / "once"))
    assert not same(twice, state_of(tmp_path / "half"))


@pytest.mark.slow
def test_factors_follow_the_equation(loose: Kept, tmp_path: Path) -> None:
    params = {"method": "task-arithmetic", "params": {"weight": 1.0}}
    full = merged(loose, tmp_path / "full", *CLASSES, **params)
    got = again(rescale(full, "day", -0.5), tmp_path / "out").shared
    start = FAMILY.rules.split_roles(load_start(loose.weights).tensors, "towers").shared
    vectors = [load_increment(loose.folder / name).vector.delta for name in CLASSES]
    for name, theta in start.items():
        expected = theta - 0.5 * vectors[0][name] + vectors[1][name] + vectors[2][name]
        torch.testing.assert_close(got[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("factor", ["3", "nan", "much"])
def test_unusable_factors_are_refused(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: str
) -> None:
    line = ["scale", stage(chain, 3), "fog", factor, "--out", tmp_path / "out"]
    done = make.duet_here(capsys, *line)
    assert done.code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_dry_runs_write_nothing(
    loose: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = merged(loose, tmp_path / "full", *CLASSES, method="average")
    for line in (["revert", full, "fog"], ["scale", "--dry-run", full, "fog", "--", "-0.5"]):
        options = ["--out", tmp_path / "out", "--dry-run", "--json"]
        done = make.duet_here(capsys, line[0], *options, *line[1:])
        assert done.code == 0, done.err
        assert done.json()["exact"]
        assert done.json()["detector"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


# ---- drop-class ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("head", ["rows", "towers", "parallel"])
def test_other_classes_keep_their_rows_and_answers(tmp_path: Path, head: str) -> None:
    detector = factories_detectors.make_detector(tmp_path / "old", head=head, increments=3)
    names = ["kite", "dog", "bus"]  # of three increments, one of which goes altogether
    dropped = drop_classes(detector, names, tmp_path / "new")
    before, after = state_of(detector), state_of(tmp_path / "new")
    assert after.labels.names == ("cat", "ship", "tree")
    assert dropped.gone == ("comic",)
    assert dropped.classes == {"flat": ("dog",), "comic": ("bus",), "sketch": ("kite",)}
    assert not moved(before.shared, after.shared)
    assert not moved(before.buffers, after.buffers)
    old, new = answers(before), answers(after)
    if head == "parallel":  # with its part, an increment's boxes go: a third of the places
        count = old.shape[2] // 3
        old = torch.cat([old[..., :count], old[..., 2 * count :]], dim=2)
    kept = [4 + before.labels.index(name) for name in after.labels]
    # In float64, because a convolution of fewer rows may round another way.
    torch.testing.assert_close(new, old[:, [*range(4), *kept]], rtol=1e-12, atol=1e-12)
    for index, part in enumerate(after.parts):
        mine = before.parts[2 * index]
        rows = [mine.classes.index(name) for name in part.classes]
        for name, tensor in part.tensors.items():
            same_rows = mine.tensors[name][rows] if CLASS_ROWS.match(name) else mine.tensors[name]
            assert torch.equal(tensor, same_rows)


def answers(state: DetectorState) -> torch.Tensor:
    with torch.no_grad():
        model = inference_model(state).double()
        decoded: torch.Tensor = model(images().double())[0]
    return decoded


@pytest.mark.slow
def test_dropped_classes_stay_away(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, gone = tmp_path / "deep" / "er" / "out", (NAMES[0], NAMES[3])
    done = make.duet_here(capsys, "drop-class", stage(chain, 3), *gone, "--out", out, "--json")
    assert done.code == 0, done.err
    assert done.json()["dropped"] == {"day": [NAMES[0]], "fog": [NAMES[3]]}
    assert done.json()["remerge"]
    left = [NAMES[1], NAMES[2], NAMES[4]]
    assert done.json()["classes"] == left
    # Merged again from its recipe: the same bits, re-fit rows included.
    assert same(again(rescale(out, "fog", 1), tmp_path / "again"), state_of(out))
    half = again(rescale(out, "fog", 0.5), tmp_path / "half")
    assert list(half.labels) == left
    fewer = again(revert(tmp_path / "half", "night"), tmp_path / "fewer")
    assert list(fewer.labels) == [NAMES[1], NAMES[4]]
    report = export_detector(out, tmp_path / "model.pt", "pt")
    assert list(report.classes) == left


@pytest.mark.slow
@pytest.mark.parametrize("names", [CLASSES["day"], CLASSES["night"]], ids=["base", "later"])
def test_an_increment_may_lose_all_its_classes(
    chain: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    dropped = drop_classes(stage(chain, 3), names, tmp_path / "out")
    assert len(dropped.gone) == 1
    assert "still hold what it taught" in dropped.remarks[0]
    edit = rescale(tmp_path / "out", "fog", 1)
    assert any("no class is left" in remark for remark in edit.plan.remarks)
    assert same(again(edit, tmp_path / "again"), state_of(tmp_path / "out"))


@pytest.mark.slow
def test_renamed_classes_are_dropped_by_their_new_name(loose: Kept, tmp_path: Path) -> None:
    first, second = CLASSES["day"]
    entry = Entry(path=str(loose.folder / "day"), alias={first: second, second: first})
    full = merged(loose, tmp_path / "full", entry, "fog", method="average")
    dropped = drop_classes(full, [first], tmp_path / "out")
    stored = Recipe.model_validate(dropped.manifest.recipe).increments[0]
    assert (stored.drop, stored.alias) == ((second,), {first: second})
    assert same(
        again(rescale(tmp_path / "out", "fog", 1), tmp_path / "x"), state_of(tmp_path / "out")
    )


@pytest.mark.slow
def test_classes_of_merged_detectors_are_dropped(loose: Kept, tmp_path: Path) -> None:
    two = merged(loose, tmp_path / "two", "day", "night", method="average")
    shutil.copytree(loose.folder / "fog", tmp_path / "fog")
    entries = (Entry(path=str(two)), Entry(path=str(tmp_path / "fog")))
    nested = merged(loose, tmp_path / "nested", *entries, method="average")
    dropped = drop_classes(nested, [NAMES[2], NAMES[0]], tmp_path / "out")
    stored = Recipe.model_validate(dropped.manifest.recipe).increments
    assert set(stored[0].drop) == {NAMES[0], NAMES[2]}
    assert not stored[1].drop
    assert same(
        again(rescale(tmp_path / "out", "fog", 1), tmp_path / "x"), state_of(tmp_path / "out")
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("cta", "bsu"), "did you mean 'cat'?"),
        (("cat", "dog", "bus"), "no class would be left"),
    ],
    ids=["unknown", "all"],
)
def test_impossible_drops_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...], words: str
) -> None:
    detector = factories_detectors.make_detector(tmp_path / "old")
    done = make.duet_here(
        capsys, "drop-class", detector, *names, "--out", tmp_path / "new", "--json"
    )
    assert done.code == 2
    assert words in done.error()["message"]
    assert not (tmp_path / "new").exists()


# ---- increments of several runs ------------------------------------------------------------------


def relearned(chain: Path, run: Path, name: str) -> Path:
    """Copy a run whose increment ``name`` was learned again: another one, from the same start."""
    shutil.copytree(chain, run)
    folder = run / "increments" / "towers" / name
    item = load_increment(folder)
    delta = {key: tensor + 1e-3 for key, tensor in item.vector.delta.items()}
    vector = replace(item.vector, delta=delta)
    manifest = item.manifest.model_copy(update={"seed": 99, "files": {}})
    save_increment(folder, replace(item, vector=vector, manifest=manifest), overwrite=True)
    return run


def words_of(run: Path, weights: Path, *names: str) -> list[Any]:
    return [*(run / "increments" / "towers" / name for name in names), "--weights", weights]


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--dry-run"], []], ids=["dry run", "merge"])
@pytest.mark.parametrize("names", [("day", "night"), ("day", "night", "fog")])
def test_the_base_of_another_run_is_refused(
    chain: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    names: tuple[str, ...], more: list[str],
) -> None:  # fmt: skip
    run = relearned(chain, tmp_path / "run", "day")
    words = ["merge", *words_of(run, weights, *names), "--out", tmp_path / "out", "--json", *more]
    done = make.duet_here(capsys, *words)
    assert done.code == 4
    assert "'night': trained on another 'day' than this one" in done.error()["message"]
    assert not (tmp_path / "out").exists()
    words = ["merge", *words_of(chain, weights, *names), "--out", tmp_path / "o", "--json", *more]
    assert make.duet_here(capsys, *words).code == 0


@pytest.mark.slow
def test_a_stage_of_another_run_in_the_middle_is_remarked(
    chain: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = relearned(chain, tmp_path / "run", "night")
    words = words_of(run, weights, *CLASSES)
    done = make.duet_here(capsys, "merge", *words, "--out", tmp_path / "a", "--json")
    assert (done.code, "'fog' was trained on another detector" in done.err) == (0, True)
    for more in (["--method", "average"], ["--scale", "night=0.5"]):  # nobody can know
        done = make.duet_here(capsys, "merge", *words, *more, "--out", tmp_path / more[1], "--json")
        assert (done.code, "trained on another" in done.err) == (0, False)
    words = words_of(chain, weights, *CLASSES)
    done = make.duet_here(capsys, "merge", *words, "--out", tmp_path / "b", "--json")
    assert (done.code, "trained on another" in done.err) == (0, False)


@pytest.mark.slow
def test_stages_after_one_that_was_learned_again_do_not_go_on(chain: Path, tmp_path: Path) -> None:
    def line(run: Path) -> None:
        models = kept_models(run, METHOD)
        folders = [run / "increments" / "towers" / name for name in CLASSES]
        require_line(models, [read_manifest(folder, IncrementManifest) for folder in folders])

    line(chain)
    run = relearned(chain, tmp_path / "run", "night")
    with pytest.raises(ModelError, match="made of another 'night' than the one") as caught:
        line(run)
    assert caught.value.where == str(stage(run, 2))
    assert "learn 'night' again" in (caught.value.remedy or "")


# ---- finding files ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_moved_run_folder_still_works(chain: Path, tmp_path: Path) -> None:
    run = tmp_path / "elsewhere" / "run"
    shutil.copytree(chain, run)
    shutil.move(run / "increments", run / "old")
    shutil.move(run / "old", run / "increments")
    shutil.move(run / "increments" / "towers", run / "increments" / "renamed")
    history = read_history(stage(run, 3))
    assert all(step["found"] and step["intact"] for step in history["increments"])
    assert all("renamed" in str(step["path"]) for step in history["increments"])
    # θ_0 stayed where it was, which is another way from here.
    weights = stage(chain, 3) / read_manifest(stage(chain, 3), DetectorManifest).recipe["weights"]
    recipe = read_manifest(stage(run, 3), DetectorManifest).recipe
    with pytest.raises(ModelError, match="start weights θ_0: not at") as caught:
        located(recipe, stage(run, 3))
    assert caught.value.remedy == "--weights FILE names θ_0"
    found = located(recipe, stage(run, 3), weights=weights)
    assert found.weights == str(weights.resolve())


@pytest.mark.slow
def test_increments_are_found_by_fingerprint(
    loose: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(loose.folder, tmp_path / "copy")
    here = replace(loose, folder=tmp_path / "copy")
    full = merged(here, tmp_path / "full", *CLASSES, method="average")
    shutil.move(here.folder / "day", tmp_path / "attic" / "old" / "renamed")
    shutil.move(here.folder / "night", tmp_path / "cellar")
    # Another increment now stands where the first one was.
    Kept(here.folder, loose.weights).increment("day", classes=("other",))
    line = ["scale", full, "fog", "0.5", "--out", tmp_path / "out", "--json"]
    done = make.duet_here(capsys, *line)
    assert done.code == 4
    record = done.error()
    assert "'day' (fingerprint" in record["message"]
    assert "'night' (fingerprint" in record["message"]
    assert record["suggestion"] == "--increments DIR searches other folders"
    steps = {step["name"]: step for step in read_history(full)["increments"]}
    assert "another one is there now" in str(steps["day"]["problem"])
    assert steps["night"]["problem"] == "not found"
    roots = ["--increments", tmp_path / "attic", "--increments", tmp_path / "cellar"]
    done = make.duet_here(capsys, *line, *roots)
    assert done.code == 0, done.err
    assert make.duet_here(capsys, *line, "--increments", tmp_path / "none").code == 2


@pytest.mark.slow
def test_shipped_start_weights_are_known_by_their_fingerprint(tmp_path: Path) -> None:
    shipped = tmp_path / "mine.safetensors"
    save_base(shipped, factories_detectors.pretrained())
    kept = Kept(tmp_path / "kept", shipped)
    kept.increment("day")
    full = merged(kept, tmp_path / "full", "day", method="average")
    shipped.unlink()
    recipe = read_manifest(full, DetectorManifest).recipe
    assert Path(str(located(recipe, full).weights)).name == "yolo11n-emoji.safetensors"


# ---- log ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_log_tells_the_whole_history(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = make.duet_here(capsys, "log", stage(chain, 3), "--json")
    assert done.code == 0, done.err
    result = done.json()
    assert (result["schema"], result["geometry"], result["intact"]) == (1, "sequential", True)
    assert result["weights"]["found"]
    assert [step["name"] for step in result["increments"]] == list(CLASSES)
    assert [step["kind"] for step in result["increments"]] == ["base", "increment", "increment"]
    assert [step["method"] for step in result["increments"]] == [None, "duet", "duet"]
    for step, (name, classes) in zip(result["increments"], CLASSES.items(), strict=True):
        assert (step["domain"], step["classes"]) == (name, list(classes))
        assert step["found"]
        assert step["intact"]
        assert step["images"] > 0
        manifest = read_manifest(Path(step["path"]), IncrementManifest)
        assert step["fingerprint"] == manifest.fingerprint()
    (merge,) = result["merges"]  # a run keeps the last one
    assert merge["summary"]["alpha_mean"] is not None
    human = make.duet_here(capsys, "log", stage(chain, 3))
    assert "3. fog (increment, fog, " in human.out
    assert "merged by duet, alpha_base=0.6; BatchNorm mixture" in human.out
    assert human.err.strip().splitlines()[-1].startswith("next: duet revert ")


@pytest.mark.slow
def test_log_works_when_everything_is_gone(
    loose: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(loose.folder, tmp_path / "copy")
    here = replace(loose, folder=tmp_path / "copy")
    day = Entry(path=str(here.folder / "day"), scale=0.5, alias={NAMES[0]: "cat"}, drop=(NAMES[1],))
    full = merged(here, tmp_path / "full", day, "fog", method="average")
    vector = here.folder / "fog" / "increment.safetensors"
    vector.write_bytes(vector.read_bytes()[:-1] + b"x")
    shutil.rmtree(here.folder / "day")
    done = make.duet_here(capsys, "log", full, "--json")
    assert done.code == 0, done.err
    first, second = done.json()["increments"]
    assert (first["found"], first["intact"], first["images"]) == (False, None, None)
    assert (first["scale"], first["alias"], first["drop"]) == (0.5, {NAMES[0]: "cat"}, [NAMES[1]])
    assert first["classes"] == ["cat"]
    assert (second["found"], second["intact"]) == (True, False)
    human = make.duet_here(capsys, "log", full).out
    for words in ("scale 0.5", f"renamed: {NAMES[0]} is cat", "not found", "damaged: "):
        assert words in human
    (full / "model.safetensors").write_bytes(b"")
    assert not make.duet_here(capsys, "log", full, "--json").json()["intact"]


@pytest.mark.slow
def test_log_needs_no_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detector = factories_detectors.make_detector(tmp_path / "detector")
    done = make.duet_here(capsys, "log", detector, "--json")
    assert done.code == 0, done.err
    assert not done.json()["recipe"]
    assert [step["classes"] for step in done.json()["increments"]] == [["cat", "dog"], ["bus"]]
    human = make.duet_here(capsys, "log", detector)
    assert "keeps no recipe" in human.err
    assert make.duet_here(capsys, "log", tmp_path / "none").code == 4


# ---- diff ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_diff_of_one_detector_is_nothing(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = make.duet_here(capsys, "diff", stage(chain, 2), stage(chain, 2), "--json")
    assert done.code == 0, done.err
    result = done.json()
    assert result["weights"]["total"]["identical"]
    assert result["weights"]["total"]["cosine"] == pytest.approx(1)
    assert not result["recipe"]
    assert all(part["identical"] for part in result["parts"])
    assert all(row["identical"] for row in result["statistics"].values())


@pytest.mark.slow
def test_diff_follows_the_definitions(chain: Path, weights: Path) -> None:
    result = compare_models(stage(chain, 1), stage(chain, 3))
    assert result["classes"] == {
        "both": list(CLASSES["day"]), "only_a": [],
        "only_b": [*CLASSES["night"], *CLASSES["fog"]], "same_order": True,
    }  # fmt: skip
    assert result["increments"]["only_b"] == ["night", "fog"]
    assert not result["recipe"]
    assert [part["identical"] for part in result["parts"]] == [True]
    a, b = (state_of(stage(chain, number)) for number in (1, 3))
    rows = {row["name"]: row for row in result["weights"]["tensors"]}
    assert rows.keys() == a.shared.keys()
    start = FAMILY.rules.split_roles(load_start(weights).tensors, "towers").shared
    for name, row in rows.items():
        check(row, a.shared[name], b.shared[name], start[name])
    for group in ("roles", "layers"):
        for key in ("change", "tau_a", "norm_a"):
            total = math.sqrt(sum(row[key] ** 2 for row in result["weights"][group]))
            assert total == pytest.approx(result["weights"]["total"][key])
    assert {row["role"] for row in result["weights"]["layers"]} == {"backbone", "neck", "head"}
    assert "model.0" in {row["name"] for row in result["weights"]["layers"]}
    means = [name for name in a.buffers if name.endswith("running_mean")]
    largest = max(float((a.buffers[n] - b.buffers[n]).abs().max()) for n in means)
    assert result["statistics"]["running_mean"]["max_difference"] == pytest.approx(largest)


def check(row: dict[str, Any], a: torch.Tensor, b: torch.Tensor, zero: torch.Tensor) -> None:
    old, new = ((x.double() - zero.double()).flatten() for x in (a, b))
    gap = float((b.double() - a.double()).norm())
    assert row["change"] == pytest.approx(gap, rel=1e-5, abs=1e-12)
    assert row["norm_a"] == pytest.approx(float(a.double().norm()), rel=1e-6)
    assert row["tau_a"] == pytest.approx(float(old.norm()), rel=1e-5, abs=1e-12)
    assert row["tau_b"] == pytest.approx(float(new.norm()), rel=1e-5, abs=1e-12)
    if float(old.norm()) and float(new.norm()):
        assert row["cosine"] == pytest.approx(
            float(old @ new / old.norm() / new.norm()), rel=1e-4, abs=1e-6
        )
    assert row["sign_conflict"] == pytest.approx(float((old * new < 0).double().mean()), abs=1e-9)
    assert row["identical"] == torch.equal(a, b)


@pytest.mark.slow
def test_diff_shows_edits(loose: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = merged(loose, tmp_path / "full", *CLASSES, method="average")
    again(rescale(full, "fog", 0.5), tmp_path / "half")
    drop_classes(tmp_path / "half", [NAMES[0]], tmp_path / "edited")
    human = make.duet_here(capsys, "diff", full, tmp_path / "edited")
    assert human.code == 0, human.err
    for words in (
        f"only in A: {NAMES[0]}", "recipe: fog.scale: 1.0 -> 0.5",
        f"recipe: day.drop: none -> {NAMES[0]}", "head part of day: other shapes",
        "head part of fog: identical to the bit", "running_mean: identical to the bit",
        "more layers (--all)",
    ):  # fmt: skip
        assert words in human.out
    every = make.duet_here(capsys, "diff", full, tmp_path / "edited", "--all").out
    assert len(every.splitlines()) > len(human.out.splitlines())


@pytest.mark.slow
def test_increments_of_one_start_need_no_start(loose: Kept) -> None:
    day, night = loose.folder / "day", loose.folder / "night"
    bare = compare_models(day, night)["weights"]
    full = compare_models(day, night, weights=loose.weights)["weights"]
    assert bare["total"]["relative"] is None
    assert full["total"]["relative"] is not None
    for key in ("change", "tau_a", "tau_b", "cosine", "sign_conflict"):
        assert bare["total"][key] == pytest.approx(full["total"][key], rel=1e-4)
    assert compare_models(day, day)["weights"]["total"]["identical"]


@pytest.mark.slow
def test_an_increment_and_a_detector_need_the_start(loose: Kept, tmp_path: Path) -> None:
    full = merged(loose, tmp_path / "full", *CLASSES, method="average")
    day = loose.folder / "day"
    assert compare_models(day, full)["weights"] is not None  # the recipe knows it
    foreign = factories_detectors.make_detector(tmp_path / "other", head="towers")
    difference = compare_models(day, foreign)
    assert difference["weights"] is None
    assert "are not known" in difference["remarks"][-1]
    assert compare_models(day, foreign, weights=loose.weights)["weights"] is not None
    other = tmp_path / "other.safetensors"
    save_base(other, factories_detectors.pretrained())
    with pytest.raises(ModelError, match="belongs to other start weights"):
        compare_models(day, full, weights=other)


@pytest.mark.slow
def test_diff_compares_what_is_comparable(
    loose: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = factories_detectors.make_detector(tmp_path / "rows", head="rows")
    towers = factories_detectors.make_detector(tmp_path / "towers", head="towers")
    difference = compare_models(rows, towers)
    assert "different head forms" in difference["remarks"][0]
    assert difference["weights"] is not None
    assert difference["weights"]["skipped"]
    assert difference["weights"]["total"]["identical"]
    other = save_v8(tmp_path / "v8")
    done = make.duet_here(capsys, "diff", rows, other, "--json")
    assert done.code == 0, done.err
    assert done.json()["weights"] is None
    assert "different architectures" in done.json()["remarks"][0]
    assert done.json()["classes"]["both"] == ["cat"]
    assert make.duet_here(capsys, "diff", rows, tmp_path / "none").code == 4


def save_v8(folder: Path) -> Path:
    state = FAMILY.start_state(
        StartWeights(theta_0(YOLOV8N)), architecture=YOLOV8N, head="rows", classes=("cat",),
        increment="v8", seed=0,
    )  # fmt: skip
    manifest = DetectorManifest.for_state(state, lineage=(), image_size=64, licence=FAMILY.licence)
    save_detector(folder, state, manifest)
    return folder


@pytest.mark.slow
def test_diff_reads_pt_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detector = factories_detectors.make_detector(tmp_path / "one", head="towers", increments=1)
    export_detector(detector, tmp_path / "one.pt", "pt")
    done = make.duet_here(capsys, "diff", detector, tmp_path / "one.pt", "--json")
    assert done.code == 0, done.err
    result = done.json()
    assert result["b"]["kind"] == "foreign"
    assert result["classes"]["only_a"] == result["classes"]["only_b"] == []
    # The engine keeps half precision.
    assert result["weights"]["total"]["relative"] < 1e-3


@pytest.mark.slow
def test_pt_files_can_be_reverted_and_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = factories_detectors.make_detector(tmp_path / "one", head="towers", increments=1)
    export_detector(detector, tmp_path / "mine.pt", "pt")
    shutil.copy(tmp_path / "mine.pt", tmp_path / "theirs.pt")
    alias = {"cat": "lynx", "dog": "wolf"}
    entries = (
        Entry(path=str(tmp_path / "mine.pt")),
        Entry(path=str(tmp_path / "theirs.pt"), alias=alias),
    )
    full = write_detector(
        make_plan(Recipe(method="average", increments=entries)), tmp_path / "full"
    ).folder
    (tmp_path / "attic").mkdir()
    shutil.move(tmp_path / "theirs.pt", tmp_path / "attic")
    line = ["revert", full, "mine", "--out", tmp_path / "out", "--json"]
    assert "'theirs' (fingerprint" in make.duet_here(capsys, *line).error()["message"]
    done = make.duet_here(capsys, *line, "--increments", tmp_path / "attic")
    assert done.code == 0, done.err
    assert done.json()["classes"] == ["lynx", "wolf"]
    (step,) = read_history(tmp_path / "out")["increments"]
    assert (step["kind"], step["found"], step["intact"]) == ("foreign", True, True)
    assert step["alias"] == alias
    # A factor needs something to count from.
    with pytest.raises(ModelError, match="counts from the start weights"):
        write_detector(rescale(tmp_path / "out", "theirs", 0.5).plan, tmp_path / "half")


@pytest.mark.slow
def test_json_is_json(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["log", stage(chain, 2)], ["diff", stage(chain, 1), stage(chain, 2)]):
        human = make.duet_here(capsys, *line)
        assert human.code == 0
        with pytest.raises(ValueError, match=r"Expecting|Extra"):
            json.loads(human.out)
