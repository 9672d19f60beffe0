"""What stages show: doubles between increments, calibration errors, equal precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories_detectors import SIZE, doubled, make_state
from factories_increments import make_increment
from factories_series import make_dataset, make_series, write_image

from duet.evaluation.ap import ClassAP
from duet.evaluation.deployment import Deployed, calibration_error, log_odds, save_deployed
from duet.evaluation.doubles import Doubles
from duet.evaluation.matches import ClassMatches, Matches
from duet.files import read_json
from duet.increments.manifest import IncrementManifest, read_manifest
from duet.increments.scores import ScoreMap
from duet.increments.state import rescored
from duet.increments.store import save_increment
from duet.results.remembered import EVALUATION, remembered
from duet.runs.cells import evaluate_cells
from duet.runs.deployed import deployments
from duet.runs.remember import found_without, remember_stage
from duet.sealed import unsealed, write_sealed
from duet.series import read_series

NAMES = ("cat", "dog", "bus")
STEPS = [("day", NAMES[:2]), ("night", NAMES[2:])]
MAPS = {1: {}, 2: dict.fromkeys(NAMES, ScoreMap(threshold=0.25))}


def matches(scores: list[float], hit: list[bool]) -> ClassMatches:
    flags = np.array(hit, np.bool_)
    return ClassMatches.counted(
        np.array(scores, np.float32), np.zeros(len(hit), np.int64), flags,
        np.zeros(len(hit), np.bool_), np.array([2]), flags.astype(np.float32),
    )  # fmt: skip


CAT = matches([0.95, 0.55], [True, False])


def write_seen(out: Path) -> ClassAP:
    """Write one double of a cat and a dog, and two of a cat and a bus."""
    pairs = Doubles(
        NAMES, np.array([[0, 1], [0, 2], [2, 0]]), np.full((3, 2), 0.5, np.float32), images=1
    )
    save_deployed(out / "one.npz", Deployed(Matches(np.zeros(1, np.uint64), {"cat": CAT}), pairs))
    return ClassAP({"cat": 1.0}, {"cat": 1.0}, seen="one.npz", objects={"cat": 2})


def test_a_run_tells_doubles_of_one_increment_from_those_of_two(tmp_path: Path) -> None:
    scores = {(2, "day"): write_seen(tmp_path), (2, "night"): ClassAP({}, {})}
    found = deployments(tmp_path, STEPS, MAPS, scores)
    assert set(found) == {(2, "day")}  # nobody looked at the night
    shown = found[2, "day"]
    assert (shown.doubles_within, shown.doubles_between) == (1, 2)
    assert shown.ece == calibration_error([CAT]) == pytest.approx(0.3)
    assert shown.evidence == "one.npz"


def test_what_an_increment_remembers_tells_them_apart_too(tmp_path: Path) -> None:
    series = read_series(_series(tmp_path))
    folder = tmp_path / "increment"
    save_increment(folder, make_increment())
    scores = replace(write_seen(tmp_path), ap50=dict.fromkeys(NAMES[:2], 1.0))
    scores = replace(scores, ap=scores.ap50)
    remember_stage(tmp_path, folder, doubled(), series.increments[0], scores, "val")
    mark = read_manifest(folder, IncrementManifest).fingerprint()
    kept = remembered(folder, mark, pytest.fail)
    assert kept is not None
    shown = kept.cell.deployed
    assert (shown.doubles_within, shown.doubles_between) == (1, 2)
    assert shown.ece == pytest.approx(0.3)


def _series(folder: Path) -> Path:
    for seed, domain in enumerate(("day", "night")):
        data = make_dataset(folder / domain, seed=seed)
        for number, image in enumerate(sorted((data.parent / "images").rglob("*.png"))):
            write_image(image, seed=10 * seed + number, size=(SIZE, SIZE))
    return make_series(folder)


def test_an_evaluation_tells_them_apart_by_detector(tmp_path: Path) -> None:
    cells = evaluate_cells(doubled(), read_series(_series(tmp_path)), "", SIZE)
    assert all(cell.deployed.ece is not None for cell in cells)
    assert all(cell.deployed.doubles_between > 0 for cell in cells)  # a bus is what a cat is
    assert any(cell.deployed.doubles_within > 0 for cell in cells)


def test_and_by_series_where_joint_training_left_one_part(tmp_path: Path) -> None:
    together, joint = read_series(_series(tmp_path)), make_state("rows", 1)
    steps = [
        {"domain": domain, "data": f"{domain}/data.yaml", "classes": [name]}
        for domain, name in (("day", "cat"), ("night", "dog"))
    ]
    apart = read_series(make_series(tmp_path, steps))
    one, two = (evaluate_cells(joint, series, "", SIZE) for series in (together, apart))
    for domain in ("day", "night"):
        (within,) = {c.deployed.doubles_within for c in one if c.domain == domain}
        (between,) = {c.deployed.doubles_between for c in two if c.domain == domain}
        assert within == between > 0
    assert {c.deployed.doubles_between for c in one} == {0}
    assert {c.deployed.doubles_within for c in two} == {0}


def test_what_came_together_did_so_where_some_of_it_is_measured(tmp_path: Path) -> None:
    whole = evaluate_cells(doubled(), read_series(_series(tmp_path)), "", SIZE)
    counts = {(c.deployed.doubles_within, c.deployed.doubles_between) for c in whole[:2]}
    for name in ("dog", "bus"):
        step = {"domain": "day", "data": "day/data.yaml", "classes": [name]}
        some = read_series(make_series(tmp_path, [step]))
        (cell,) = evaluate_cells(doubled(), some, "", SIZE)
        assert {(cell.deployed.doubles_within, cell.deployed.doubles_between)} == counts
    assert next(iter(counts))[0] > 0


TWO = (("day", ("cat",)), ("night", ("bus",)))
IMAGES = 40


def _spread(seed: int, share: float) -> ClassMatches:
    """Return 40 detections, one an image, of which so many are right: the scores say nothing."""
    random = np.random.default_rng(seed)
    hit = random.random(IMAGES) < share
    return ClassMatches.counted(
        scores=np.sort(random.uniform(0.1, 0.95, IMAGES))[::-1].astype(np.float32),
        images=np.arange(IMAGES),
        hit=hit,
        ignored=np.zeros(IMAGES, np.bool_),
        truths=np.ones(IMAGES, np.int64),
        iou=np.where(hit, 0.8, 0).astype(np.float32),
    )


def _save(folder: Path, name: str, **classes: ClassMatches) -> ClassAP:
    none = Doubles(tuple(classes), np.zeros((0, 2), np.int64), np.zeros((0, 2), np.float32), IMAGES)
    matches = Matches(keys=np.arange(IMAGES, dtype=np.uint64), classes=classes)
    save_deployed(folder / name, Deployed(matches, none))
    return ClassAP({}, {}, None, name)


def test_the_error_of_raw_scores_and_equal_precision_are_those_of_the_stage(tmp_path: Path) -> None:
    by = ScoreMap(scale=0.5, offset=1.5, threshold=0.6)
    cat, later = _spread(0, 0.9), _spread(1, 0.6)
    mapped = replace(
        later, scores=(1 / (1 + np.exp(-(by.scale * log_odds(later.scores) + by.offset))))
        .astype(np.float32),
    )  # fmt: skip
    scores = {
        (2, "day"): _save(tmp_path, "2", cat=mapped, bus=_spread(2, 0.5)),
        (1, "day"): _save(tmp_path, "1", cat=cat),
    }
    found = deployments(tmp_path, TWO, {1: {}, 2: {"cat": by}}, scores)
    assert list(found) == list(scores)
    first, second = found[1, "day"], found[2, "day"]
    assert first.ece_raw == first.ece  # no map
    expected = calibration_error([later, _spread(2, 0.5)])
    assert second.ece_raw == pytest.approx(expected, abs=1e-6)
    assert second.ece != pytest.approx(expected, abs=1e-3)
    # The cat was learned at stage 1; the bus has no stage before, and no day of its own.
    equal = second.classes["cat"].at_precision
    wanted = first.classes["cat"].precision
    assert equal is not None
    assert wanted is not None
    assert equal.precision is not None
    assert equal.precision >= wanted > second.classes["cat"].precision  # type: ignore[operator]
    assert first.classes["cat"].at_precision is None
    assert second.classes["bus"].at_precision is None


def test_what_hangs_on_score_maps_is_counted_with_those_of_then_and_now(tmp_path: Path) -> None:
    """Ten cats score 0.325 to 0.775, and a later map lifts scores by 1 to keep them there."""
    cats = ClassMatches.counted(
        np.arange(0.775, 0.3, -0.05).astype(np.float32), np.arange(10), np.ones(10, np.bool_),
        np.zeros(10, np.bool_), np.ones(10, np.int64), np.ones(10, np.float32),
    )  # fmt: skip
    none = Doubles(("cat",), np.zeros((0, 2), np.int64), np.zeros((0, 2), np.float32), 10)
    seen = Deployed(Matches(np.arange(10, dtype=np.uint64), {"cat": cats}), none)
    save_deployed(tmp_path / "cats.npz", seen)
    scores = ClassAP({"cat": 1.0}, {"cat": 1.0}, seen="cats.npz", objects={"cat": 10})
    folder, state = tmp_path / "increment", make_state("rows", 1)
    then = {"cat": ScoreMap(offset=0.5, threshold=0.4)}
    calibrated = replace(state, parts=rescored(state.parts, then))
    increment = read_series(_series(tmp_path)).increments[0]
    save_increment(folder, make_increment())
    remember_stage(
        tmp_path, folder, calibrated, replace(increment, classes=("cat",)), scores, "val"
    )
    mark = read_manifest(folder, IncrementManifest).fingerprint()
    kept = remembered(folder, mark, pytest.fail)
    assert kept is not None
    assert kept.cell.deployed.classes["cat"].found == 8  # 0.425 and above
    assert found_without(kept, then, then) == 8
    # Without the lift only those that lie 1 log-odds above 0.4 remain: above 0.64.
    assert found_without(kept, then, {"cat": ScoreMap(offset=1.5, threshold=0.4)}) == 3
    assert found_without(kept, then, {"cat": ScoreMap(offset=-1e6, threshold=0.4)}) == 10
    assert found_without(kept, then, {"cat": ScoreMap(offset=1e6, threshold=0.4)}) == 0


@pytest.mark.parametrize("change", [{"scores": {}}, {"threshold": 0.0}, {"threshold": 1.0}])
def test_a_memory_that_contradicts_itself_is_none(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = tmp_path / "increment"
    save_increment(folder, make_increment())
    scores = replace(write_seen(tmp_path), ap50=dict.fromkeys(NAMES[:2], 1.0))
    series = read_series(_series(tmp_path))
    remember_stage(
        tmp_path, folder, doubled(), series.increments[0], replace(scores, ap=scores.ap50), "val"
    )
    document = unsealed(read_json(folder / EVALUATION))
    if "scores" in change:
        document["scores"] = {}
    else:
        document["cells"][0]["deployed"]["classes"]["cat"] |= change
    write_sealed(folder / EVALUATION, document)
    mark, told = read_manifest(folder, IncrementManifest).fingerprint(), list[str]()
    assert remembered(folder, mark, told.append) is None
    assert "nothing is remembered of that stage" in told[0]
