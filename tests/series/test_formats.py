"""Formats: the same bits in all of them, and every mistake in a file is a problem with a code."""

from __future__ import annotations

import json
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from factories_formats import (
    NAMES,
    SIZE,
    assert_same,
    codes,
    describe,
    make_coco,
    make_voc,
    simple_voc,
    voc_xml,
    written,
)
from factories_series import make_dataset, write_image, write_labels
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from duet.errors import ConfigError, DataError
from duet.labels import LabelSpace
from duet.runs.evaluate import truths
from duet.series import Annotation, DomainData, Split, eval_slice, train_slice
from duet.series.formats import coco, locate, read, voc, yolo
from duet.series.formats.boxes import DECIMALS, rounded
from duet.series.formats.coco_json import CocoFile, read_json
from duet.series.formats.table import FORMATS, choices

# -- the same bits ---------------------------------------------------------------------------------

FRACTION = st.integers(0, 10**DECIMALS).map(lambda k: k / 10**DECIMALS)
SIDE = st.integers(1, 10**DECIMALS).map(lambda k: k / 10**DECIMALS)
BOX = st.tuples(FRACTION, FRACTION, SIDE, SIDE)
OBJECT = st.tuples(st.integers(0, 2), BOX, st.sampled_from(["", "ignored", "crowd"]))
PICTURE = st.tuples(
    st.integers(1, 97), st.integers(1, 97), st.lists(OBJECT, max_size=4, unique=True)
)


def in_memory(folder: Path, pictures: list[Any], *, marked: bool) -> DomainData:
    """A data set of the drawn pictures: all but the last are for training."""
    images, annotations = [], []
    for number, (width, height, objects) in enumerate(pictures):
        images.append(write_image(folder / f"{9 - number}.png", seed=number, size=(width, height)))
        kinds = [kind if marked else "" for *_, kind in objects]
        annotations.append(
            Annotation(
                np.array([index for index, *_ in objects], np.int64),
                np.array([box for _, box, _ in objects], np.float64).reshape(-1, 4),
                width,
                height,
                np.array([kind != "" for kind in kinds], np.bool_),
                np.array([kind == "crowd" for kind in kinds], np.bool_),
            )
        )
    splits = {
        "train": Split("train", tuple(images[:-1]), tuple(annotations[:-1])),
        "val": Split("val", tuple(images[-1:]), tuple(annotations[-1:])),
    }
    return DomainData("day", LabelSpace(NAMES), splits, folder)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    pictures=st.lists(PICTURE, min_size=2, max_size=4),
    chain=st.permutations(["yolo", "coco", "voc", "coco", "yolo", "voc"]),
)
def test_any_chain_of_formats_keeps_every_bit(pictures: list[Any], chain: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        original = in_memory(folder, pictures, marked=False)
        data = original
        for step, form in enumerate(chain):
            written(data, form, folder / str(step))
            reading = read(folder / str(step), domain="day")
            assert set(codes(reading)) <= {"label.outside", "label.duplicate"}
            data = reading.data
            assert len(data.images) == len(pictures)
            assert_same(original, data)


@settings(max_examples=8, deadline=None)
@given(
    pictures=st.lists(PICTURE, min_size=2, max_size=3),
    chain=st.lists(st.sampled_from(["coco", "voc"]), min_size=1, max_size=3),
)
def test_marks_survive_where_they_can(pictures: list[Any], chain: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        original = in_memory(folder, pictures, marked=True)
        data = original
        for step, form in enumerate(chain):
            written(data, form, folder / str(step))
            data = read(folder / str(step), domain="day").data
            assert_same(original, data)
        written(data, "yolo", folder / "last")
        last = read(folder / "last", domain="day").data
        for split, kept in zip(data.splits.values(), last.splits.values(), strict=True):
            for before, after in zip(split.annotations, kept.annotations, strict=True):
                assert after.class_ids.tolist() == before.object_ids.tolist()


@given(st.integers(0, 10**DECIMALS), st.integers(0, DECIMALS))
def test_rounding_keeps_numbers_of_few_decimals(number: int, decimals: int) -> None:
    text = f"{number / 10**DECIMALS:.{decimals}f}"
    box = np.array([[float(text)] * 4])
    assert rounded(box).tobytes() == box.tobytes()


def test_labels_of_a_yolo_set_are_read_as_before(tmp_path: Path) -> None:
    rows = ["0 0.123456 0.5 0.25 0.333333", "2 0.9 0.7 0.0625 0.1", "1 0 1 1 1"]
    source = make_dataset(tmp_path)
    write_labels(tmp_path, "train", "train0", rows)
    found = yolo.read(source, domain="day").data.splits["train"].annotations[0]
    expected = np.array([[float(word) for word in row.split()[1:]] for row in rows])
    assert found.boxes.tobytes() == expected.tobytes()


def test_whole_pixels_stay_whole_numbers(tmp_path: Path) -> None:
    data = voc.read(simple_voc(tmp_path / "a"), domain="day").data
    written(data, "voc", tmp_path / "b")
    written(data, "coco", tmp_path / "c")
    text = (tmp_path / "b" / "Annotations" / "a.xml").read_text()
    assert "<xmin>11</xmin><ymin>11</ymin><xmax>30</xmax><ymax>40</ymax>" in text
    document = json.loads((tmp_path / "c/annotations/instances_train.json").read_text())
    assert document["annotations"][0]["bbox"] == [10, 10, 20, 30]


def test_clashing_file_names_are_told_apart(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "a")
    for split in ("train", "val"):
        image = write_image(tmp_path / "a" / "images" / split / "same.png", seed=len(split))
        shutil.copy(image, image.with_name("odd name.jpg.png"))
        write_image(image.with_name("SAME.jpg"), seed=5)
    data = yolo.read(source, domain="day").data
    for form in FORMATS:
        assert written(data, form, tmp_path / form) > 0
        assert_same(data, read(tmp_path / form, domain="day").data)


def test_links_lead_to_the_originals(tmp_path: Path) -> None:
    data = yolo.read(make_dataset(tmp_path / "a"), domain="day").data
    (tmp_path / "b").mkdir()
    coco.write(data, tmp_path / "b", transfer="link", progress=lambda count: None)
    link = tmp_path / "b" / "images" / "train" / "train0.png"
    assert link.is_symlink()
    assert link.resolve() == (tmp_path / "a/images/train/train0.png").resolve()
    assert_same(data, read(tmp_path / "b", domain="day").data)


# -- which format is it ----------------------------------------------------------------------------


def _roboflow(folder: Path, val: str = "valid") -> Path:
    make_coco(folder / "plain")
    for split, name in (("train", "train2017"), (val, "val2017")):
        shutil.copytree(folder / "plain" / name, folder / "rf" / split)
        text = folder / "plain" / "annotations" / f"instances_{name}.json"
        shutil.copy(text, folder / "rf" / split / "_annotations.coco.json")
    return folder / "rf"


@pytest.mark.parametrize(
    ("make", "form"),
    [
        (lambda folder: make_dataset(folder), "yolo"),
        (lambda folder: make_dataset(folder).parent, "yolo"),
        (simple_voc, "voc"),
        (make_coco, "coco"),
        (_roboflow, "coco"),
        (lambda f: describe(simple_voc(f), {"format": "voc", "train": "train"}), "voc"),
    ],
    ids=["data.yaml", "its-folder", "voc", "coco", "roboflow", "described"],
)
def test_the_format_is_seen(tmp_path: Path, make: Callable[[Path], Path], form: str) -> None:
    assert locate(make(tmp_path))[0] == form


def _beside_images(folder: Path) -> Path:
    return _roboflow(folder, val="val")


@pytest.mark.parametrize("make", [simple_voc, make_coco, _roboflow, _beside_images])
def test_an_undescribed_folder_reads_without_problems(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    reading = read(make(tmp_path), domain="day")
    assert reading.problems == ()
    assert {name: len(split.images) for name, split in reading.data.splits.items()} == {
        "train": 2, "val": 1,
    }  # fmt: skip


def test_what_was_looked_for_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        locate(tmp_path)
    assert all(word in str(caught.value) for word in ("data.yaml", "instances_train", "JPEGImages"))
    make_coco(simple_voc(tmp_path))
    with pytest.raises(DataError, match=r"several formats fit"):
        locate(tmp_path)
    assert locate(tmp_path, "voc") == ("voc", tmp_path)


@pytest.mark.parametrize(
    ("document", "form", "error", "words"),
    [
        ({"format": "vok"}, "auto", DataError, "did you mean 'voc'"),
        ({"format": 3}, "auto", DataError, "got 3"),
        ({"format": ["voc"]}, "auto", DataError, "must be one of"),
        ({"format": "voc"}, "coco", DataError, "the file says 'format: voc'"),
        ({}, "vok", ConfigError, "did you mean 'voc'"),
    ],
)
def test_a_wrong_format_is_refused(
    tmp_path: Path, document: Any, form: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        locate(describe(tmp_path, document), form)
    assert codes(read(describe(tmp_path, document), form=form, domain="day")) == ["data.format"]


def test_a_json_alone_is_no_data_set(tmp_path: Path) -> None:
    source = make_coco(tmp_path) / "annotations" / "instances_train2017.json"
    problems = read(source, domain="day").problems
    assert [problem.code for problem in problems] == ["data.format"]
    assert "format: coco" in problems[0].remedy


# -- VOC -------------------------------------------------------------------------------------------


def voc_of(folder: Path, xml: str, **keys: Any) -> Any:
    """Read a data set whose first training image has this annotation file."""
    simple_voc(folder)
    (folder / "Annotations" / "a.xml").write_text(xml)
    return voc.read(folder, domain="day", **keys)


CAT = (11.0, 11.0, 30.0, 40.0)


@pytest.mark.parametrize(
    ("box", "expected", "kept"),
    [
        ((1, 1, 100, 50), [], True),
        ((0, 0, 99, 49), [], True),  # counted from 0
        ((10.5, 10.25, 30.75, 40), [], True),
        ((-5, 1, 50, 50), ["label.outside"], True),
        ((1, 1, 120, 50), ["label.range"], False),
        ((1, 1, 1, 1), ["label.dummy"], False),
        ((0, 0, 0, 0), ["label.dummy"], False),
        ((30, 11, 11, 40), ["label.degenerate"], False),
        ((30, 11, 29, 40), ["label.degenerate"], False),
        ((130, 11, 150, 40), ["label.range"], False),
        (("nan", 11, 30, 40), ["label.number"], False),
        (("inf", 11, 30, 40), ["label.number"], False),
        (("eleven", 11, 30, 40), ["label.number"], False),
        (("", 11, 30, 40), ["label.number"], False),
    ],
    ids=str,
)
def test_voc_boxes(tmp_path: Path, box: Any, expected: list[str], kept: bool) -> None:
    reading = voc_of(tmp_path, voc_xml([("cat", box, False)]))
    assert codes(reading) == expected
    found = reading.data.splits["train"].annotations[0]
    assert len(found.boxes) == int(kept)
    if not expected:
        left, top, right, bottom = box
        cx, cy, w, h = found.boxes[0] * np.array([*SIZE, *SIZE])
        np.testing.assert_allclose(
            [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2],
            [max(left - 1, -1), max(top - 1, -1), right, bottom], atol=1e-6,
        )  # fmt: skip


BOMB = '<!DOCTYPE a [<!ENTITY a "x"><!ENTITY b "&a;&a;">]>'


@pytest.mark.parametrize(
    ("xml", "code"),
    [
        ("", "label.file"),
        ("<annotation><object>", "label.file"),
        ("<html></html>", "label.file"),
        (BOMB + voc_xml([("&b;", CAT, False)]), "label.file"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + voc_xml([]), "label.file"),
        ('<?xml version="1.0" encoding="no-such"?>' + voc_xml([]), "label.file"),
        (voc_xml([("", CAT, False)]), "label.fields"),
        (voc_xml([], extra="<object><name>cat</name></object>"), "label.fields"),
        (
            voc_xml([], extra="<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object>"),
            "label.fields",
        ),
        (voc_xml([("cat", CAT, False)]).replace("cult>0", "cult>2"), "label.fields"),
        (voc_xml([("cat", CAT, False)] * 2), "label.duplicate"),
        (voc_xml([("cat", CAT, False)], size=(50, 100)), "label.size"),
    ],
    ids=[
        "empty", "cut", "html", "bomb", "outside-entity", "encoding", "no-name", "no-box",
        "no-corner", "flag", "twice", "size",
    ],
)  # fmt: skip
def test_voc_files(tmp_path: Path, xml: str, code: str) -> None:
    reading = voc_of(tmp_path, xml)
    assert codes(reading) == [code]
    first = reading.problems[0]
    assert first.where.path == tmp_path / "Annotations" / "a.xml"
    assert first.severity == ("warning" if code == "label.size" else "error")
    # The other images are read all the same.
    assert len(reading.data.splits["val"].images) == 1


def test_a_pair_with_one_half_is_a_problem(tmp_path: Path) -> None:
    simple_voc(tmp_path)
    (tmp_path / "Annotations" / "a.xml").unlink()
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    reading = voc.read(tmp_path, domain="day")
    assert codes(reading) == ["image.missing", "label.missing"]
    assert reading.data.splits["train"].images == ()


def test_a_zero_size_is_not_believed_and_names_are_stripped(tmp_path: Path) -> None:
    reading = voc_of(tmp_path, voc_xml([(" cat\n", CAT, False)], size=(0, 0)))
    assert reading.problems == ()
    assert reading.data.labels.names == ("cat", "dog")


def test_boxes_belong_to_the_upright_image(tmp_path: Path) -> None:
    simple_voc(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE).save(tmp_path / "JPEGImages" / "a.jpg", exif=exif)
    (tmp_path / "Annotations" / "a.xml").write_text(voc_xml([("cat", (1, 1, 50, 100), False)]))
    reading = voc.read(tmp_path, domain="day")
    assert codes(reading) == ["label.size"]
    assert "labelled lying" in reading.problems[0].what
    assert reading.data.splits["train"].annotations[0].boxes.tolist() == [[0.5, 0.5, 1, 1]]


@pytest.mark.parametrize(
    ("lists", "train", "held"),
    [
        (("train", "val"), "train", "val"),
        (("train", "val", "trainval", "test"), "trainval", "test"),
        (("train", "val", "trainval"), "train", "val"),
        (("train", "test"), "train", "test"),
        (("train", "val", "cat_train", "extra"), "train", "val"),
    ],
)
def test_the_customary_lists(tmp_path: Path, lists: tuple[str, ...], train: str, held: str) -> None:
    make_voc(tmp_path, {name: {f"of-{name}": [("cat", CAT, False)]} for name in lists})
    splits = voc.read(tmp_path, domain="day").data.splits
    assert [path.stem for path in splits["train"].images] == [f"of-{train}"]
    assert [path.stem for path in splits[held].images] == [f"of-{held}"]
    assert len(splits) == 2


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"train": "nowhere/train", "val": "a/val"}, ["data.images"]),
        ({"train": "a/cat_train", "val": "a/val"}, ["data.images"]),
        ({"train": "a/empty", "val": "a/val"}, ["data.images"]),
        ({"train": "a/train"}, ["data.split"]),
        ({"train": 3, "val": "a/val"}, ["data.split"]),
        ({"train": "a/train", "val": "a/val", "names": ["cat", "bus"]}, ["label.class"]),
        ({"train": "a/train", "val": "a/val", "names": "cat"}, ["data.names"]),
        ({"train": "a/train", "val": "a/val", "difficult": "maybe"}, ["data.key"]),
        ({"train": "a/train", "val": "a/val", "dificult": "drop"}, ["data.key"]),
    ],
    ids=str,
)
def test_a_description_of_voc_data(
    tmp_path: Path, document: dict[str, Any], expected: list[str]
) -> None:
    simple_voc(tmp_path / "a")
    lists = tmp_path / "a" / "ImageSets" / "Main"
    (lists / "cat_train.txt").write_text("a  1\nb -1\n")
    (lists / "empty.txt").write_text("\n")
    source = describe(tmp_path, {"format": "voc", **document})
    assert codes(read(source, domain="day")) == expected


def test_several_folders_and_an_unusual_list_when_asked(tmp_path: Path) -> None:
    simple_voc(tmp_path / "VOC2007")
    make_voc(tmp_path / "VOC2012", {"extra": {"z.jpg": [("bus", CAT, False)]}}, seed=50)
    (tmp_path / "VOC2012" / "JPEGImages" / "z.jpg.jpg").rename(
        tmp_path / "VOC2012" / "JPEGImages" / "z.jpg"
    )
    (tmp_path / "VOC2012" / "Annotations" / "z.jpg.xml").rename(
        tmp_path / "VOC2012" / "Annotations" / "z.xml"
    )
    document = {
        "format": "voc", "path": ".", "train": ["VOC2007/train", "VOC2012/extra"],
        "test": "VOC2007/val", "names": ["dog", "cat", "bus"],
    }  # fmt: skip
    reading = read(describe(tmp_path, document), domain="day")
    assert reading.problems == ()
    assert [path.name for path in reading.data.splits["train"].images] == [
        "a.jpg",
        "b.jpg",
        "z.jpg",
    ]
    assert reading.data.splits["train"].annotations[0].class_ids.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("choice", "objects", "ignored"), [("ignore", 2, 1), ("drop", 1, 0), ("keep", 2, 0)]
)
@pytest.mark.parametrize("said", ["in the file", "by the caller"])
def test_difficult_objects(
    tmp_path: Path, choice: Any, objects: int, ignored: int, said: str
) -> None:
    document = {"format": "voc", "train": "train", "val": "val"}
    here = said == "in the file"
    source = describe(simple_voc(tmp_path), {**document, **({"difficult": choice} if here else {})})
    data = read(source, domain="day", options={} if here else {"difficult": choice}).data
    found = data.splits["train"].annotations[0]
    assert (len(found.class_ids), int(found.ignored.sum())) == (objects, ignored)
    assert data.labels.names == ("cat", "dog")
    images = len(train_slice(data, ("dog",)))
    assert images == (choice == "keep")  # the only dog is the difficult one
    cut = eval_slice(data, ("dog",), "val")
    assert [truth.ignored.tolist() for truth in truths(cut)] == [
        [] if choice == "drop" else [choice == "ignore"]
    ]


def test_ignored_objects_leave_other_hashes_alone(tmp_path: Path) -> None:
    data = voc.read(simple_voc(tmp_path), domain="day").data
    plain = eval_slice(data, ("cat",), "val")
    both = eval_slice(data, ("cat", "dog"), "val")
    unmarked = Split("val", data.splits["val"].images, tuple(
        Annotation(a.class_ids, a.boxes, a.width, a.height) for a in data.splits["val"].annotations
    ))  # fmt: skip
    other = DomainData("day", data.labels, {"val": unmarked}, data.source)
    assert eval_slice(other, ("cat",), "val").sha256 == plain.sha256
    assert eval_slice(other, ("cat", "dog"), "val").sha256 != both.sha256
    assert len(train_slice(data, ("dog",), "val")) == 0


# -- COCO ------------------------------------------------------------------------------------------


def changed(**keys: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change of the first annotation."""
    return lambda document: document["annotations"][0].update(keys)


def again(document: dict[str, Any]) -> None:
    document["annotations"].append(document["annotations"][0] | {"id": 5})


def test_sparse_ids_and_the_order_of_the_file(tmp_path: Path) -> None:
    data = coco.read(make_coco(tmp_path), domain="day").data
    assert data.labels.names == ("cat", "dog", "x")
    assert [a.class_ids.tolist() for a in data.splits["train"].annotations] == [[1], [0]]
    assert data.splits["train"].annotations[0].boxes.tolist() == [[0.2, 0.5, 0.2, 0.6]]
    assert [path.name for path in data.splits["train"].images] == [
        "train2017-0.png", "train2017-1.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "code", "severity"),
    [
        (changed(bbox=[10, 10, 0, 5]), "label.degenerate", "error"),
        (changed(bbox=[10, 10, -4, 5]), "label.degenerate", "error"),
        (changed(bbox=[110, 10, 20, 5]), "label.range", "error"),
        (changed(bbox=[90, 10, 15, 5]), "label.outside", "warning"),
        (changed(bbox=[10, 10, float("nan"), 5]), "label.number", "error"),
        (changed(bbox=[10, 10, float("inf"), 5]), "label.number", "error"),
        (changed(bbox=[10, 10, 10**400, 5]), "label.number", "error"),
        (changed(bbox=[10, 10, "5", 5]), "label.number", "error"),
        (changed(bbox=[10, 10, True, 5]), "label.number", "error"),
        (changed(bbox=[10, 10, 5]), "label.fields", "error"),
        (changed(bbox=None), "label.fields", "error"),
        (changed(image_id=4), "label.image", "error"),
        (changed(image_id=[3]), "label.image", "error"),
        (changed(category_id=1), "label.class", "error"),
        (changed(id=1001), "label.id", "warning"),
        (again, "label.duplicate", "error"),
        (lambda d: d["annotations"].append("text"), "label.image", "error"),
        (lambda d: d["images"].append({"id": 3, "file_name": "b.png"}), "image.entry", "error"),
        (lambda d: d["images"].append(d["images"][0] | {"id": 5}), "image.entry", "error"),
        (lambda d: d["images"].append({"id": 5}), "image.entry", "error"),
        (lambda d: d["images"].append({"id": 5, "file_name": "g.png"}), "image.missing", "error"),
        (lambda d: d["images"][0].update(width=99), "label.size", "warning"),
        (lambda d: d["categories"].append({"id": 17, "name": "b"}), "data.names", "error"),
        (lambda d: d["categories"].append({"id": 5, "name": "cat"}), "data.names", "error"),
        (lambda d: d["categories"].append({"id": "5", "name": "b"}), "data.names", "error"),
        (lambda d: d["categories"].append({"id": 5, "name": " "}), "data.names", "error"),
    ],
)  # fmt: skip
def test_coco_mistakes(tmp_path: Path, change: Any, code: str, severity: str) -> None:
    reading = coco.read(make_coco(tmp_path, change=change), domain="day")
    assert codes(reading) == [code]
    assert reading.problems[0].severity == severity
    assert len(reading.data.splits["train"].images) == 2
    assert len(reading.data.splits["train"].annotations[1].class_ids) == 1


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "data.file"),
        ("[1, 2", "data.file"),
        ('{"images": [', "data.file"),
        ("[]", "data.images"),
        ("{}", "data.images"),
        ('{"images": {}, "annotations": 3}', "data.images"),
        ('{"images": NaN}', "data.images"),
        ("[" * 2000, "data.file"),
    ],
    ids=["empty", "cut", "cut-list", "list", "object", "other-types", "nan", "deep"],
)
def test_coco_files(tmp_path: Path, text: str, code: str) -> None:
    reading = coco.read(make_coco(tmp_path, change=lambda document: text), domain="day")
    assert codes(reading) == [code]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda document: document.pop("annotations"), ["data.images"]),
        (lambda document: document.update(annotations=document.pop("annotations")[:0]), []),
        (
            lambda document: document.update(
                note=float("nan"), annotation=document.pop("annotations")
            ),
            ["data.images"],
        ),
    ],
    ids=["without", "empty", "renamed, read in one piece"],
)
def test_a_file_without_annotations_says_so(tmp_path: Path, change: Any, told: list[str]) -> None:
    reading = coco.read(make_coco(tmp_path, change=lambda d: change(d) and None), domain="day")
    assert codes(reading) == told
    assert {problem.severity for problem in reading.problems} <= {"warning"}
    assert [len(a.class_ids) for a in reading.data.splits["train"].annotations] == [0, 0]


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        first = document["annotations"][0]
        wrong = [{"bbox": [1, 1, float("nan"), 1]}, {"bbox": [1, 1, 0, 1]}, {"category_id": 5}]
        document["annotations"] += [{**first, "id": 50 + n, **w} for n, w in enumerate(wrong)]

    reading = coco.read(make_coco(tmp_path, change=change), domain="day")
    assert codes(reading) == ["label.class", "label.degenerate", "label.number"]
    assert {problem.where.object for problem in reading.problems} == {50, 51, 52}


@pytest.mark.parametrize(
    ("keys", "ignored", "crowd"),
    [
        ({}, False, False),
        ({"iscrowd": 1}, True, True),
        ({"iscrowd": 1, "segmentation": {"counts": [1, 2], "size": [1, 1]}}, True, True),
        ({"ignore": 1}, True, False),
        ({"iscrowd": 1, "difficult": 1}, True, False),
    ],
    ids=str,
)
def test_crowds(tmp_path: Path, keys: dict[str, Any], ignored: bool, crowd: bool) -> None:
    reading = coco.read(make_coco(tmp_path, change=changed(**keys)), domain="day")
    found = reading.data.splits["train"].annotations[0]
    assert (found.ignored.tolist(), found.crowds.tolist()) == ([ignored], [crowd])
    assert dict(reading.unused) == ({"outlines": 1} if "segmentation" in keys else {})
    assert len(train_slice(reading.data, ("dog",))) == (not ignored)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, []),
        ({"names": ["x", "dog", "cat", "more"]}, []),
        ({"names": ["dog", "x"]}, ["data.names"]),
        ({"train": "train2017"}, ["data.split"]),
        ({"train": {"images": "train2017"}}, ["data.split"]),
        ({"train": {"images": "train2017", "annotations": "gone.json"}}, ["data.file"]),
        ({"val": None}, ["data.split"]),
        ({"nmaes": []}, ["data.key"]),
    ],
    ids=str,
)
def test_a_description_of_coco_data(
    tmp_path: Path, document: dict[str, Any], expected: list[str]
) -> None:
    make_coco(tmp_path / "coco")
    parts = {
        split: {"images": name, "annotations": f"annotations/instances_{name}.json"}
        for split, name in (("train", "train2017"), ("val", "val2017"))
    }
    source = describe(tmp_path, {"format": "coco", "path": "coco", **parts, **document})
    reading = read(source, domain="day")
    assert codes(reading) == expected
    if "names" in document and not expected:
        assert reading.data.labels.names == ("x", "dog", "cat", "more")
        assert reading.data.splits["train"].annotations[0].class_ids.tolist() == [1]


def test_file_names_from_the_folder_of_the_data(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        for image in document["images"]:
            image["file_name"] = f"train2017/{image['file_name']}"

    assert coco.read(make_coco(tmp_path, change=change), domain="day").problems == ()


def test_two_files_for_one_split_are_ambiguous(tmp_path: Path) -> None:
    make_coco(tmp_path)
    shutil.copy(
        tmp_path / "annotations/instances_train2017.json",
        tmp_path / "annotations/instances_train2014.json",
    )
    assert codes(coco.read(tmp_path, domain="day")) == ["data.split"]


@pytest.mark.slow
def test_a_large_json_needs_little_memory(tmp_path: Path) -> None:
    path, images = tmp_path / "large.json", 30_000
    outline = ",".join(["1.5"] * 100)
    with path.open("w") as stream:
        stream.write('{"annotations": [')
        for i in range(images):
            # Few have an outline: tracemalloc makes each number expensive.
            stream.write(
                f'{"," if i else ""}{{"id": {i}, "image_id": {i}, "category_id": 1, '
                f'"bbox": [1, 2, 3.5, {4 + i}], "segmentation": [{"" if i % 20 else outline}]}}'
            )
        stream.write('], "images": [')
        for i in range(images):
            stream.write(f'{"," if i else ""}{{"id": {i}, "file_name": "{i:012d}.jpg"}}')
        stream.write('], "categories": [{"id": 1, "name": "cat"}]}')
    tracemalloc.start()
    found = read_json(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found, CocoFile)
    assert len(found.objects.images) == len(found.files) == images
    assert found.unused == {"outlines": images // 20}
    assert peak < 25e6  # json.load of the same file: 47 MB


# -- descriptions that duet wrote ------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_a_written_description_names_what_is_there(tmp_path: Path, form: str) -> None:
    data = yolo.read(make_dataset(tmp_path / "a", names=("no", "7", "é")), domain="day").data
    written(data, form, tmp_path / "b")
    document = yaml.safe_load((tmp_path / "b" / "data.yaml").read_text())
    assert document["names"] == ["no", "7", "é"]
    assert document.get("format", "yolo") == form
    assert form in choices()
    assert_same(data, read(tmp_path / "b" / "data.yaml", domain="day").data)


def test_a_name_that_xml_cannot_hold_is_refused(tmp_path: Path) -> None:
    data = yolo.read(make_dataset(tmp_path / "a", names=("cat ", "b")), domain="day").data
    with pytest.raises(DataError, match="does not survive XML"):
        written(data, "voc", tmp_path / "b")
