"""Series: reading, checking and slicing. Data sets are a few images made in `tmp_path`."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from factories_series import (
    CLASSES,
    listing,
    make_clean_series,
    make_dataset,
    make_series,
    write_image,
    write_labels,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from duet.cli.main import cli
from duet.errors import ConfigError, DataError
from duet.labels import LabelSpace
from duet.series import (
    Annotation,
    DomainData,
    Increment,
    Series,
    SeriesConfig,
    Slice,
    Split,
    check_series,
    eval_slice,
    eval_split,
    inspect_series,
    raise_problems,
    read_series,
    train_slice,
)
from duet.series.formats import yolo
from duet.series.formats.table import FORMATS, resolve
from duet.series.formats.yolo_labels import parse_labels
from duet.series.images import inspect_images
from duet.series.problems import Location, Problem, error

Expected = contextlib.AbstractContextManager[Any]
DoesNotRaise = contextlib.nullcontext


def annotation(ids: list[int], size: tuple[int, int] = (32, 24)) -> Annotation:
    boxes = np.tile(np.array([0.5, 0.5, 0.25, 0.5]), (len(ids), 1)).reshape(-1, 4)
    return Annotation(np.array(ids, dtype=np.int64), boxes, *size)


def domain(ids: list[list[int]], names: tuple[str, ...] = CLASSES, split: str = "train") -> Any:
    """A data set in memory: one image per list of class ids."""
    images = tuple(Path(f"{index}.png") for index in range(len(ids)))
    found = Split(split, images, tuple(annotation(item) for item in ids))
    return DomainData("day", LabelSpace(names), {split: found}, Path("data.yaml"))


def codes(problems: tuple[Problem, ...]) -> set[str]:
    return {problem.code for problem in problems}


# -- label rows ------------------------------------------------------------------------------------

ROWS: list[tuple[str, str, list[str], int]] = [
    # id, text, expected codes, rows kept
    ("empty", "", [], 0),
    ("blank lines", "\n  \n", [], 0),
    ("box", "0 0.5 0.5 0.2 0.2", [], 1),
    ("byte order and spaces", "  1\t0.5 0.5  0.2 0.2 \r\n", [], 1),
    ("float id", "1.0 0.5 0.5 0.2 0.2", [], 1),
    ("whole image", "2 0.5 0.5 1 1", [], 1),
    ("within tolerance", "0 1.0009 0.5 0.2 0.2", [], 1),
    ("polygon", "0 0.1 0.2 0.5 0.2 0.3 0.8", [], 1),
    ("confidence", "0 0.5 0.5 0.2 0.2 0.9", ["label.columns"], 0),
    ("four columns", "0 0.5 0.5 0.2", ["label.columns"], 0),
    ("odd polygon", "0 0.1 0.2 0.5 0.2 0.3 0.8 0.1", ["label.columns"], 0),
    ("word", "cat 0.5 0.5 0.2 0.2", ["label.number"], 0),
    ("nan", "0 nan 0.5 0.2 0.2", ["label.number"], 0),
    ("infinite", "0 0.5 0.5 inf 0.2", ["label.number"], 0),
    ("id too high", "3 0.5 0.5 0.2 0.2", ["label.class"], 0),
    ("negative id", "-1 0.5 0.5 0.2 0.2", ["label.class"], 0),
    ("fractional id", "0.5 0.5 0.5 0.2 0.2", ["label.class"], 0),
    ("pixels", "0 16 12 8 8", ["label.range"], 0),
    ("beyond tolerance", "0 1.002 0.5 0.2 0.2", ["label.range"], 0),
    ("polygon outside", "0 -0.5 0.2 0.5 0.2 0.3 0.8", ["label.range"], 0),
    ("no width", "0 0.5 0.5 0 0.2", ["label.degenerate"], 0),
    ("negative height", "0 0.5 0.5 0.2 -0.2", ["label.degenerate"], 0),
    ("flat polygon", "0 0.1 0.2 0.5 0.2 0.3 0.2", ["label.degenerate"], 0),
    ("two mistakes", "9 0.5 0.5 0 0.2", ["label.class", "label.degenerate"], 0),
    ("doubled", "0 0.5 0.5 0.2 0.2\n0 0.50 0.5 0.2 0.2", ["label.duplicate"], 1),
    ("same box, two classes", "0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2", [], 2),
]


@pytest.mark.parametrize(
    ("text", "expected", "kept"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_label_rows(text: str, expected: list[str], kept: int) -> None:
    found = parse_labels(text, Path("a.txt"), class_count=3)
    assert [problem.code for problem in found.problems] == expected
    assert found.boxes.shape == (kept, 4)
    assert found.class_ids.dtype == np.int64
    assert found.boxes.dtype == np.float64
    assert all(problem.where.path == Path("a.txt") for problem in found.problems)
    assert not found.boxes.size or (found.boxes.min() >= 0 and found.boxes.max() <= 1)


def test_polygon_becomes_its_bounding_box() -> None:
    found = parse_labels("1 0.1 0.2 0.5 0.2 0.3 0.8", Path("a.txt"), class_count=3)
    np.testing.assert_allclose(found.boxes, [[0.3, 0.5, 0.4, 0.6]])


def test_problem_names_the_line() -> None:
    text = "0 0.5 0.5 0.2 0.2\n\n7 0.5 0.5 0.2 0.2\n"
    assert parse_labels(text, Path("a.txt"), class_count=3).problems[0].where == Location(
        Path("a.txt"), 3
    )


@given(st.text(alphabet="0123456789.-+e naif\n\t", max_size=80))
def test_any_label_text_gives_valid_rows_or_problems(text: str) -> None:
    found = parse_labels(text, Path("a.txt"), class_count=3)
    Annotation(found.class_ids, found.boxes, 1, 1)
    assert found.problems or len(found.class_ids) == sum(bool(x.split()) for x in text.splitlines())


# -- data.yaml -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "names", "code"),
    [
        ({}, (), "data.names"),
        ({"names": []}, (), "data.names"),
        ({"names": ["a", "b"]}, ("a", "b"), None),
        ({"names": {1: "b", 0: "a"}}, ("a", "b"), None),
        ({"names": {1: "a", 2: "b"}}, (), "data.names"),
        ({"names": {False: "a", True: "b"}}, (), "data.names"),
        ({"names": {"0": "a"}}, (), "data.names"),
        ({"names": [7, "b"], "nc": 2}, ("7", "b"), None),
        ({"names": [False, "b"]}, (), "data.names"),  # an unquoted `no` in YAML
        ({"names": ["a", "a"]}, (), "data.names"),
        ({"names": ["a", " "]}, (), "data.names"),
        ({"names": "a"}, (), "data.names"),
        ({"names": ["a", "b"], "nc": 3}, ("a", "b"), "data.nc"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_names(document: dict[str, Any], names: tuple[str, ...], code: str | None) -> None:
    labels, problems = yolo.read_names(document, Path("data.yaml"))
    assert labels.names == names
    assert [problem.code for problem in problems] == ([code] if code else [])


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/d/images/train/a.jpg", "/d/labels/train/a.txt"),
        ("/d/train/images/a.b.png", "/d/train/labels/a.b.txt"),
        ("/images/d/images/a.jpg", "/images/d/labels/a.txt"),
        ("/d/a.jpg", "/d/a.txt"),
        ("/d/myimages/a.jpg", "/d/myimages/a.txt"),
    ],
)
def test_label_file(image: str, label: str) -> None:
    assert yolo.label_file(Path(image)) == Path(label)


def _list_in_text_file(folder: Path) -> dict[str, Any]:
    (folder / "train.txt").write_text("./images/train/train0.png\n\nimages/train/train1.png\n")
    return {"train": "train.txt"}


def _roboflow(folder: Path) -> dict[str, Any]:
    return {"train": "../images/train"}


def _absolute_path(folder: Path) -> dict[str, Any]:
    return {"path": str(folder), "train": "images/train"}


def _two_folders(folder: Path) -> dict[str, Any]:
    write_image(folder / "more" / "images" / "x.png", seed=77)
    return {"train": ["images/train", "more/images"]}


def _nested_and_foreign_files(folder: Path) -> dict[str, Any]:
    write_image(folder / "images" / "train" / "deep" / "y.PNG", seed=78)
    (folder / "images" / "train" / "notes.md").write_text("no image")
    (folder / "images" / "train" / "._train0.png").write_bytes(b"left by macOS")
    return {"train": "images/train"}


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (_list_in_text_file, 2),
        (_roboflow, 4),
        (_absolute_path, 4),
        (_two_folders, 5),
        (_nested_and_foreign_files, 5),
    ],
)
def test_split_spellings(
    tmp_path: Path, change: Callable[[Path], dict[str, Any]], count: int
) -> None:
    source = make_dataset(tmp_path / "data")
    document = yaml.safe_load(source.read_text())
    source.write_text(yaml.safe_dump({**document, **change(tmp_path / "data"), "task": "detect"}))
    reading = yolo.read(source, domain="day")
    assert reading.problems == ()
    assert len(reading.data.splits["train"].images) == count


def test_image_without_label_file_has_no_objects(tmp_path: Path) -> None:
    source = make_dataset(tmp_path)
    (tmp_path / "labels" / "train" / "train1.txt").unlink()
    reading = yolo.read(source, domain="day")
    assert reading.problems == ()
    assert len(reading.data.splits["train"].annotations[1].class_ids) == 0


def test_download_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    code = f"import pathlib; pathlib.Path({str(mark)!r}).touch()"
    source = make_dataset(tmp_path / "data", extra={"download": code})
    shutil.rmtree(tmp_path / "data" / "images" / "val")
    reading = yolo.read(source, domain="day")
    assert codes(reading.problems) == {"data.images"}
    assert "never downloads" in reading.problems[0].remedy
    assert not mark.exists()


def test_size_is_that_of_the_upright_image(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a phone held upright: stored lying, shown turned by 90 degrees
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    facts = inspect_images([path], verify="full")[path]
    assert (facts.width, facts.height, facts.problem) == (20, 40, None)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_truncated_images_are_found(tmp_path: Path, suffix: str) -> None:
    whole = write_image(tmp_path / f"whole{suffix}", seed=1, size=(160, 160))
    cut = tmp_path / f"cut{suffix}"
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) * 2 // 3])
    facts = inspect_images([whole, cut], verify="full")
    assert facts[whole].problem is None
    assert facts[cut].problem is not None


def test_truncation_is_found_although_another_library_allowed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = write_image(tmp_path / "a.jpg", seed=1, size=(160, 160))
    path.write_bytes(path.read_bytes()[:2000])
    assert inspect_images([path], verify="full")[path].problem is not None
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True  # left as it was


def test_header_verification_reads_sizes(tmp_path: Path) -> None:
    paths = [write_image(tmp_path / f"a{suffix}", seed=1) for suffix in (".png", ".jpg")]
    facts = inspect_images(paths, verify="header")
    assert [(fact.width, fact.height, fact.problem) for fact in facts.values()] == [
        (32, 24, None)
    ] * 2


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"train": None}, "data.no-train"),
        ({"train": ""}, "data.no-train"),
        ({"train": []}, "data.no-train"),
        ({"train": [3]}, "data.split"),
        ({"train": "nowhere"}, "data.images"),
        ({"train": "empty.txt"}, "data.images"),
        ({"train": "binary.txt"}, "image.missing"),
        ({"path": "nowhere"}, "data.images"),
        ({"path": ["a"]}, "data.images"),
    ],
    ids=str,
)
def test_bad_splits_are_problems_not_crashes(
    tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    source = make_dataset(tmp_path, extra=change)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"/\n\x00\xff.jpg\n..\n")
    assert code in codes(yolo.read(source, domain="day").problems)


# -- series file -----------------------------------------------------------------------------------

ITEM = {"domain": "day", "data": "d.yaml", "classes": ["cat"]}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, pytest.raises(ConfigError, match=r"name: missing(.|\n)*increments: missing")),
        ({"name": "a", "increments": []}, pytest.raises(ConfigError, match="increments")),
        ({"name": "a", "increments": [ITEM]}, DoesNotRaise()),
        ({"schema": 1, "name": "a", "increments": [ITEM]}, DoesNotRaise()),
        ({"schema": 2, "name": "a", "increments": [ITEM]}, pytest.raises(ConfigError)),
        (
            {"name": "a", "increments": [{**ITEM, "clases": []}]},
            pytest.raises(ConfigError, match="did you mean 'classes'"),
        ),
        (
            {"name": "a", "increments": [{**ITEM, "format": "yolov8"}]},
            pytest.raises(ConfigError, match="did you mean 'yolo'"),
        ),
        (
            {"name": "a", "increments": [{**ITEM, "name": "x"}, {**ITEM, "name": "x"}]},
            pytest.raises(ConfigError, match="twice: x"),
        ),
        ({"name": "a", "increments": [{**ITEM, "name": "../x"}]}, pytest.raises(ConfigError)),
        ({"name": "a", "increments": [{**ITEM, "domain": ".."}]}, pytest.raises(ConfigError)),
        ({"name": "a", "increments": [{**ITEM, "classes": []}]}, pytest.raises(ConfigError)),
        ({"name": "a", "increments": [{**ITEM, "classes": [True]}]}, pytest.raises(ConfigError)),
        ({"name": "a", "increments": [{**ITEM, "data": "a\0b"}]}, pytest.raises(ConfigError)),
        ([], pytest.raises(ConfigError)),
    ],
)
def test_series_file(tmp_path: Path, document: Any, expected: Expected) -> None:
    path = tmp_path / "series.yaml"
    path.write_text(yaml.safe_dump(document))
    with expected:
        inspect_series(path)


def test_missing_series_file() -> None:
    with pytest.raises(ConfigError) as caught:
        read_series(Path("nowhere.yaml"))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("given_names", "expected"),
    [
        ([None], ("day",)),
        ([None, None, None], ("day", "day-2", "day-3")),
        ([None, "day"], ("day-2", "day")),
        (["first", None, "day-2", None], ("first", "day", "day-2", "day-3")),
    ],
)
def test_default_names_are_unique(given_names: list[str | None], expected: tuple[str, ...]) -> None:
    items = [{**ITEM, "name": name} for name in given_names]
    config = SeriesConfig.model_validate({"name": "a", "increments": items})
    assert config.increment_names() == expected


def test_clean_series_has_no_problem_and_nothing_is_written(tmp_path: Path) -> None:
    path = make_clean_series(tmp_path)
    before = listing(tmp_path)
    inspection = inspect_series(path)
    series = read_series(path)
    assert inspection.problems == ()
    for increment in series.increments:
        _ = train_slice(increment.data, increment.classes).sha256
    assert listing(tmp_path) == before
    assert series.labels.names == ("cat", "dog", "bus")
    assert series.domains == ("day", "night")
    assert series.classes_until(0) == ("cat", "dog")
    assert series.increments[1].data.splits["train"].annotations[0].width == 32


def test_shared_data_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path / "day")
    items = [{"domain": "day", "data": "day/data.yaml", "classes": [name]} for name in CLASSES]
    items[1]["data"] = "day/../day/data.yaml"
    calls: list[Path] = []
    original = yolo.read

    def counted(source: Path, **keys: Any) -> Any:
        calls.append(source)
        return original(source, **keys)

    monkeypatch.setattr(yolo, "read", counted)
    series = read_series(make_series(tmp_path, items))
    assert len(calls) == 1
    assert [item.name for item in series.increments] == ["day", "day-2", "day-3"]


def test_data_root_replaces_root(tmp_path: Path) -> None:
    make_clean_series(tmp_path / "data")
    path = make_series(tmp_path, root="elsewhere")
    with pytest.raises(DataError, match="cannot read"):
        read_series(path)
    assert read_series(path, data_root=tmp_path / "data").name == "toy"


# -- problems --------------------------------------------------------------------------------------


def plant_everything(folder: Path) -> tuple[Path, set[str], set[str]]:
    """Write a series with every kind of problem; return it and the codes of errors, warnings."""
    day = folder / "day"
    make_dataset(day, seed=1, counts={"train": 8, "val": 3, "test": 2})
    rows = {
        "train0": ["0 0.5 0.5 0.2", "0 x 0.5 0.2 0.2"],
        "train1": ["9 0.5 0.5 0.2 0.2", "0 7 0.5 0.2 0.2"],
        "train2": ["0 0.5 0.5 0 0.2", "2 0.5 0.5 0.2 0.2", "2 0.5 0.5 0.2 0.2"],
    }
    for stem, lines in rows.items():
        write_labels(day, "train", stem, lines)
    (day / "labels" / "train" / "train3.txt").write_bytes(b"\xff\xfe\x00")
    (day / "images" / "train" / "train4.png").write_bytes(b"")
    shutil.copy(day / "images/train/train5.png", day / "images/train/copy.png")
    shutil.copy(day / "images/train/train6.png", day / "images/val/val_of_train.png")
    shutil.copy(day / "images/train/train7.png", day / "images/test/test_of_train.png")
    dusk = folder / "dusk"
    make_dataset(dusk, seed=2, counts={"train": 3, "val": 0}, extra={"nc": 5, "test": 7})
    make_dataset(folder / "noon", seed=6, extra={"train": "train.txt"})
    (folder / "noon" / "train.txt").write_text("images/train/gone.png\n")
    make_dataset(folder / "fog", seed=3, extra={"names": {1: "cat"}})
    night = folder / "night"
    make_dataset(night, seed=4, names=("bus", "van", "ship", "tram"))
    shutil.copy(day / "images/train/train6.png", night / "images/val/from_day.png")
    make_dataset(folder / "dawn", seed=5, names=("kite",), counts={"train": 1, "val": 1})
    (folder / "dawn" / "images/val/val0.png").write_bytes(b"no image")
    items = [
        {"domain": "day", "data": "day/data.yaml", "classes": ["cat", "dgo"]},
        {"domain": "dusk", "data": "dusk/data.yaml", "classes": ["cat"]},
        {"domain": "fog", "data": "fog/data.yaml", "classes": ["car"]},
        {"domain": "noon", "data": "noon/data.yaml", "classes": ["dog"]},
        {"domain": "night", "data": "night/data.yaml", "classes": ["tram"]},
        {"domain": "dawn", "data": "dawn/data.yaml", "classes": ["kite"]},
        {"domain": "rain", "data": "rain/data.yaml", "classes": ["boat"]},
        {"domain": "day", "data": "day/data.yaml", "classes": ["cat"]},
    ]
    errors = {
        *("label.columns", "label.number", "label.class", "label.range", "label.degenerate"),
        *("label.duplicate", "label.file", "image.unreadable", "image.missing"),
        *("image.leak", "image.leak-between", "data.file", "data.names", "data.nc", "data.split"),
        *("data.images", "class.unknown", "class.twice", "slice.no-train", "slice.no-val"),
    }
    return make_series(folder, items), errors, {"image.duplicate", "slice.no-objects"}


def test_every_problem_is_found_in_one_error(tmp_path: Path) -> None:
    path, errors, warnings = plant_everything(tmp_path)
    problems = inspect_series(path).problems
    assert {p.code for p in problems if p.severity == "error"} == errors
    assert {p.code for p in problems if p.severity == "warning"} == warnings
    with pytest.raises(DataError) as caught:
        read_series(path)
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert all(f"[{code}]" in message for code in errors)
    assert not any(f"[{code}]" in message for code in warnings)
    assert "did you mean 'dog'" in message
    assert "train1.txt:1:" in message


def test_a_label_problem_is_found_on_an_unreadable_image_too(tmp_path: Path) -> None:
    source = make_dataset(tmp_path)
    (tmp_path / "images" / "train" / "train0.png").write_bytes(b"x")
    write_labels(tmp_path, "train", "train0", ["8 0.5 0.5 0.2 0.2"])
    assert codes(yolo.read(source, domain="day").problems) == {"image.unreadable", "label.class"}


def test_listing_is_capped_per_code() -> None:
    problems = [error("label.range", f"a.txt:{n}", "w", "r") for n in range(50)]
    problems.append(error("data.nc", "data.yaml", "w", "r"))
    with pytest.raises(DataError, match="51 problems of 2 kinds") as caught:
        raise_problems(problems, where="series.yaml")
    assert str(caught.value).count("[label.range] a.txt") == 20
    assert "30 more of this kind" in str(caught.value)
    assert "[data.nc]" in str(caught.value)


@pytest.mark.parametrize(
    ("severity", "strict", "expected"),
    [
        (None, True, DoesNotRaise()),
        ("warning", False, DoesNotRaise()),
        ("warning", True, pytest.raises(DataError)),
        ("error", False, pytest.raises(DataError)),
    ],
)
def test_raise_problems(severity: Any, strict: bool, expected: Expected) -> None:
    problems = [Problem(severity, "a.b", Location(part="x"), "y", "z")] if severity else []
    with expected:
        raise_problems(problems, where="series.yaml", strict=strict)


def test_check_of_a_series_without_images() -> None:
    empty = Split("val", (), ())
    data = DomainData("day", LabelSpace(CLASSES), {"val": empty}, Path("data.yaml"))
    series = Series("a", "", (Increment("day", "day", ("cat",), data),))
    assert [problem.code for problem in check_series(series)] == ["slice.no-val"]


# -- slices ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "classes", "kept", "expected"),
    [
        ([], ("cat",), 0, DoesNotRaise()),
        ([[], [0], [1, 0]], (), 0, DoesNotRaise()),
        ([[], [0], [1, 0]], ("cat",), 2, DoesNotRaise()),
        ([[], [0], [1, 0]], ("bus",), 0, DoesNotRaise()),
        ([[0]], ("cta",), 0, pytest.raises(DataError, match="did you mean 'cat'")),
        ([[0]], ("cat", "cat"), 0, pytest.raises(DataError, match="twice")),
    ],
    ids=["no images", "no classes", "one class", "absent", "unknown", "doubled"],
)
def test_train_slice(
    ids: list[list[int]], classes: tuple[str, ...], kept: int, expected: Expected
) -> None:
    data = domain(ids)
    with expected:
        found = train_slice(data, classes)
        assert len(found) == kept
        assert [(a.width, a.height) for a in found.annotations] == [(32, 24)] * kept
        assert len(eval_slice(data, classes, "train")) == len(ids)


def test_unknown_split() -> None:
    with pytest.raises(DataError, match="no split 'tran', did you mean 'train'"):
        train_slice(domain([[0]]), ("cat",), split="tran")


def test_ids_follow_names_whatever_the_order_of_data_yaml(tmp_path: Path) -> None:
    series = read_series(make_clean_series(tmp_path))
    for increment in series.increments:
        data = increment.data
        for name in CLASSES:
            only = train_slice(data, (name,))
            together = train_slice(data, ("bus", "cat", "dog"))
            index = ("bus", "cat", "dog").index(name)
            holding = {
                image
                for image, ids in zip(together.images, together.class_ids, strict=True)
                if index in ids
            }
            assert set(only.images) == holding
            assert all((ids == 0).all() for ids in only.class_ids)


@given(
    ids=st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=6),
    order=st.permutations(CLASSES),
    cut=st.integers(0, 3),
)
def test_slices_partition_the_labels(ids: list[list[int]], order: list[str], cut: int) -> None:
    data = domain(ids)
    whole = eval_slice(data, order, "train")
    # Round trip: renumbered ids name the same classes as before.
    assert [[order[index] for index in image] for image in whole.class_ids] == [
        [CLASSES[index] for index in image] for image in ids
    ]
    parts = [eval_slice(data, order[:cut], "train"), eval_slice(data, order[cut:], "train")]
    for index, image in enumerate(ids):
        names = [part.classes[i] for part in parts for i in part.class_ids[index]]
        assert sorted(names) == sorted(CLASSES[i] for i in image)
    kept = train_slice(data, order[:cut])
    wanted = [i for i, image in enumerate(ids) if {CLASSES[j] for j in image} & set(order[:cut])]
    assert kept.images == tuple(data.splits["train"].images[index] for index in wanted)
    assert all(len(image) for image in kept.class_ids)


@pytest.mark.parametrize(
    ("splits", "expected"), [((), "val"), (("train", "val"), "val"), (("val", "test"), "test")]
)
def test_eval_split(splits: tuple[str, ...], expected: str) -> None:
    found = {name: Split(name, (), ()) for name in splits}
    assert eval_split(DomainData("day", LabelSpace(CLASSES), found, Path("d.yaml"))) == expected


def test_sha256_is_of_the_content(tmp_path: Path) -> None:
    def sha(folder: Path, classes: tuple[str, ...] = ("cat", "dog")) -> str:
        return train_slice(yolo.read(folder / "data.yaml", domain="x").data, classes).sha256

    make_dataset(tmp_path / "a", seed=1)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    before = sha(tmp_path / "a")
    assert sha(tmp_path / "b") == before
    assert sha(tmp_path / "a", ("dog", "cat")) != before
    assert sha(tmp_path / "a", ("cat",)) != before
    write_labels(tmp_path / "b", "train", "train2", ["2 0.4 0.5 0.25 0.5"])
    assert sha(tmp_path / "b") == before  # another class: not part of this slice
    write_labels(tmp_path / "b", "train", "train0", ["0 0.5 0.5 0.25 0.51"])
    assert sha(tmp_path / "b") != before
    write_image(tmp_path / "a" / "images/train/train0.png", seed=999)
    assert sha(tmp_path / "a") != before


@pytest.mark.parametrize(
    ("ids", "boxes", "expected"),
    [
        (np.zeros(0, np.int64), np.zeros((0, 4)), DoesNotRaise()),
        (np.zeros(1, np.int64), np.full((1, 4), 0.5), DoesNotRaise()),
        (np.zeros(1, np.int32), np.full((1, 4), 0.5), pytest.raises(DataError, match="int64")),
        (np.zeros(1, np.int64), np.zeros((1, 5)), pytest.raises(DataError, match=r"\(1, 4\)")),
        (np.zeros(1, np.int64), np.full((1, 4), np.nan), pytest.raises(DataError, match=r"0\.\.1")),
        (np.full(1, -1), np.full((1, 4), 0.5), pytest.raises(DataError, match=">= 0")),
    ],
    ids=["empty", "one", "dtype", "shape", "nan", "negative id"],
)
def test_annotation_validates_itself(ids: Any, boxes: Any, expected: Expected) -> None:
    with expected:
        Annotation(ids, boxes, 8, 8)


@pytest.mark.parametrize(
    ("ids", "images", "expected"),
    [
        ([], 0, pytest.raises(DataError, match="one item per image")),
        ([0], 1, DoesNotRaise()),
        ([1], 1, pytest.raises(DataError, match="below 1")),
        ([0], 2, pytest.raises(DataError, match="one item per image")),
    ],
)
def test_slice_validates_itself(ids: list[int], images: int, expected: Expected) -> None:
    with expected:
        Slice("d", "val", ("cat",), (Path("a"),) * images, (annotation(ids),))


@pytest.mark.parametrize("name", FORMATS)
def test_formats_resolve(name: str) -> None:
    assert callable(resolve(name).read)


def test_unknown_format() -> None:
    with pytest.raises(ConfigError, match="did you mean 'yolo'"):
        resolve("yolov")


# -- command line ----------------------------------------------------------------------------------


def test_cli_on_a_clean_series(tmp_path: Path) -> None:
    path = make_clean_series(tmp_path)
    result = CliRunner().invoke(
        cli, ["data", "check", str(path), "--strict"], env={"COLUMNS": "160"}
    )
    assert result.exception is None
    assert "32x24" in result.output
    assert "cat 2, dog 1" in result.output


def test_cli_json(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["data", "check", str(make_clean_series(tmp_path)), "--json"])
    document = json.loads(result.output)
    assert document["ok"] is True
    assert document["problems"] == []
    assert document["increments"][0]["splits"]["train"]["objects"] == {"cat": 2, "dog": 1}


def test_cli_raises_after_printing(tmp_path: Path) -> None:
    path, errors, warnings = plant_everything(tmp_path)
    result = CliRunner().invoke(cli, ["data", "check", str(path)])
    assert isinstance(result.exception, DataError)
    assert "warning [image.duplicate]" in result.output
    result = CliRunner().invoke(cli, ["data", "check", str(path), "--json"])
    assert isinstance(result.exception, DataError)
    document = json.loads(result.output)
    assert {problem["code"] for problem in document["problems"]} >= errors | warnings


@pytest.mark.parametrize(
    ("options", "expected"), [([], type(None)), (["--strict"], DataError)], ids=["", "strict"]
)
def test_cli_strict(tmp_path: Path, options: list[str], expected: type) -> None:
    path = make_clean_series(tmp_path)
    train = tmp_path / "day" / "images" / "train"
    shutil.copy(train / "train0.png", train / "again.png")
    result = CliRunner().invoke(cli, ["data", "check", str(path), *options])
    assert isinstance(result.exception, expected)
    assert "image.duplicate" in result.output + str(result.exception)
