"""Score maps go with their classes through merges and edits, and are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from factories_detectors import SIZE, make_state
from factories_states import scored
from factories_yolo import shaken_part

from duet.cli.main import cli
from duet.families.yolo.adapter import FAMILY
from duet.increments.manifest import DetectorManifest, Lineage
from duet.increments.scores import ScoreMap
from duet.increments.state import DetectorState
from duet.increments.store import load_detector, save_detector
from duet.recipes.diff import compare_models
from duet.recipes.drop import drop_classes
from duet.recipes.edits import Edit, rescale, revert
from duet.recipes.plan import make_plan
from duet.recipes.recipe import Entry, Recipe
from duet.recipes.write import write_detector

MAPS = {
    "cat": ScoreMap(scale=0.8, offset=-0.25, threshold=0.375),
    "dog": ScoreMap(threshold=0.5),
    "bus": ScoreMap(scale=1.25),
}


def keep(folder: Path, state: DetectorState) -> Path:
    lineage = tuple(
        Lineage(increment=part.increment, manifest=f"{k}" * 64)
        for k, part in enumerate(state.parts)
    )
    manifest = DetectorManifest.for_state(
        state, lineage=lineage, image_size=SIZE, licence=FAMILY.licence
    )
    save_detector(folder, state, manifest)
    return folder


@pytest.fixture(scope="module")
def state() -> DetectorState:
    """Return a detector of the classes cat and dog, and bus."""
    return scored(make_state("towers", 2), MAPS)


def alone(state: DetectorState, index: int) -> DetectorState:
    return replace(state, parts=(state.parts[index],))


def merged(out: Path, *entries: Entry) -> DetectorState:
    write_detector(make_plan(Recipe(method="average", increments=entries)), out)
    return load_detector(out).state


def run(*words: object) -> str:
    done = CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False)
    assert done.exception is None, done.exception
    return done.stdout


def test_a_merge_keeps_the_maps_of_every_class(state: DetectorState, tmp_path: Path) -> None:
    first, second = (keep(tmp_path / f"{k}", alone(state, k)) for k in (0, 1))
    entries = (
        Entry(path=str(first), name="one", alias={"cat": "lynx"}, drop=("dog",)),
        Entry(path=str(second), name="two"),
    )
    result = merged(tmp_path / "out", *entries)
    assert result.labels.names == ("lynx", "bus")
    assert result.scores == {"lynx": MAPS["cat"], "bus": MAPS["bus"]}


def test_a_class_of_several_models_keeps_a_map_that_all_say(
    state: DetectorState, tmp_path: Path
) -> None:
    one = alone(state, 0)
    moved = replace(one, parts=(shaken_part(one.parts[0], seed=3),))
    other = scored(moved, {"cat": MAPS["cat"], "dog": ScoreMap(threshold=0.6)})
    paths = [keep(tmp_path / name, each) for name, each in (("a", one), ("b", other))]
    result = merged(tmp_path / "out", *(Entry(path=str(p), name=f"m{p.name}") for p in paths))
    assert result.labels.names == ("cat", "dog")
    assert result.scores == {"cat": MAPS["cat"]}


def test_parts_of_one_model_that_become_one_bring_all_maps(tmp_path: Path) -> None:
    rows = scored(make_state("rows", 2), MAPS)
    both = replace(rows.parts[0], classes=("cat", "bus"), scores={})
    other = scored(replace(rows, parts=(replace(both, increment="mixed"),)), MAPS)
    paths = [keep(tmp_path / name, each) for name, each in (("a", rows), ("b", other))]
    result = merged(tmp_path / "out", *(Entry(path=str(p), name=f"m{p.name}") for p in paths))
    assert result.scores == MAPS


def test_dropping_a_class_drops_its_map(state: DetectorState, tmp_path: Path) -> None:
    dropped = drop_classes(keep(tmp_path / "all", state), ["cat"], tmp_path / "less")
    assert dropped.state.scores == {name: MAPS[name] for name in ("dog", "bus")}
    assert load_detector(tmp_path / "less").state.scores == dropped.state.scores


def test_a_changed_merge_tells_that_its_maps_are_older(
    state: DetectorState, tmp_path: Path
) -> None:
    for name, one in (("mapped", state), ("raw", state.uncalibrated())):
        paths = [keep(tmp_path / f"{name}-{k}", alone(one, k)) for k in (0, 1)]
        entries = [Entry(path=str(p), name=f"m{k}") for k, p in enumerate(paths)]
        merged(tmp_path / name, *entries)

    def remarks(edit: Edit) -> bool:
        return any("`duet calibrate`" in line for line in edit.plan.remarks)

    assert remarks(rescale(tmp_path / "mapped", "m1", 0.5))
    assert remarks(revert(tmp_path / "mapped", "m0"))
    assert not remarks(rescale(tmp_path / "mapped", "m1", 1))
    assert not remarks(rescale(tmp_path / "raw", "m1", 0.5))


def test_log_tells_maps_and_thresholds(state: DetectorState, tmp_path: Path) -> None:
    folder, plain = keep(tmp_path / "all", state), keep(tmp_path / "raw", state.uncalibrated())
    told = run("log", folder)
    for line in (
        "scores of cat: deployed at 0.375, 0.8 times the logit -0.25",
        "scores of dog: deployed at 0.5\n",
        "scores of bus: 1.25 times the logit +0\n",
    ):
        assert line in told
    assert json.loads(run("log", folder, "--json"))["scores"]["cat"] == {
        "scale": 0.8, "offset": -0.25, "threshold": 0.375,
    }  # fmt: skip
    assert "scores of" not in run("log", plain)


def test_diff_tells_when_only_scores_differ(state: DetectorState, tmp_path: Path) -> None:
    folder = keep(tmp_path / "all", state)
    other = keep(tmp_path / "other", scored(state, {**MAPS, "dog": ScoreMap(threshold=0.6)}))
    found: dict[str, Any] = compare_models(folder, other)
    assert [(part["identical"], part["scores"]) for part in found["parts"]] == [
        (True, ["dog"]), (True, []),
    ]  # fmt: skip
    assert "head part of flat: identical to the bit; other score maps: dog\n" in run(
        "diff", folder, other
    )
    assert "score maps" not in run("diff", folder, folder)
