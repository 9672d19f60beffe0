"""Merged detectors that learn from their specialists, on images without labels."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from factories_states import images, moved
from factories_training import Here, trained_here
from factories_yolo import YOLO11N, alone, flat, make_state, shaken
from places import REPO
from safetensors.torch import save_file

from duet.cli.main import cli
from duet.emoji.build import build
from duet.errors import ModelError
from duet.families.answers import Answers
from duet.families.table import resolve_family
from duet.images import read_image
from duet.increments.manifest import DetectorManifest, Lineage
from duet.increments.state import DetectorState
from duet.increments.store import load_detector, save_detector
from duet.mending.distances import Voice, box_distance, class_distance, class_targets, voices_of
from duet.mending.statistics import blend, interleaved, re_estimate
from duet.merging.batchnorm import BatchNormFusion
from duet.recipes.edits import revert
from duet.recipes.plan import make_plan
from duet.recipes.recipe import Entry, Recipe
from duet.runs.lab import Lab
from duet.runs.mend import Specialist, mend, require_teachable, specialists_of
from duet.training.config import Mend
from duet.training.ema import tensors_of
from duet.training.precision import resolve_precision

FAMILY = resolve_family("yolo")
SIDE = 128
"""Of scenes, pixels."""

EXACT = resolve_precision("fp32", torch.device("cpu"))


# ---- what a detector answers --------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [YOLO11N, "yolov10n.yaml"])
@pytest.mark.parametrize("head", ["rows", "towers", "parallel"])
@pytest.mark.parametrize("sizes", [(3,), (2, 1, 2)])
def test_a_state_comes_back_from_what_is_asked(
    architecture: str, head: str, sizes: tuple[int, ...]
) -> None:
    state = make_state(head, sizes, architecture=architecture)
    asked = FAMILY.answering(state)
    back = asked.state({name: one.clone() for name, one in tensors_of(asked.module).items()})
    assert not moved(flat(state), flat(back))
    named = {asked.name_of(name) for name, _ in asked.module.named_parameters()}
    assert set(state.shared) <= named
    asked.module.eval()
    with torch.no_grad():
        ours = asked.look(images())
    theirs = FAMILY.specialist(state, EXACT)(images())
    assert len(ours) == len(theirs) == (2 if architecture == "yolov10n.yaml" else 1)
    boxes = len(sizes) if head == "parallel" else 1
    for one, other in zip(ours, theirs, strict=True):
        assert one.scores.shape[1] == sum(sizes)
        assert len(one.boxes) == len(other.boxes) == boxes
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-3, atol=1e-3)


def test_families_that_do_not_say_what_they_answer_are_refused() -> None:
    with pytest.raises(ModelError, match="cannot be mended"):
        resolve_family("rtdetr").answering(make_state("rows"))


# ---- distances ----------------------------------------------------------------------------------


def answers(seed: int, classes: int = 3, bins: int = 4) -> Answers:
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn((2, classes, 7), generator=draw)
    return Answers(scores, (torch.randn((2, 4 * bins, 7), generator=draw),))


def test_voices_pair_classes_by_name() -> None:
    found = voices_of([("cat", "dog"), ("bus",)], [[("bus", "owl")], [("dog",), ("cat",)]], [1, 2])
    assert found == [Voice(0, 0, (0,), (2,)), Voice(1, 0, (0,), (1,)), Voice(1, 1, (1,), (0,))]


def test_equal_answers_are_no_distance_apart() -> None:
    one = answers(0)
    voices = voices_of([("a", "b", "c")], [[("a", "b", "c")]], [1])
    targets = class_targets(voices, [one], 3)
    assert float(class_distance(one.scores, targets, [2, 1])) == pytest.approx(0, abs=1e-5)
    assert float(box_distance(one.boxes[0], voices, [one], 4)) == pytest.approx(0, abs=1e-6)
    other = answers(1)
    assert float(class_distance(other.scores, targets, [2, 1])) > 0.1
    assert float(box_distance(other.boxes[0], voices, [one], 4)) > 0.1


def test_class_distance_is_the_divergence_over_the_targets() -> None:
    scores, targets = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[1.0, 0.5]]])
    sigmoid = scores.sigmoid()
    divergence = -sigmoid[0, 0, 0].log() + 0.5 * (0.5 / sigmoid[0, 0, 1]).log()
    divergence = divergence + 0.5 * (0.5 / (1 - sigmoid[0, 0, 1])).log()
    assert float(class_distance(scores, targets, [1])) == pytest.approx(float(divergence) / 1.5)


def test_a_class_of_two_specialists_has_the_mean_of_both() -> None:
    both = [answers(0, 1), answers(1, 2)]
    voices = voices_of([("a", "b")], [[("a",)], [("a", "b")]], [1, 1])
    found = class_targets(voices, both, 2)
    one, two = (item.scores.sigmoid() for item in both)
    torch.testing.assert_close(found[:, 0], (one[:, 0] + two[:, 0]) / 2)
    torch.testing.assert_close(found[:, 1], two[:, 1])


def test_boxes_are_those_of_the_surest() -> None:
    sure, unsure = answers(0, 1), answers(1, 1)
    sure = replace(sure, scores=torch.full_like(sure.scores, 4.0))
    unsure = replace(unsure, scores=torch.full_like(unsure.scores, -4.0))
    voices = voices_of([("a",), ("b",)], [[("a",)], [("b",)]], [1, 1])
    assert float(box_distance(sure.boxes[0], voices, [sure, unsure], 4)) == pytest.approx(0)
    assert float(box_distance(unsure.boxes[0], voices, [sure, unsure], 4)) > 0.1
    sides = box_distance(sure.boxes[0] + 2, voices, [sure, unsure], 1)
    assert float(sides) == pytest.approx(4)


# ---- statistics ---------------------------------------------------------------------------------


def test_statistics_are_those_of_what_is_read() -> None:
    layer = torch.nn.BatchNorm2d(3)
    network = torch.nn.Sequential(layer)
    stored = {name: one.clone() for name, one in network.state_dict().items()}
    seen = images(6, 8) * 3 + 1
    re_estimate(network, [seen])
    torch.testing.assert_close(layer.running_mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(layer.running_var, seen.var((0, 2, 3)))
    assert not network.training
    assert layer.momentum == 0.1
    assert int(layer.num_batches_tracked or 0) == 0
    now = {name: one.clone() for name, one in network.state_dict().items()}
    blend(network, stored, 0.5)
    halfway = (stored["0.running_mean"] + now["0.running_mean"]) / 2
    torch.testing.assert_close(layer.running_mean, halfway)
    assert layer.running_var is not None
    least = torch.minimum(stored["0.running_var"], now["0.running_var"])
    assert bool((layer.running_var > least).all())


def test_batches_show_every_group_equally_often() -> None:
    seen = [number for batch in interleaved((6, 2), batch=5) for number in batch]
    assert len(seen) == 12
    assert sorted(set(seen)) == [*range(8)]
    assert sum(number >= 6 for number in seen) == 6
    sizes = [len(batch) for batch in interleaved((6, 2), batch=5)]
    assert max(sizes) - min(sizes) <= 1


# ---- mending ------------------------------------------------------------------------------------


@pytest.fixture
def here() -> Iterator[Here]:
    with trained_here() as found:
        yield found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        picture = draw.integers(0, 255, (6, 8, 3)).astype(np.uint8)
        big = cv2.resize(picture, (80, 60), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / f"{number}.png"), big)
    return folder


@functools.cache
def models(head: str = "towers") -> tuple[DetectorState, list[Specialist]]:
    """Return what is left of a trained detector of two parts, and one model that has each of them.

    Fresh weights would answer nothing anywhere, which is quickly learned.
    """
    start = FAMILY.weights(REPO / "weights" / "yolo11n-emoji.safetensors")
    given: dict[str, Any] = {"architecture": YOLO11N, "head": head, "seed": 0}
    groups = start.classes[:20], start.classes[20:30]
    states = [
        FAMILY.start_state(start, classes=names, increment=f"t{k}", **given)
        for k, names in enumerate(groups)
    ]
    teach = [Specialist(name, one) for name, one in zip(("first", "second"), states, strict=True)]
    parts = tuple(one.parts[0] for one in states)
    return replace(states[0], shared=shaken(states[0].shared, 3, 0.1), parts=parts), teach


def mended(state: DetectorState, teach: list[Specialist], photos: Path, lab: Path, **more: Any):  # type: ignore[no-untyped-def]
    given = {"epochs": 3, "lr": 2e-3, "batch": 3} | more
    return mend(state, teach, [photos], Mend(**given), image_size=64, lab=Lab(lab))


def distance(state: DetectorState, teach: list[Specialist], photos: Path) -> float:
    """Return how far a detector is from its specialists on some images."""
    seen = FAMILY.prepare([read_image(one) for one in sorted(photos.iterdir())], image_size=SIDE)
    ours = FAMILY.specialist(state, EXACT)(seen)
    theirs = [FAMILY.specialist(one.state, EXACT)(seen)[0] for one in teach]
    parts = [[part.classes for part in one.state.parts] for one in teach]
    mine = [part.classes for part in state.parts]
    voices = voices_of(mine, parts, [len(one.boxes) for one in theirs])
    targets = class_targets(voices, theirs, len(state.labels))
    return float(class_distance(ours[0].scores, targets, [*map(len, mine)]))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["rows", "towers", "parallel"])
def test_a_mended_detector_is_nearer_to_its_specialists(
    head: str, here: Here, tmp_path: Path
) -> None:
    state, teach = models(head)
    build(tmp_path / "data", train=24, val=1, test=1, domains=("flat",), focus={"flat": ("cat",)})
    scenes = tmp_path / "data" / "flat" / "images" / "train"
    settings = Mend(epochs=10, lr=1e-3, batch=8)
    made = mend(state, teach, [scenes], settings, image_size=SIDE, lab=Lab(tmp_path / "lab"))
    assert distance(made.state, teach, scenes) < 0.7 * distance(state, teach, scenes)
    layers = FAMILY.rules.layers(state.shared, state.architecture)
    still = {name for name, layer in layers.items() if layer.role == "backbone"}
    changed = moved(state.shared, made.state.shared)
    assert not still & changed
    assert changed & (set(state.shared) - still)
    assert [part.classes for part in made.state.parts] == [part.classes for part in state.parts]
    assert dict(made.images) == {str(scenes): 24}
    assert [one.name for one in made.taught] == ["first", "second"]


@pytest.mark.slow
def test_mending_again_gives_the_same_bits_and_trains_once(
    here: Here, photos: Path, tmp_path: Path
) -> None:
    state, teach = models()
    one = mended(state, teach, photos, tmp_path / "one")
    again = mended(state, teach, photos, tmp_path / "one")
    assert len(here.ran) == 1
    other = mended(state, teach, photos, tmp_path / "two")
    assert len(here.ran) == 2
    for found in (again, other):
        assert not moved(flat(one.state), flat(found.state))
    moves = mended(state, teach, photos, tmp_path / "three", seed=1)
    assert moved(flat(one.state), flat(moves.state))
    assert not [*(tmp_path / "one").rglob("specialist-*")]


@pytest.mark.slow
def test_the_head_alone_or_all_may_learn(here: Here, photos: Path, tmp_path: Path) -> None:
    state, teach = models()
    layers = FAMILY.rules.layers(state.shared, state.architecture)
    for trains, roles in (("head", {"head"}), ("all", {"backbone", "neck", "head"})):
        made = mended(state, teach, photos, tmp_path / trains, trains=trains, epochs=1)
        changed = {layers[name].role for name in moved(state.shared, made.state.shared)}
        assert changed == roles


def test_specialists_that_do_not_fit_are_all_named() -> None:
    state, teach = models()
    other = Specialist("other", replace(teach[1].state, architecture="yolo11s.yaml"))
    with pytest.raises(
        ModelError, match=r"(?s)'other': its architecture.*nobody teaches"
    ) as caught:
        require_teachable(state, [other])
    assert "merged from" in (caught.value.remedy or "")


# ---- commands -----------------------------------------------------------------------------------


def keep(folder: Path, state: DetectorState, name: str) -> Path:
    part = replace(state.parts[0], increment=name)
    state = replace(state, parts=(part,))
    manifest = DetectorManifest.for_state(
        state, lineage=(Lineage(increment=name, manifest="0" * 64),), image_size=64,
        licence="AGPL-3.0-or-later",
    )  # fmt: skip
    save_detector(folder, state, manifest)
    return folder


def run(*words: object) -> dict[str, Any]:
    done = CliRunner().invoke(cli, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_a_merge_is_mended_in_one_command_or_in_two(
    here: Here, photos: Path, tmp_path: Path
) -> None:
    _, teach = models()
    paths = [keep(tmp_path / one.name, one.state, one.name) for one in teach]
    run("merge", *paths, "--out", tmp_path / "plain")
    two = run("mend", tmp_path / "plain", "--images", photos, "--out", tmp_path / "two")
    one = run("merge", *paths, "--mend", photos, "--out", tmp_path / "one")
    assert one["fingerprint"] == two["fingerprint"]
    assert [item["name"] for item in one["teachers"]] == ["first", "second"]
    assert one["images"] == {str(photos): 6}
    kept = load_detector(tmp_path / "one").manifest.recipe
    assert kept is not None
    assert kept["mend"]["images"] == ["../photos"]
    plain = load_detector(tmp_path / "plain").state
    assert moved(plain.shared, load_detector(tmp_path / "one").state.shared)
    assert not [*tmp_path.glob(".*mending")]
    edit = revert(tmp_path / "one", "second")
    assert any("mended" in line for line in edit.plan.remarks)
    assert edit.plan.recipe.mend is None
    told = run(
        "mend", tmp_path / "plain", "--images", photos, "--teachers", paths[0], "--teachers",
        paths[1], "--epochs", 1, "--out", tmp_path / "three",
    )  # fmt: skip
    assert told["fingerprint"] != one["fingerprint"]


def test_a_detector_without_recipe_wants_its_teachers_named(photos: Path, tmp_path: Path) -> None:
    state, _ = models()
    model = keep(tmp_path / "model", alone(state, 0), "first")
    done = CliRunner().invoke(
        cli, ["mend", str(model), "--images", str(photos), "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 2
    assert "--teachers" in done.output
    assert not (tmp_path / "out").exists()


def test_models_of_a_merge_teach_in_full_whatever_their_scale(tmp_path: Path) -> None:
    _, teach = models()
    paths = [keep(tmp_path / one.name, one.state, one.name) for one in teach]
    scaled = Entry(path=str(paths[0]), alias={teach[0].state.labels.names[0]: "mug"}, scale=0.5)
    weights = tmp_path / "start.safetensors"
    save_file({**FAMILY.whole(teach[1].state)}, weights)
    recipe = Recipe(
        method="average", increments=(scaled, Entry(path=str(paths[1]))), weights=str(weights),
        batchnorm=BatchNormFusion(weights=(1.0, 3.0)),
    )  # fmt: skip
    first, second = specialists_of(make_plan(recipe))
    assert first.state.labels.names[:2] == ("mug", teach[0].state.labels.names[1])
    assert not moved(teach[0].state.shared, first.state.shared)
    assert not moved(teach[1].state.buffers, second.state.buffers)


@pytest.mark.parametrize(("images", "epochs"), [(400, 12), (60, 80), (10_000, 12)])
def test_few_images_are_seen_more_often(images: int, epochs: int) -> None:
    assert Mend().epochs_of(images) == epochs
    assert Mend(epochs=3).epochs_of(images) == 3
