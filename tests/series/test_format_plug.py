"""A label format is one row of the table: whatever duet asks of one stands in its own file."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from factories_doctor import DAMAGES, add_row, healthy, image, label
from factories_formats import assert_same
from places import REPO

from duet.cli.main import cli
from duet.doctor import examine
from duet.doctor.repair import REPORT, repair
from duet.errors import DataError
from duet.series import read_series
from duet.series.formats import read
from duet.series.formats.base import Format
from duet.series.formats.table import FORMATS, resolve


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return healthy(tmp_path_factory.mktemp("plug"), train=10, val=4)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A series without a fault, in YOLO's format."""
    shutil.copytree(original.parent, tmp_path / "series")
    return tmp_path / "series"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """A fourth format; this row is all that duet is told of it."""
    monkeypatch.setitem(FORMATS._rows, "toy", "toy_format")
    return "toy"


def run(command: str, *arguments: object) -> Any:
    return CliRunner().invoke(cli, ["data", command, *map(str, arguments)])


def converted(folder: Path, form: str, name: str = "new") -> Path:
    """Convert the series and return the file of the result."""
    out = folder.parent / name
    result = run("convert", folder / "series.yaml", out, "--to", form)
    assert result.exception is None, result.output
    return out / "series.yaml"


def codes(path: Path) -> set[str]:
    problems = examine(path).problems
    return {problem.code for problem in problems if problem.severity != "note"}


# -- a format of one file for all labels -----------------------------------------------------------


def test_a_fourth_format_is_read_written_and_checked(folder: Path, toy: str) -> None:
    path = converted(folder, toy)
    found = examine(path)
    assert {data.form for data in found.series.data_sets} == {toy}
    assert codes(path) == set()
    assert run("check", path, "--strict").exception is None
    pairs = zip(
        read_series(folder / "series.yaml").increments, found.series.increments, strict=True
    )
    for before, after in pairs:
        assert after.classes == before.classes
        assert len(after.data.images) == len(before.data.images)
    assert read(path.parent / "day", form="auto", domain="day").data.form == toy


@pytest.mark.parametrize("other", FORMATS)
def test_nothing_is_lost_on_the_way_through_a_fourth_format(
    folder: Path, toy: str, other: str
) -> None:
    first = converted(folder, toy)
    second = converted(first.parent, other, name="there")
    third = converted(second.parent, toy, name="back")
    for path in (second, third):
        pairs = zip(read_series(first).increments, read_series(path).increments, strict=True)
        for before, after in pairs:
            assert_same(before.data, after.data)


def test_a_fourth_format_is_mended(folder: Path, toy: str) -> None:
    path = converted(folder, toy)
    table = path.parent / "day" / "labels.csv"
    lines = table.read_text().splitlines()
    wrong = {
        "label.number": "train,train/train003.jpg,cat,1,2,x,9",
        "label.range": "train,train/train003.jpg,cat,901,10,950,40",
        "label.outside": "train,train/train003.jpg,cat,140,10,170,40",
        "label.tiny": "train,train/train003.jpg,cat,20,20,20.5,60",
    }
    table.write_text("\n".join([*lines, *wrong.values(), ""]))
    shutil.copy(image(folder, 0, "night"), path.parent / "day" / "train" / "other.jpg")
    (path.parent / "day" / "train" / "train001.jpg").write_bytes(b"")
    assert codes(path) == {*wrong, "pair.no-entry", "image.unreadable"}
    out = folder.parent / "mended"
    result = run("check", path, "--fix", out, "--strict")
    assert result.exception is None, result.output
    assert codes(out / "series.yaml") == set()
    assert {data.form for data in examine(out / "series.yaml").series.data_sets} == {toy}
    changes = json.loads((out / REPORT).read_text())["changes"]
    last = len(lines)
    told = {(item["action"], item["code"], item["file"].partition("day/")[2]) for item in changes}
    assert told == {
        ("dropped image", "image.unreadable", "train/train001.jpg"),
        ("dropped image", "pair.no-entry", "train/other.jpg"),
        ("dropped row", "label.number", f"labels.csv:{last + 1}"),
        ("dropped row", "label.range", f"labels.csv:{last + 2}"),
        ("clipped box", "label.outside", "train/train003.jpg"),
        ("dropped row", "label.tiny", "train/train003.jpg"),
    }


def test_options_are_those_of_the_format(folder: Path, toy: str) -> None:
    source = converted(folder, toy).parent / "day"
    plain, moved = (
        read(source, domain="day", options=options).data.splits["val"].annotations[0].boxes
        for options in ({}, {"origin": "1"})
    )
    assert (moved[:, :2] < plain[:, :2]).all()
    for options, words in (
        ({"difficult": "keep"}, "'difficult' is a choice for VOC data, but this is toy"),
        ({"origin": "7"}, "'origin' must be one of 0, 1, got '7'"),
    ):
        (problem,) = read(source, domain="day", options=options).problems
        assert (problem.code, problem.what) == ("data.format", words)
    (problem,) = read(folder / "day", domain="day", options={"origin": "1"}).problems
    assert problem.what == "'origin' is a choice for TOY data, but this is yolo"


def test_a_series_names_a_fourth_format(folder: Path, toy: str) -> None:
    path = converted(folder, toy)
    document = yaml.safe_load(path.read_text())
    for item in document["increments"]:
        item["format"] = toy
    path.write_text(yaml.safe_dump(document))
    assert codes(path) == set()
    refused = run("convert", path, folder.parent / "out", "--to", "try").exception
    assert "did you mean 'toy'" in str(refused)
    assert "toy" in str(refused.remedy)  # known formats


# -- a format with a reader that is there ----------------------------------------------------------


def test_another_name_for_a_format_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("image without label", "label without image", "overshoot", "class id", "pixels"):
        DAMAGES[name].plant(folder)
    usual = examine(folder / "series.yaml")
    assert {"pair.no-label", "pair.no-image"} <= {problem.code for problem in usual.problems}
    kept = repair(usual, folder.parent / "usual")
    monkeypatch.setitem(FORMATS._rows, "four", FORMATS["yolo"])
    document = yaml.safe_load((folder / "series.yaml").read_text())
    for item in document["increments"]:
        item["format"] = "four"
    (folder / "series.yaml").write_text(yaml.safe_dump(document))
    named = examine(folder / "series.yaml")
    assert {data.form for data in named.series.data_sets} == {"four"}
    assert [problem.as_dict() for problem in named.problems] == [
        problem.as_dict() for problem in usual.problems
    ]
    assert repair(named, folder.parent / "named").changes == kept.changes
    for path in sorted((folder.parent / "usual").rglob("*.txt")):
        other = folder.parent / "named" / path.relative_to(folder.parent / "usual")
        assert other.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_offers_all_that_is_asked(name: str) -> None:
    asked = {*Format.__annotations__, *(n for n in vars(Format) if not n.startswith("_"))}
    assert {item for item in asked if not hasattr(resolve(name), item)} == set()


NAMES = re.compile(rf"['\"](?:{'|'.join(FORMATS)}|\.(?:xml|txt))['\"]")
ALIASES = {"duet/cli/predict.py", "duet/cli/export.py"}
"""Files with such a word for something else: records of detections, and a program's name."""


def test_no_format_is_named_outside_its_folder() -> None:
    folders = ("duet/doctor", "duet/runs", "duet/cli")
    paths = [path for name in folders for path in (REPO / name).rglob("*.py")]
    paths += (REPO / "duet/series").glob("*.py")
    assert len(paths) > 50
    found = {str(path.relative_to(REPO)) for path in paths if NAMES.search(path.read_text())}
    assert found - ALIASES == set()


# -- names that look like places -------------------------------------------------------------------


def test_file_names_that_look_like_places_change_nothing(folder: Path) -> None:
    for index, stem in ((7, "a.txt:1"), (8, "a"), (9, "b: object 3")):
        for path in (image(folder, index), label(folder, index)):
            path.rename(path.with_name(f"{stem}{path.suffix}"))
    labels = label(folder, 0).parent
    before = {path.name: path.read_text() for path in sorted(labels.iterdir())}
    bad = {"a.txt:1.txt": "1 80 60 20 20", "a.txt": "1 nan 0.5 0.2 0.2", "b: object 3.txt": "1 2"}
    for name, row in bad.items():
        (labels / name).write_text(f"{row}\n{before[name]}")
    (labels / "b: object 4.txt").write_text("")
    repaired = repair(examine(folder / "series.yaml"), folder.parent / "out")
    told = {(change.file.path.name, change.file.line, change.code) for change in repaired.changes}
    assert told == {
        ("a.txt:1.txt", 1, "label.range"),
        ("a.txt", 1, "label.number"),
        ("b: object 3.txt", 1, "label.columns"),
        ("b: object 4.txt", None, "pair.no-image"),
    }
    copies = repaired.series.parent / "day" / "labels" / "train"
    assert {path.name: path.read_text() for path in sorted(copies.iterdir())} == before


@pytest.mark.parametrize("odd", ["day.txt:7", "day: object 3", "day.xml", "day: annotation 5"])
@pytest.mark.parametrize("form", ["voc", "coco"])
def test_folder_names_that_look_like_places_change_nothing(
    folder: Path, form: str, odd: str
) -> None:
    add_row("0 0.4 0.4 0.005 0.2", 5)(folder)
    path = converted(folder, form)
    (path.parent / "day").rename(path.parent / odd)
    path.write_text(path.read_text().replace("day/data.yaml", f"'{odd}/data.yaml'"))
    repaired = repair(examine(path), folder.parent / "out")
    assert [(change.action, change.code) for change in repaired.changes] == [
        ("dropped row", "label.tiny")
    ]
    (target,) = [*path.parent.glob(f"{odd}/Annotations/train002.xml"),
                 *path.parent.glob(f"{odd}/annotations/instances_train.json")]  # fmt: skip
    text = target.read_text().replace("<name>cat<", "<name>cta<", 1)
    target.write_text(text.replace('"category_id": 1,', '"category_id": 99,', 1))
    with pytest.raises(DataError, match="no repair can tell"):
        repair(examine(path), folder.parent / "other")
