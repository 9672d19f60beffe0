"""Formats: files as other tools, other systems and bad luck leave them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from factories_formats import (
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
from factories_series import make_dataset, make_series, write_image, write_labels
from PIL import Image

from duet.cli.main import cli
from duet.errors import DataError
from duet.series.formats import coco, read, voc, yolo
from duet.series.formats.base import Reading
from duet.series.formats.table import FORMATS
from duet.series.images import inspect_images

CAT = (11.0, 11.0, 30.0, 40.0)


def objects(reading: Reading, split: str = "train") -> list[int]:
    """Return the number of objects on each image of a split."""
    return [len(found.class_ids) for found in reading.data.splits[split].annotations]


def change_keys(source: Path, **keys: Any) -> None:
    source.write_text(yaml.safe_dump({**yaml.safe_load(source.read_text()), **keys}))


# -- YOLO ------------------------------------------------------------------------------------------


def _linked_split(folder: Path) -> None:
    shutil.move(folder / "images" / "train", folder / "raw")
    (folder / "images" / "train").symlink_to(folder / "raw")


def _linked_images(folder: Path) -> None:
    shutil.move(folder / "images", folder / "raw")
    (folder / "images").symlink_to("raw")


def _linked_data(folder: Path) -> None:
    (folder / "raw").mkdir()
    shutil.move(folder / "images", folder / "raw" / "images")
    shutil.move(folder / "labels", folder / "raw" / "labels")
    (folder / "pictures").symlink_to("raw/images/train")
    (folder / "images").symlink_to("raw/images")
    change_keys(folder / "data.yaml", train="pictures")


def _linked_part(folder: Path) -> None:
    for kind in ("images", "labels"):
        (folder / "more" / kind).mkdir(parents=True)
        (folder / kind / "train" / "part").symlink_to(folder / "more" / kind)
    for suffix, kind in ((".png", "images"), (".txt", "labels")):
        shutil.move(folder / kind / "train" / f"train3{suffix}", folder / "more" / kind)


def _link_in_a_circle(folder: Path) -> None:
    (folder / "images" / "train" / "again").symlink_to(folder / "images" / "train")


def _hidden_copies(folder: Path) -> None:
    place = folder / "images" / "train" / ".ipynb_checkpoints"
    write_image(place / "train0-checkpoint.png", seed=3)


def _backslashes(folder: Path) -> None:
    change_keys(folder / "data.yaml", train="images\\train", val="..\\images\\val")


def _backslashes_in_a_list(folder: Path) -> None:
    names = [f".\\images\\train\\train{i}.png\r\n" for i in range(4)]
    (folder / "list.txt").write_text("".join(names))
    change_keys(folder / "data.yaml", train="list.txt")


@pytest.mark.parametrize(
    "change",
    [
        _linked_split, _linked_images, _linked_data, _linked_part, _link_in_a_circle,
        _hidden_copies, _backslashes, _backslashes_in_a_list,
    ],
)  # fmt: skip
def test_images_and_labels_are_found(tmp_path: Path, change: Callable[[Path], None]) -> None:
    source = make_dataset(tmp_path / "data")
    change(tmp_path / "data")
    reading = yolo.read(source, domain="day")
    assert reading.problems == ()
    assert objects(reading) == [1, 1, 1, 1]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"], ids=["long", "nul"])
def test_names_that_no_file_can_have_are_problems(tmp_path: Path, name: str) -> None:
    source = make_dataset(tmp_path / "a")
    if "\0" in name:  # no YAML holds it, but lists of images and other formats may
        change_keys(source, train=["images/train", name])
        assert codes(yolo.read(source, domain="day")) == ["data.file"]
    unknown = name.replace("\0", "no such folder")
    change_keys(source, train=["images/train", unknown, "list.txt"])
    (tmp_path / "a" / "list.txt").write_text(f"{name}.png\nimages/val/val0.png\n")
    reading = yolo.read(source, domain="day")
    assert {"data.images", "image.missing"} <= set(codes(reading))
    assert objects(reading) == [1, 1, 1, 1, 1]

    change: Any = lambda document: document["images"][0].update(file_name=name)  # noqa: E731
    assert codes(coco.read(make_coco(tmp_path / "b", change=change), domain="day")) == [
        "image.missing"
    ]
    parts = {"images": "train2017", "annotations": name}
    described = describe(tmp_path / "b", {"format": "coco", "train": parts, "val": parts})
    assert codes(coco.read(described, domain="day")) == ["data.file"]

    simple_voc(tmp_path / "c")
    (tmp_path / "c" / "ImageSets" / "Main" / "train.txt").write_text(f"a\n{name}\n")
    assert objects(voc.read(tmp_path / "c", domain="day")) == [2]
    described = describe(tmp_path / "c", {"format": "voc", "train": name, "val": "val"})
    refused = "data.file" if "\0" in name else "data.images"
    assert codes(voc.read(described, domain="day")) == [refused]


def test_two_images_of_one_label_file(tmp_path: Path) -> None:
    source = make_dataset(tmp_path)
    write_image(tmp_path / "images" / "train" / "train0.jpg", seed=9)
    write_image(tmp_path / "images" / "train" / "train9.jpg", seed=10)
    write_image(tmp_path / "images" / "train" / "train9.png", seed=11)  # neither has labels
    write_labels(tmp_path, "train", "train0", ["0 0.5 0.5 0.1 0.1", "9 0.5 0.5 0.1 0.1"])
    problems = yolo.read(source, domain="day").problems
    assert [(p.code, p.severity) for p in problems] == [
        ("label.class", "error"), ("pair.shared", "warning"),
    ]  # fmt: skip
    assert problems[1].where.path.name == "train0.png"
    write_labels(tmp_path, "train", "train0", ["9 0.5 0.5 0.1 0.1"])
    (problem,) = yolo.read(source, domain="day").problems  # told once
    assert problem.code == "label.class"


def test_poses_are_not_taken_for_outlines(tmp_path: Path) -> None:
    source = make_dataset(tmp_path, extra={"kpt_shape": [2, 2]})
    write_labels(tmp_path, "train", "train0", ["0 0.5 0.5 0.2 0.2 0.1 0.1 0.9 0.9"])
    assert codes(yolo.read(source, domain="day")) == ["data.key"]


# -- COCO ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "ignored"),
    [
        ({"iscrowd": "0"}, False),
        ({"iscrowd": "1"}, True),
        ({"iscrowd": True}, True),
        ({"ignore": None, "iscrowd": 0.0}, False),
        ({"ignore": "false"}, False),
        ({"difficult": 1}, True),
        ({"iscrowd": 2}, None),
        ({"ignore": [0]}, None),
        ({"difficult": "maybe"}, None),
    ],
    ids=str,
)
def test_marks_of_all_kinds(tmp_path: Path, keys: dict[str, Any], ignored: bool | None) -> None:
    change: Any = lambda document: document["annotations"][0].update(keys)  # noqa: E731
    reading = coco.read(make_coco(tmp_path, change=change), domain="day")
    found = reading.data.splits["train"].annotations[0]
    assert codes(reading) == (["label.fields"] if ignored is None else [])
    assert found.ignored.tolist() == ([] if ignored is None else [ignored])


def test_a_json_that_is_nested_too_deeply_costs_no_memory(tmp_path: Path) -> None:
    # The prefixes of a stream's events would take 20 000^2 * 5 / 2 bytes.
    text = '{"x": ' + "[" * 20_000 + "]" * 20_000 + ', "images": []}'
    reading = coco.read(make_coco(tmp_path, change=lambda document: text), domain="day")
    assert codes(reading) == ["data.file"]


def test_brackets_in_texts_are_no_nesting(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["info"]["description"] = "[" * 2000

    reading = coco.read(make_coco(tmp_path, change=change), domain="day")
    assert reading.problems == ()
    assert objects(reading) == [1, 1]


def test_one_image_under_two_spellings(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["images"].append({"id": 99, "file_name": "./train2017-0.png"})

    assert codes(coco.read(make_coco(tmp_path, change=change), domain="day")) == ["image.entry"]


def test_sizes_written_as_fractions_are_compared(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["images"][0].update(width=200.0, height=50.0)
        document["images"][1].update(width=100.0, height=50.0)

    reading = coco.read(make_coco(tmp_path, change=change), domain="day")
    assert [problem.code for problem in reading.problems] == ["label.size"]


def test_file_names_of_windows(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        for image in document["images"]:
            image["file_name"] = f"train2017\\{image['file_name']}"

    assert coco.read(make_coco(tmp_path, change=change), domain="day").problems == ()


# -- VOC -------------------------------------------------------------------------------------------

PLAIN = voc_xml([("cat", CAT, False)])
BOX = PLAIN[PLAIN.index("<bndbox>") : PLAIN.index("</object>")]


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("</object>", BOX + "</object>", "label.fields"),
        ("<name>", "<name>dog</name><name>", "label.fields"),
        ("<xmin>", "<xmin>5</xmin><xmin>", "label.fields"),
        ("<difficult>", "<difficult>1</difficult><difficult>", "label.fields"),
        (PLAIN[PLAIN.index("<object>") : -len("</annotation>")], "", None),
        ("<object>", "<objects><object>", "label.file"),
        ("object>", "Object>", "label.file"),
        ("<bndbox>", f"<part><name>head</name>{BOX}</part><bndbox>", None),
    ],
    ids=["boxes", "names", "corners", "flags", "no-object", "nested", "capitals", "part"],
)
def test_no_object_is_passed_over(tmp_path: Path, old: str, new: str, code: str | None) -> None:
    text = PLAIN.replace(old, new)
    if new.startswith("<objects>"):
        text = text.replace("</object>", "</object></objects>")
    simple_voc(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    assert codes(voc.read(tmp_path, domain="day")) == ([code] if code else [])


def test_names_and_suffixes_out_of_the_ordinary(tmp_path: Path) -> None:
    rows = [("cat", CAT, False)]
    lists = {"train": {"a.jpg": rows, "b": rows}, "val": {"c": rows}}
    make_voc(tmp_path / "a", lists)  # images a.jpg.jpg, b.jpg, c.jpg
    with Image.open(tmp_path / "a" / "JPEGImages" / "b.jpg") as image:
        image.save(tmp_path / "a" / "JPEGImages" / "b.ppm")
    (tmp_path / "a" / "JPEGImages" / "b.jpg").unlink()
    reading = read(tmp_path / "a", domain="day")
    assert reading.problems == ()
    assert objects(reading) == [1, 1]
    for form in FORMATS:
        written(reading.data, form, tmp_path / form)
        assert_same(reading.data, read(tmp_path / form, domain="day").data)


# -- images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", ["full", "header"])
def test_an_image_that_detectors_cannot_load_is_found(tmp_path: Path, verify: Any) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", SIZE).save(path, format="ICO")
    problem = inspect_images([path], verify=verify)[path].problem
    assert problem is not None
    assert (problem.code, "OpenCV" in problem.what) == ("image.unreadable", True)


# -- converting ------------------------------------------------------------------------------------


def test_data_whose_labels_are_not_found_are_refused(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "a")
    (tmp_path / "a" / "labels").rename(tmp_path / "a" / "Labels")
    result = CliRunner().invoke(
        cli, ["data", "convert", str(source), str(tmp_path / "b"), "--to", "coco"]
    )
    assert isinstance(result.exception, DataError)
    assert "none of the 4 training images has an object" in str(result.exception)
    assert os.listdir(tmp_path) == ["a"]


def test_a_data_set_with_two_spellings_is_written_once(tmp_path: Path) -> None:
    make_dataset(tmp_path / "day")
    items = [
        {"domain": "day", "data": "day", "classes": ["cat"], "format": "yolo"},
        {"domain": "day", "data": "day/data.yaml", "classes": ["dog"]},
    ]
    path = make_series(tmp_path, items)
    options = [str(path), str(tmp_path / "b"), "--to", "voc", "--json"]
    told = json.loads(CliRunner().invoke(cli, ["data", "convert", *options]).stdout)
    assert [one["data"] for one in told["datasets"]] == ["day/data.yaml"]
    document = yaml.safe_load((tmp_path / "b" / "series.yaml").read_text())
    assert {item["data"] for item in document["increments"]} == {"day/data.yaml"}


def test_a_terminated_conversion_leaves_nothing(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "a")
    program = (
        "import os, shutil, signal, duet.cli.main as main\n"
        "shutil.copyfile = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "main.main()\n"
    )
    options = ["data", "convert", str(source), str(tmp_path / "b"), "--to", "voc"]
    done = subprocess.run([sys.executable, "-c", program, *options], check=False)
    assert done.returncode == 130
    assert os.listdir(tmp_path) == ["a"]
