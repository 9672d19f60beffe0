"""What users see: one box per object, and the detector's own thresholds, on every path."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from factories_detectors import doubled, make_detector
from factories_states import scored
from supervision import box_iou_batch

import duet
from duet.cli.main import cli
from duet.defaults import AGNOSTIC, CLEAR, CONFIDENCE, DOUBLE_IOU
from duet.detections import Detections
from duet.errors import ConfigError, ModelError
from duet.evaluation.deployment import log_odds
from duet.export.export import export_detector
from duet.images import write_image
from duet.increments.scores import ScoreMap
from duet.increments.state import DetectorState
from duet.inference import load as opening
from duet.inference.detector import LoadedDetector
from duet.inference.load import load
from duet.inference.options import Options
from duet.inference.predict import predict_source
from duet.inference.tracking import LOW, NO_TRACK, Tracker

IMAGE = np.random.default_rng(31).integers(0, 255, (90, 70, 3), dtype=np.uint8)
OWN = {"cat": 0.4, "bus": 0.7}


def comparable() -> DetectorState:
    """Return a detector whose towers answer alike, with thresholds as calibrated ones have."""
    return scored(doubled(), dict.fromkeys(("cat", "dog", "bus"), ScoreMap(threshold=CONFIDENCE)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_detector(tmp_path_factory.mktemp("answers") / "detector", state=comparable())


@pytest.fixture(scope="module")
def detector(folder: Path) -> LoadedDetector:
    return load(folder)


def own(detector: LoadedDetector) -> LoadedDetector:
    """Return the same detector, with thresholds of its own."""
    return replace(detector, facts=replace(detector.facts, thresholds=OWN))


MARGIN = {"off": 0.0, "increments": CLEAR, "all": 0.0}


def doubles(found: Detections, agnostic: str = "off") -> int:
    """Return pairs of boxes of different increments (a bus is the only class of the second) that
    differ enough for ``agnostic``."""
    odds = log_odds(found.scores)
    overlaps = np.triu(box_iou_batch(found.xyxy, found.xyxy) > DOUBLE_IOU, 1)
    new = np.array([name == "bus" for name in found.names])
    differ = np.abs(odds[:, None] - odds) >= MARGIN[agnostic]
    return int((overlaps & differ & (new[:, None] != new)).sum())


def invoke(*arguments: object) -> Result:
    done = CliRunner().invoke(cli, ["predict", *map(str, arguments)], standalone_mode=False)
    assert done.exception is None, done.exception
    return done


def test_two_towers_answer_one_object_once(detector: LoadedDetector, folder: Path) -> None:
    off = detector(IMAGE, agnostic="off")
    for agnostic in ("increments", "all"):
        found = detector(IMAGE, agnostic=agnostic)  # type: ignore[arg-type]
        assert doubles(found, agnostic) == 0 < doubles(off, agnostic)
        assert 0 < len(found) < len(off)
        assert duet.load(folder)(IMAGE, agnostic=agnostic).as_records() == found.as_records()  # type: ignore[arg-type]
    assert detector(IMAGE).as_records() == detector(IMAGE, agnostic=AGNOSTIC).as_records()


@pytest.mark.parametrize("raw", [("cat", "dog", "bus"), ("bus",)])
def test_scores_that_nobody_made_comparable_hide_nothing(
    raw: tuple[str, ...], tmp_path: Path
) -> None:
    """A new branch that is sure of everything would hide what the old one finds."""
    state = comparable()
    maps = {name: one for name, one in state.scores.items() if name not in raw}
    detector = load(make_detector(tmp_path / "raw", state=scored(state.uncalibrated(), maps)))
    off, found = (detector(IMAGE, agnostic=one) for one in ("off", "increments"))
    assert found.as_records() == off.as_records()
    assert doubles(detector(IMAGE, agnostic="all"), "all") == 0 < doubles(off, "all")


def test_the_command_suppresses_and_says_so(
    detector: LoadedDetector, folder: Path, tmp_path: Path
) -> None:
    write_image(tmp_path / "a.png", IMAGE)
    done = invoke(folder, tmp_path, "--agnostic-nms", "increments", "--json")
    document = json.loads(done.stdout)
    expected = detector(IMAGE, agnostic="increments")
    assert document["agnostic_nms"] == "increments"
    assert document["thresholds"] == dict.fromkeys(("cat", "dog", "bus"), CONFIDENCE)
    assert len(document["images"][0]["detections"]) == len(expected)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_an_exported_file_answers_once_too(
    form: str, detector: LoadedDetector, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"model.{form}"
    export_detector(folder, path, form)
    exported = load(path)
    for agnostic in ("off", "increments", "all"):
        one, other = (look(IMAGE, agnostic=agnostic) for look in (detector, exported))  # type: ignore[arg-type]
        assert other.names == one.names
        assert bool(doubles(other, agnostic)) == (agnostic == "off")


@pytest.mark.parametrize("track", [False, True])
def test_streams_take_the_same_options(track: bool, detector: LoadedDetector) -> None:
    from duet.inference.stream import Stream

    if track:
        pytest.importorskip("trackers")
    seen: dict[str, Any] = {}

    def look(images: list[Any], **options: Any) -> list[Detections]:
        seen.update(options)
        return detector.detector(images, **options)

    class Still:
        """A source of two pictures."""

        finite, newest, fps, received = True, False, 10.0, 0

        def __init__(self) -> None:
            self.frames = iter((0.0, 0.1))

        def read(self, deadline: float | None) -> Any:
            from duet.inference.frames import Frame

            time = next(self.frames, None)
            return None if time is None else Frame(IMAGE, 0, time, 0.0, 0)

        def close(self) -> None: ...

    options = Options(agnostic="increments", track=track)
    least = own(detector).least(options.confidence)
    stream = Stream(look, 64, Still(), options, least)  # type: ignore[arg-type]
    found = [one for _, one in stream]
    assert len(found) == 2
    assert all(doubles(one, "increments") == 0 for one in found)
    assert seen["confidence"] == ((LOW,) * 3 if track else (0.4, CONFIDENCE, 0.7))
    assert seen["agnostic"] == "increments"
    if not track:
        expected = own(detector)(IMAGE, agnostic="increments")
        assert found[0].as_records() == expected.as_records()


def test_each_class_counts_from_its_own_threshold(detector: LoadedDetector) -> None:
    every, found = detector(IMAGE, confidence=0.0), own(detector)(IMAGE)
    assert own(detector).thresholds() == {"cat": 0.4, "dog": CONFIDENCE, "bus": 0.7}
    assert "bus" in every.above(0.25).names
    assert min(found.scores[[name == "bus" for name in found.names]]) > 0.7
    asked = own(detector)(IMAGE, confidence=0.25)
    assert asked.as_records() == detector(IMAGE).as_records() != found.as_records()
    assert own(detector).many([IMAGE])[0].as_records() == found.as_records()


def test_the_summary_says_which_thresholds_counted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "a.png", IMAGE)
    kept = opening.facts_of
    monkeypatch.setattr(opening, "facts_of", lambda file: replace(kept(file), thresholds=OWN))
    document = json.loads(invoke(folder, tmp_path, "--json").stdout)
    assert document["thresholds"] == {"cat": 0.4, "dog": CONFIDENCE, "bus": 0.7}
    assert document["confidence"] == CONFIDENCE
    text = invoke(folder, tmp_path).stdout
    assert "counted from: cat 0.40, dog 0.25, bus 0.70" in text
    asked = invoke(folder, tmp_path, "--conf", "0.5")
    assert "counted from" not in asked.stdout
    predicted = predict_source(load(folder), tmp_path, confidence=0.5).as_dict()
    assert predicted["thresholds"] == dict.fromkeys(("cat", "dog", "bus"), 0.5)


@pytest.mark.parametrize("value", [{"cat": 1.5}, {"cow": 0.5}, {"cat": float("nan")}])
def test_thresholds_of_nothing_are_refused(value: Any, detector: LoadedDetector) -> None:
    with pytest.raises(ModelError, match=f"for '{next(iter(value))}'"):
        replace(detector.facts, thresholds=value)


def test_an_unknown_suppression_is_refused(detector: LoadedDetector) -> None:
    for refuse in (lambda: detector(IMAGE, agnostic="incremnts"), lambda: Options(agnostic="on")):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="all, increments, off"):
            refuse()


def test_a_track_begins_at_the_threshold_of_its_class(detector: LoadedDetector) -> None:
    pytest.importorskip("trackers")
    tracker = Tracker(confidence=(0.5, 0.25, 0.25), fps=10)
    boxes = np.array([[10, 20, 50, 60], [60, 20, 90, 60]], np.float32)
    both = Detections(boxes, np.array([0.4, 0.4]), np.array([0, 1]), detector.labels)
    for step in range(4):
        found = tracker.update(both, step / 10)
        assert found.names == ("dog",)
    assert found.track_ids.tolist() != [NO_TRACK]
