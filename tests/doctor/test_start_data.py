"""Images of the detector that a series goes on from: checked, mended and converted like all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from factories_formats import assert_same
from factories_series import make_dataset, make_series, write_labels

from duet.doctor import examine
from duet.doctor.repair import repair
from duet.errors import DataError
from duet.series import Increment
from duet.series.convert import Conversion, convert
from duet.series.formats.table import FORMATS
from duet.series.reader import StartDetector, inspect_series

DETECTOR = "../models/best.pt"


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A series on a detector that is not there; its own images are for evaluation alone."""
    make_dataset(tmp_path / "mine" / "own", names=("cat", "dog"), counts={"val": 3}, seed=1)
    make_dataset(tmp_path / "mine" / "night", names=("bus",), seed=2)
    start = {"detector": DETECTOR, "domain": "day", "data": "own"}
    night = {"domain": "night", "data": "night/data.yaml", "classes": ["bus"]}
    return make_series(tmp_path / "mine", [night], start=start)


def first(path: Path) -> Increment:
    """Return the start as the doctor reads it."""
    diagnosis = examine(path)
    assert not [problem for problem in diagnosis.problems if problem.severity == "error"]
    return diagnosis.series.increments[0]


def test_the_doctor_sees_them(series: Path) -> None:
    start = first(series)
    assert (start.name, start.domain, start.classes) == ("start", "day", ("cat", "dog"))
    assert start.detector == series.parent / DETECTOR
    write_labels(series.parent / "own", "val", "val1", ["7 0.5 0.5 0.25 0.5"])
    codes = {problem.code for problem in examine(series).problems}
    assert "label.class" in codes
    (series.parent / "own" / "data.yaml").unlink()
    assert any(problem.code.startswith("data.") for problem in examine(series).problems)


def test_classes_are_those_with_a_label_until_the_detector_is_asked(series: Path) -> None:
    for index in range(3):
        write_labels(series.parent / "own", "val", f"val{index}", ["0 0.5 0.5 0.25 0.5"])
    assert first(series).classes == ("cat",)
    known = StartDetector(series.parent / DETECTOR, "best", ("cat", "dog"))
    asked = inspect_series(series, start=known).series.increments[0]
    assert asked.classes == ("cat", "dog")


def test_labels_of_what_shall_be_learned_are_not_known_before(series: Path) -> None:
    names = ("cat", "bus", "van", "kite")
    make_dataset(series.parent / "own", names=names[:3], counts={"val": 3}, seed=1)
    make_dataset(series.parent / "night", names=names[1:], counts={"train": 6, "val": 6}, seed=2)
    document = yaml.safe_load(series.read_text())
    document["increments"][0]["classes"] = list(names[1:])
    series.write_text(yaml.safe_dump(document))
    assert first(series).classes == ("cat",)


def test_more_of_known_classes_may_come_from_the_same_data_set(series: Path) -> None:
    make_dataset(series.parent / "own", names=("cat", "dog"), seed=1)
    document = yaml.safe_load(series.read_text())
    document["increments"].append({"domain": "day", "data": "own/data.yaml", "classes": ["dog"]})
    series.write_text(yaml.safe_dump(document))
    known = StartDetector(series.parent / DETECTOR, "best", ("cat", "dog"))
    asked = inspect_series(series, start=known)
    assert not [problem for problem in asked.problems if problem.severity == "error"]
    notes = {
        str(problem.where) for problem in examine(series).problems if problem.code == "class.few"
    }
    assert notes == {"increment 'night'", "increment 'day'"}  # nothing is trained on the start's


def test_a_repaired_copy_holds_them(series: Path, tmp_path: Path) -> None:
    write_labels(series.parent / "own", "val", "val1", ["0 0.5 0.5 0.25 0.5"] * 2)
    done = repair(examine(series), tmp_path / "copies" / "fixed")
    assert [change.code for change in done.changes] == ["label.duplicate"]
    document = yaml.safe_load(done.series.read_text())
    assert document["start"]["detector"] == "../../models/best.pt"
    assert document["start"]["data"] == "day/data.yaml"
    assert len(first(done.series).data.splits["val"].images) == 3


@pytest.mark.parametrize("form", FORMATS)
def test_a_converted_series_holds_them(series: Path, tmp_path: Path, form: str) -> None:
    target = tmp_path / "copies" / "new"
    told = convert(series, target, Conversion(to=form), lambda *_: None)
    assert [one.data for one in told] == ["day/data.yaml", "night/data.yaml"]
    document = yaml.safe_load((target / "series.yaml").read_text())
    assert document["start"] == {
        "detector": "../../models/best.pt", "domain": "day", "data": "day/data.yaml",
    }  # fmt: skip
    start, was = first(target / "series.yaml"), first(series)
    assert_same(start.data, replace(was.data, source=start.data.source))


def test_images_for_training_are_asked_of_what_is_learned_alone(
    series: Path, tmp_path: Path
) -> None:
    document = yaml.safe_load(series.read_text())
    document["increments"].append({"domain": "day", "data": "own", "classes": ["dog"]})
    series.write_text(yaml.safe_dump(document))
    with pytest.raises(DataError, match="no-train"):
        convert(series, tmp_path / "new", Conversion(to="coco"), lambda *_: None)


def test_a_series_without_images_of_the_start_keeps_its_detector(
    series: Path, tmp_path: Path
) -> None:
    document = yaml.safe_load(series.read_text())
    del document["start"]["data"], document["start"]["domain"]
    series.write_text(yaml.safe_dump(document))
    assert [item.name for item in examine(series).series.increments] == ["night"]
    told = convert(series, tmp_path / "new", Conversion(to="voc"), lambda *_: None)
    assert len(told) == 1
    written = yaml.safe_load((tmp_path / "new" / "series.yaml").read_text())
    assert written["start"] == {"detector": "../models/best.pt"}


def test_a_start_that_is_not_named_is_none(series: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(series.read_text())
    series.write_text(yaml.safe_dump({**document, "start": None}))
    assert [item.name for item in examine(series).series.increments] == ["night"]
    convert(series, tmp_path / "new", Conversion(to="coco"), lambda *_: None)
    assert yaml.safe_load((tmp_path / "new" / "series.yaml").read_text())["start"] is None


def test_an_increment_may_be_called_as_the_file_of_the_detector(series: Path) -> None:
    document = yaml.safe_load(series.read_text())
    document["start"]["detector"] = "night.pt"
    series.write_text(yaml.safe_dump(document))
    assert first(series).classes == ("cat", "dog")
