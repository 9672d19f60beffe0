"""Models that share class names and keep their own head parts, and models weighed by images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from factories_states import moved
from factories_yolo import YOLO11N, make_state, shaken

from duet.cli.main import cli
from duet.errors import ConfigError, ModelError
from duet.increments.manifest import DetectorManifest, Lineage
from duet.increments.store import load_detector, save_detector
from duet.recipes.apply import merge_plan
from duet.recipes.edits import located, revert
from duet.recipes.pairing import kept_apart
from duet.recipes.plan import make_plan
from duet.recipes.recipe import Entry, Recipe
from duet.recipes.sources import describe
from duet.recipes.words import edited


def keep(folder: Path, classes: tuple[str, ...], seed: int) -> Path:
    """Write a detector of one part with these classes."""
    state = make_state("towers", (len(classes),), architecture=YOLO11N)
    part = state.parts[0]
    part = replace(part, classes=classes, tensors=shaken(part.tensors, seed))
    state = replace(state, shared=shaken(state.shared, seed), parts=(part,))
    manifest = DetectorManifest.for_state(
        state, lineage=(Lineage(increment="only", manifest=f"{seed}" * 64),), image_size=64,
        licence="AGPL-3.0-or-later",
    )  # fmt: skip
    save_detector(folder, state, manifest)
    return folder


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return keep(tmp_path / "a", ("cat", "dog"), 1), keep(tmp_path / "b", ("bus", "cat"), 2)


def recipe(two: tuple[Path, Path], *, images: tuple[int | None, ...] = (None, None), **more: Any):  # type: ignore[no-untyped-def]
    entries = [
        Entry(path=str(path), name=name, images=count)
        for path, name, count in zip(two, ("day", "night"), images, strict=True)
    ]
    return Recipe(increments=tuple(entries), **{"method": "average", **more})


def run(*words: object) -> Any:
    return CliRunner().invoke(cli, ["merge", *map(str, words)])


def test_each_model_keeps_its_part_and_shared_names_say_whose(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    day, night = two
    words = [f"day={day}", f"night={night}", "--method", "average", "--keep-apart"]
    result = run(*words, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "'cat' is kept apart as cat@day, cat@night" in result.stderr
    state = load_detector(tmp_path / "out").state
    assert [part.classes for part in state.parts] == [("cat@day", "dog"), ("bus", "cat@night")]
    for folder, part in zip(two, state.parts, strict=True):
        assert not moved(load_detector(folder).state.parts[0].tensors, part.tensors)


def test_the_names_do_not_depend_on_the_order_and_outlive_a_revert(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    day, night = two
    run(f"night={night}", f"day={day}", "--method", "average", "--keep-apart",
        "--out", tmp_path / "out")  # fmt: skip
    file = load_detector(tmp_path / "out")
    assert file.state.labels.names == ("bus", "cat@night", "cat@day", "dog")
    assert file.manifest.recipe is not None
    again = make_plan(located(file.manifest.recipe, tmp_path / "out"))
    assert again.labels.names == file.state.labels.names
    left = revert(tmp_path / "out", "night").plan
    assert left.labels.names == ("cat@day", "dog")


def test_an_alias_of_a_shared_class_leads_to_the_name_of_its_own(two: tuple[Path, Path]) -> None:
    entry = Entry(path=str(two[1]), name="night", alias={"bus": "dog", "cat": "bus"})
    sources = [describe(one, head="towers") for one in (Entry(path=str(two[0]), name="day"), entry)]
    (day, night), _ = kept_apart(sources)
    assert day.entry.alias == {"dog": "dog@day"}
    assert night.entry.alias == {"bus": "dog@night", "cat": "bus"}
    assert (day.classes, night.classes) == (("cat", "dog@day"), ("dog@night", "bus"))


def test_counts_weigh_models_that_do_not_tell_them(two: tuple[Path, Path], tmp_path: Path) -> None:
    day, night = two
    words = [f"day={day}", f"night={night}", "--method", "mtda", "--set", "weights=images"]
    counts = ["--count", "day=900", "--count", "night=300"]
    assert run(*words, *counts, "--out", tmp_path / "out").exit_code == 0
    one, other, both = (load_detector(path).state for path in (day, night, tmp_path / "out"))
    for name, tensor in both.shared.items():
        mean = 0.75 * one.shared[name] + 0.25 * other.shared[name]
        torch.testing.assert_close(tensor, mean, rtol=1e-5, atol=1e-6)


def test_without_any_count_images_weigh_nothing(two: tuple[Path, Path]) -> None:
    for more in (
        {"method": "mtda", "params": {"weights": "images"}},
        {"batchnorm": {"weights": "images"}},
    ):
        with pytest.raises(ModelError, match="not known of day, night") as caught:
            make_plan(recipe(two, **more))
        assert "--count day=IMAGES --count night=IMAGES" in str(caught.value.remedy)
        make_plan(recipe(two, images=(900, 300), **more))
    half = recipe(two, images=(900, None), method="mtda", params={"weights": "images"})
    with pytest.raises(ModelError, match="not known of: night"):
        merge_plan(make_plan(half))


def test_a_count_is_a_number_of_images(two: tuple[Path, Path]) -> None:
    assert edited(recipe(two), counts=["night=12"]).increments[1].images == 12
    for word in ("night=none", "night=0", "night"):
        with pytest.raises(ConfigError):
            edited(recipe(two), counts=[word])
