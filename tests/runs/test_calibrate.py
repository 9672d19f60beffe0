"""Scores that are calibrated: on labels, on an earlier detector, by command, kept and merged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories_detectors import SIZE, doubled, make_detector
from factories_foreign import CLASSES, stored
from factories_run import duet_here
from factories_series import make_series, write_image, write_labels
from supervision import box_iou_batch

import duet
import duet.images
from duet.calibration.colours import as_if, colours_of
from duet.detections import Detections
from duet.errors import ConfigError
from duet.images import read_image
from duet.increments.base import StartWeights
from duet.increments.colours import Colours
from duet.increments.state import DetectorState
from duet.increments.store import DetectorFile, load_detector
from duet.inference.load import load
from duet.recipes.model import Model
from duet.runs.calibrate import by_detector, calibrated
from duet.runs.cells import evaluate_cells
from duet.runs.evaluate import FOR_AP, detector_of, predict
from duet.runs.lab import Lab
from duet.runs.recalibrate import recalibrate
from duet.runs.setting import Before, Setting
from duet.runs.there import read_data
from duet.series.reader import read_series
from duet.training.schedule import Schedule

NAMES = ("cat", "dog", "bus")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_detector(tmp_path_factory.mktemp("calibrate") / "model", state=doubled())


@pytest.fixture(scope="module")
def series(folder: Path) -> Path:
    """Every other one of the detector's answers is an object: half of what it says is right."""
    root, state = folder.parent, load_detector(folder).state
    places = [(domain, split) for domain in ("day", "night") for split in ("train", "val")]
    for number, (domain, split) in enumerate(places):
        images = [
            write_image(root / domain / "images" / split / f"{n}.png", seed=n, size=(SIZE, SIZE))
            for n in range(8 * number, 8 * number + 8)
        ]
        for path, found in zip(images, predict(detector_of(state, SIZE), images), strict=True):
            sure = _apart(found.above(0.1))
            boxes = np.clip(sure.xyxy, 0, SIZE)
            sides = np.hstack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]])
            rows = [
                f"{index} {' '.join(f'{value / SIZE:.6f}' for value in side)}"
                for index, side in zip(sure.class_ids[::2], sides[::2], strict=True)
                if side[2:].min() > 2
            ]
            write_labels(root / domain, split, path.stem, list(dict.fromkeys(rows)))
        (root / domain / "data.yaml").write_text(
            json.dumps({"names": list(NAMES), "train": "images/train", "val": "images/val"})
        )
    return make_series(root)


def _apart(found: Detections) -> Detections:
    """Leave out what the doctor would take for one object labelled twice."""
    same = box_iou_batch(found.xyxy, found.xyxy) > 0.6
    same &= found.class_ids[:, None] == found.class_ids
    keep = ~np.tril(same, -1).any(axis=1)
    return Detections(found.xyxy[keep], found.scores[keep], found.class_ids[keep], found.labels)


def model(folder: Path) -> Model:
    return Model(load_detector(folder), folder, True)


def test_labels_make_scores_the_share_that_is_right_and_leave_ap_alone(
    folder: Path, series: Path, tmp_path: Path
) -> None:
    data = read_series(series)
    made = recalibrate(model(folder), tmp_path, series=data)
    assert set(made.scores) == set(NAMES)
    assert made.unfitted == ()
    before, after = model(folder).state, made.model.state
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            before.to_tensors().values(), after.to_tensors().values(), strict=True
        )
    )
    assert made.model.manifest.fingerprint == after.fingerprint() != before.fingerprint()
    rows = [evaluate_cells(state, data, "val", SIZE) for state in (before, after)]
    for one, other in zip(*rows, strict=True):
        assert (one.ap50, one.map) == (other.ap50, other.map)
    for name, found in rows[1][0].deployed.classes.items():
        assert found.threshold == made.scores[name].threshold


def test_a_wanted_precision_is_kept(folder: Path, series: Path, tmp_path: Path) -> None:
    data = read_series(series)
    loose, strict = (
        recalibrate(model(folder), tmp_path, series=data, precision=share) for share in (0.2, 0.8)
    )
    for name in NAMES:
        assert (loose.scores[name].threshold or 0) <= (strict.scores[name].threshold or 0)
    for made, wanted in ((loose, 0.2), (strict, 0.8)):
        cells = evaluate_cells(made.model.state, data, "val", SIZE)
        for name in NAMES:
            rows = [
                cell.deployed.classes[name] for cell in cells if cell.taught and name in cell.ap50
            ]
            found, wrong = (sum(getattr(row, side) for row in rows) for side in ("found", "wrong"))
            share = found / max(found + wrong, 1)
            assert made.short.get(name, wanted) == pytest.approx(min(share, wanted), abs=1e-9)
    assert loose.scores != strict.scores


def test_a_precision_that_cannot_be_had_is_told(
    folder: Path, series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "day", tmp_path / "out"
    shutil.copytree(series.parent / "day", data)
    for labels in (data / "labels" / "val").iterdir():
        labels.write_text("".join(labels.read_text().splitlines(keepends=True)[1:]))  # the surest
    done = duet_here(
        capsys, "calibrate", folder, "--series", data, "--precision", 1, "--out", out, "--json"
    )
    assert done.code == 0, done.err
    short = done.json()["short"]
    assert short
    for name, share in short.items():
        assert f"warning: {name}: {share:.1%} of what its threshold shows is right" in done.err
        assert "less than the 100.0% asked for" in done.err


def _fallen(state: DetectorState, by: float) -> DetectorState:
    """Return a detector whose log-odds all are lower."""
    rows = {f"cv3.{level}.2.bias" for level in range(3)}
    parts = tuple(
        replace(
            part,
            tensors={name: t - by if name in rows else t for name, t in part.tensors.items()},
        )
        for part in state.parts
    )
    assert rows <= set(parts[0].tensors)
    return replace(state, parts=parts)


def test_an_earlier_detector_brings_scores_back_without_a_label(
    folder: Path, series: Path, tmp_path: Path
) -> None:
    state = load_detector(folder).state
    low = make_detector(tmp_path / "low", state=_fallen(state, 1.0))
    images = series.parent / "day" / "images" / "train"
    made = recalibrate(model(low), tmp_path, images=images, before=folder)
    for one in made.scores.values():
        assert one.scale == 1
        assert one.offset == pytest.approx(1, abs=0.05)
        assert one.threshold is None
    file = DetectorFile(made.model.state, made.model.manifest)
    paths = sorted(images.iterdir())
    was = predict(detector_of(state, SIZE), paths, view=FOR_AP)
    raw = predict(detector_of(file.state, SIZE), paths, view=FOR_AP)
    assert max(one.scores.max() for one in raw) < max(one.scores.max() for one in was) - 0.05
    sure = [len(duet.load(folder)(path, confidence=0.5)) for path in paths]
    saved = duet.load(low).calibrate(images=images, before=folder)
    now = [len(saved(path, confidence=0.5)) for path in paths]
    assert sum(sure) > 0
    assert abs(sum(sure) - sum(now)) <= max(2, 0.15 * sum(sure))


def test_images_get_the_colours_that_old_classes_were_learned_on(
    folder: Path, series: Path, tmp_path: Path
) -> None:
    earlier = load_detector(folder).state
    now = _fallen(earlier, 1.0)
    images = sorted((series.parent / "day" / "images" / "train").iterdir())
    own, old = colours_of(images), Colours(mean=(60, 90, 40), spread=(20, 90, 40))
    moved = [tmp_path / path.name for path in images]  # PNG, which keeps every pixel
    for path, target in zip(images, moved, strict=True):
        duet.images.write_image(target, as_if(read_image(path), own, old))
    remembers = replace(earlier, parts=tuple(replace(part, colours=old) for part in earlier.parts))
    maps = by_detector(now, remembers, NAMES, images, SIZE)
    assert maps == by_detector(now, earlier, NAMES, moved, SIZE)
    assert maps != by_detector(now, earlier, NAMES, images, SIZE)


def test_the_command_writes_a_detector_that_predicts_at_its_thresholds(
    folder: Path, series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "calibrated"
    done = duet_here(
        capsys, "calibrate", folder, "--series", series, "--precision", 0.6, "--out", out, "--json"
    )
    assert done.code == 0, done.err
    told = done.json()
    kept = {
        name: one for part in load_detector(out).manifest.parts for name, one in part.scores.items()
    }
    assert {name: one.model_dump() for name, one in kept.items()} == told["scores"]
    limits = {name: one["threshold"] for name, one in told["scores"].items()}
    detector = load(out)
    assert detector.thresholds() == pytest.approx(limits)
    for path in sorted((series.parent / "day" / "images" / "val").iterdir()):
        found = detector(path)
        assert all(
            score > limits[name] for name, score in zip(found.names, found.scores, strict=True)
        )
    done = duet_here(capsys, "calibrate", folder, "--series", series, "--out", out)
    assert done.code != 0
    assert "already exists and is not empty" in done.err


def test_a_data_set_alone_has_labels_enough(
    folder: Path, series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = series.parent / "day" / "data.yaml"
    done = duet_here(
        capsys, "calibrate", folder, "--series", data, "--out", tmp_path / "out", "--json"
    )
    assert done.code == 0, done.err
    maps = done.json()["scores"]
    assert set(maps) == set(NAMES)
    assert all(one["threshold"] for one in maps.values())
    mine = duet.load(folder).calibrate(data)
    assert {name: one.model_dump() for name, one in mine.model.state.scores.items()} == maps  # type: ignore[union-attr]


def test_nothing_to_calibrate_on_and_strangers_are_refused(
    folder: Path, series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = duet_here(capsys, "calibrate", folder, "--out", tmp_path / "x")
    assert done.code == 2
    assert "give --series SERIES.yaml, or --images FOLDER" in done.err
    images = series.parent / "day" / "images" / "train"
    done = duet_here(capsys, "calibrate", folder, "--images", images, "--out", tmp_path / "x")
    assert done.code == 4
    assert "keeps no recipe" in done.err
    done = duet_here(
        capsys, "calibrate", folder, "--series", series, "--split", "tset", "--out", tmp_path / "x"
    )
    assert done.code == 3
    assert not (tmp_path / "x").exists()


def test_a_stage_is_calibrated_on_its_labels_and_on_the_detector_before_it(
    folder: Path, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read_series(series)
    merged = load_detector(folder).state
    merged = replace(
        merged,
        parts=tuple(
            replace(part, increment=step.name)
            for part, step in zip(merged.parts, data.increments, strict=True)
        ),
    )
    first = replace(merged, parts=merged.parts[:1])
    setting = Setting(
        series=data, family="yolo", architecture=merged.architecture,
        theta_0=StartWeights({}), schedule=Schedule(image_size=SIZE, device="cpu"), seed=0,
        lab=Lab(tmp_path / "lab"),
    )  # fmt: skip
    one = calibrated(setting, data.increments[0], first, None)
    assert set(one.scores) == {"cat", "dog"}
    assert all(row.threshold and not row.identity for row in one.scores.values())
    assert one.parts[0].colours is not None
    fallen = _fallen(merged, 1.5)
    before = Before(one, {}, 1, 8, image_size=SIZE)
    two = calibrated(setting, data.increments[1], fallen, before)
    assert set(two.scores) == {"cat", "dog", "bus"}
    assert two.scores["bus"].threshold
    for name in ("cat", "dog"):
        row, was = two.scores[name], one.scores[name]
        assert (row.scale, row.threshold) == (was.scale, was.threshold)
        assert row.offset > was.offset + 0.5 * was.scale
    assert two.parts[-1].colours is not None
    kept = sorted((tmp_path / "lab").glob("scores-*.json"))
    assert len(kept) == 2
    times = [path.stat().st_mtime_ns for path in kept]
    assert calibrated(setting, data.increments[1], fallen, before).scores == two.scores
    assert [path.stat().st_mtime_ns for path in kept] == times
    monkeypatch.setattr("duet.runs.calibrate.ONE_BOX", ("another rule",))
    calibrated(setting, data.increments[1], fallen, before)
    assert len([*(tmp_path / "lab").glob("scores-*.json")]) == 3


def test_a_model_of_another_program_is_calibrated(
    series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It finds none of the objects, is kept all the same, and the command says so."""
    mine, out = stored(tmp_path / "mine.pt"), tmp_path / "out"
    data = series.parent / "day" / "data.yaml"
    done = duet_here(capsys, "calibrate", mine, "--series", data, "--out", out, "--json")
    assert done.code == 0, done.err
    assert done.json()["scores"].keys() | set(done.json()["unfitted"]) == {"cat"}
    for name in done.json()["unfitted"]:
        assert f"warning: {name}: not found on these images" in done.err
    kept = load_detector(out)
    assert kept.state.labels.names == CLASSES
    assert kept.manifest.image_size == 320


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"precision": float("nan")}, "above 0 and at most 1, got nan"),
        ({"precision": 1.5}, "above 0 and at most 1, got 1.5"),
        ({"precision": 0.9, "series": None}, "a wanted precision needs labels"),
        ({"before": Path("earlier")}, "an earlier detector is compared on images"),
    ],
)
def test_arguments_that_ask_for_what_cannot_be_are_refused(
    options: dict[str, Any], told: str, folder: Path, series: Path, tmp_path: Path
) -> None:
    given = {"series": read_series(series), **options}
    if given["series"] is None:
        given["images"] = series.parent / "day" / "images" / "val"
    with pytest.raises(ConfigError, match=told):
        recalibrate(model(folder), tmp_path, **given)


def test_images_that_were_trained_on_are_told_and_may_be_looked_at(
    series: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(series.parent / "day", tmp_path / "day"))
    document = {"names": list(NAMES), "train": "images/val", "val": "images/val"}
    (data / "data.yaml").write_text(json.dumps(document))
    there = read_data(data, NAMES)
    assert [one.severity for one in there.warnings if one.code == "image.leak"] != []
    assert {one.severity for one in there.warnings} == {"warning"}
