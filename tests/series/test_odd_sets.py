"""Data sets as other programs and systems leave them: read, or refused with the true reason."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from factories_formats import assert_same, coco_document, codes, make_coco, make_voc
from factories_series import make_dataset, make_series, write_image, write_labels

from duet.cli.main import cli
from duet.errors import DataError
from duet.inference.sources import find_images
from duet.series.formats import coco, read, voc, yolo

BOX = (10, 10, 20, 30)
NFC, NFD = (unicodedata.normalize(form, "grüße") for form in ("NFC", "NFD"))


def checked(series: Path, *options: str) -> dict[str, Any]:
    outcome = CliRunner().invoke(cli, ["data", "check", str(series), "--json", *options])
    assert outcome.exception is None or isinstance(outcome.exception, DataError)
    document: dict[str, Any] = json.loads(outcome.stdout)
    return document


def found(document: dict[str, Any], code: str) -> list[dict[str, Any]]:
    return [item for item in document["problems"] + document["notes"] if item["code"] == code]


# -- COCO: categories and ids ----------------------------------------------------------------------


def roboflow(folder: Path, categories: list[dict[str, Any]], used: int) -> Path:
    """Write a data set in Roboflow's layout whose objects are all of one category."""
    for number, split in enumerate(("train", "valid")):
        names = [f"{split}{n}.jpg" for n in range(2)]
        for n, name in enumerate(names):
            write_image(folder / split / name, seed=10 * number + n, size=(100, 50))
        document = coco_document(names, [BOX] * 2) | {"categories": categories}
        for item in document["annotations"]:
            item["category_id"] = used
        (folder / split / "_annotations.coco.json").write_text(json.dumps(document))
    return folder


def category(index: Any, name: str, parent: str = "none") -> dict[str, Any]:
    return {"id": index, "name": name, "supercategory": parent}


@pytest.mark.parametrize(
    ("categories", "used", "names"),
    [
        ([category(0, "fish"), category(1, "fish", "fish")], 1, ("fish",)),
        ([category(0, "peixos"), category(1, "peix", "peixos")], 1, ("peix",)),
        (
            [category(0, "Swimming-Pools"), category(1, "swimming pools", "Swimming-Pools")], 1,
            ("swimming pools",),
        ),
        (
            [category(0, "sea"), category(1, "fish", "sea"), category(2, "crab", "sea")], 2,
            ("fish", "crab"),
        ),
        ([category(7, "sea", "sea"), category(3, "crab", "sea")], 3, ("crab",)),
        ([category(0, "person", "person"), category(1, "dog", "animal")], 1, ("person", "dog")),
        ([category(0, "animal"), category(1, "dog", "animal")], 0, ("animal", "dog")),
        ([{"id": 0, "name": "sea"}, {"id": 1, "name": "crab"}], 1, ("sea", "crab")),
    ],
)  # fmt: skip
def test_a_category_above_others_without_objects_is_no_class(
    tmp_path: Path, categories: list[dict[str, Any]], used: int, names: tuple[str, ...]
) -> None:
    data = roboflow(tmp_path / "d", categories, used)
    reading = read(data, domain="day")
    assert reading.problems == ()
    assert reading.data.labels.names == names
    wanted = next(item["name"] for item in categories if item["id"] == used)
    for split in reading.data.splits.values():
        for annotation in split.annotations:
            assert [names[index] for index in annotation.class_ids] == [wanted]
    increments = [{"domain": "d", "data": "d", "classes": [wanted]}]
    assert checked(make_series(tmp_path, increments))["ok"]


def test_two_used_categories_of_one_name_are_one_error(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["categories"] = [category(18, "cat", "cat"), category(17, "cat", "cat")]

    reading = coco.read(make_coco(tmp_path, change=change), domain="day")
    assert [problem.code for problem in reading.problems] == ["data.names"]


def spelled(kind: str, value: Any) -> Any:
    return {"float": float, "text": str, "float text": lambda v: f"{v}.0", "int": int}[kind](value)


@pytest.mark.parametrize("place", ["categories", "category_id", "images", "image_id", "all"])
@pytest.mark.parametrize("kind", ["float", "text", "float text", "int"])
def test_whole_numbers_in_another_spelling(tmp_path: Path, place: str, kind: str) -> None:
    def change(document: dict[str, Any]) -> None:
        for item in document["categories"] if place in ("categories", "all") else ():
            item["id"] = spelled(kind, item["id"])
        for item in document["images"] if place in ("images", "all") else ():
            item["id"] = spelled(kind, item["id"])
        for item in document["annotations"]:
            for key in ("image_id", "category_id", "id"):
                if place in (key, "all"):
                    item[key] = spelled(kind, item[key])

    plain = coco.read(make_coco(tmp_path / "plain"), domain="day")
    reading = coco.read(make_coco(tmp_path / "odd", change=change), domain="day")
    assert reading.problems == ()
    assert_same(reading.data, plain.data)


@pytest.mark.parametrize("value", [1.5, None, True, [1], {}, float("nan"), float("inf"), "", " "])
def test_ids_that_are_none_are_told_as_what_they_are(tmp_path: Path, value: Any) -> None:
    def images(document: dict[str, Any]) -> None:
        document["images"][0]["id"] = value

    reading = coco.read(make_coco(tmp_path / "a", change=images), domain="day")
    told = [problem.what for problem in reading.problems if problem.code == "image.entry"]
    assert len(told) == 1
    assert told[0].startswith("the 'id' of train2017-0.png must be a whole number or a text")

    def categories(document: dict[str, Any]) -> None:
        document["categories"][0]["id"] = value

    assert "data.names" in codes(
        coco.read(make_coco(tmp_path / "b", change=categories), domain="day")
    )


@pytest.mark.parametrize("key", ["annotations", "images", "categories"])
@pytest.mark.parametrize("pad", [0, 1 << 14, (1 << 14) - 9])
def test_a_list_that_stands_there_twice_is_refused(tmp_path: Path, key: str, pad: int) -> None:
    def change(document: dict[str, Any]) -> str:
        text = json.dumps(document)
        return f'{text[:-1]}, "pad": "{"x" * pad}", "{key}": []}}'

    reading = coco.read(make_coco(tmp_path, change=change), domain="day")
    (problem,) = [item for item in reading.problems if item.code == "data.file"]
    assert f"the key '{key}' stands there twice" in problem.what


def test_a_list_that_is_named_in_a_text_is_not_twice(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["info"] = {"images": ["annotations"]}

    assert coco.read(make_coco(tmp_path, change=change), domain="day").problems == ()


# -- file names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("listed", "stored"), [(NFC, NFD), (NFD, NFC)])
def test_accents_in_one_piece_or_taken_apart(tmp_path: Path, listed: str, stored: str) -> None:
    def change(document: dict[str, Any]) -> None:
        document["images"][0]["file_name"] = f"{listed}/{listed}.png"

    make_coco(tmp_path / "coco", change=change)
    images = tmp_path / "coco" / "train2017"
    (images / stored).mkdir()
    (images / "train2017-0.png").rename(images / stored / f"{stored}.png")
    row = [("cat", (11, 11, 30, 40), False)]
    make_voc(tmp_path / "voc", {"train": {stored: row}, "val": {"b": row}})
    (tmp_path / "voc/ImageSets/Main/train.txt").write_text(f"{listed}\n")
    (tmp_path / "voc/Annotations" / f"{stored}.xml").rename(
        tmp_path / "voc/Annotations" / f"{listed}.xml"
    )
    source = make_dataset(tmp_path / "yolo")
    for split in ("train", "val"):
        image = tmp_path / "yolo" / "images" / split / f"{split}0.png"
        image.rename(image.with_name(f"{stored}{split}.png"))
        label = tmp_path / "yolo" / "labels" / split / f"{split}0.txt"
        label.rename(label.with_name(f"{listed}{split}.txt"))
    for place in (tmp_path / "coco", tmp_path / "voc", source):
        reading = read(place, domain="day")
        assert reading.problems == ()
        for split in reading.data.splits.values():
            assert all(len(annotation.class_ids) == 1 for annotation in split.annotations)
    increments = [{"domain": "d", "data": "yolo", "classes": ["cat"]}]
    findings = checked(make_series(tmp_path, increments))["findings"]
    assert not [row for row in findings if row["code"].startswith(("pair", "image"))]


def test_a_missing_image_names_the_one_with_other_capitals(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["images"][0]["file_name"] = "TRAIN2017-0.PNG"

    reading = coco.read(make_coco(tmp_path, change=change), domain="day")
    assert "the folder has 'train2017-0.png'" in reading.problems[0].what


def test_names_that_collide_on_other_systems(tmp_path: Path) -> None:
    make_dataset(tmp_path / "d", names=["cat"])
    write_image(tmp_path / "d" / "images" / "train" / "TRAIN0.png", seed=99)
    write_labels(tmp_path / "d", "train", "TRAIN0", ["0 0.4 0.4 0.2 0.2"])
    increments = [{"domain": "d", "data": "d", "classes": ["cat"]}]
    document = checked(make_series(tmp_path, increments))
    assert document["ok"]
    assert len(found(document, "image.name")) == 1


# -- YOLO labels that nobody reads -----------------------------------------------------------------


def test_labels_beside_their_images_are_told_in_every_split(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "t", counts={"train": 8, "val": 6}, names=["cat"])
    for split in ("train", "val"):
        for number, image in enumerate(sorted((source.parent / "images" / split).iterdir())):
            folder = tmp_path / "d" / split / ("another/images" if number % 2 else "folder")
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, folder)
            label = source.parent / "labels" / split / f"{image.stem}.txt"
            shutil.copy(label, folder)
    (tmp_path / "d" / "data.yaml").write_text("names: [cat]\ntrain: train\nval: val\n")
    increments = [{"domain": "d", "data": "d", "classes": ["cat"]}]
    document = checked(make_series(tmp_path, increments))
    told = found(document, "pair.unread")
    assert [(item["severity"], Path(item["where"]).relative_to(tmp_path)) for item in told] == [
        ("warning", Path("d") / split / "another" / "images") for split in ("train", "val")
    ]
    assert [item["what"].split()[0] for item in told] == ["4", "3"]
    assert not found(document, "pair.no-label")


@pytest.mark.parametrize(
    ("images", "labels"), [("Images", "Labels"), ("images", "Labels"), ("Images", "labels"),
                           ("IMAGES", "LABELS"), ("image", "label")],
)  # fmt: skip
def test_folders_of_other_names_are_named(tmp_path: Path, images: str, labels: str) -> None:
    make_dataset(tmp_path / "d")
    for old, new in (("images", images), ("labels", labels)):
        (tmp_path / "d" / old).rename(tmp_path / "d" / new)
    (tmp_path / "d" / "data.yaml").write_text(
        f"names: [cat, dog, bus]\ntrain: {images}/train\nval: {images}/val\n"
    )
    increments = [{"domain": "d", "data": "d", "classes": ["cat"]}]
    document = checked(make_series(tmp_path, increments))
    assert not document["ok"]
    told = found(document, "pair.unread")
    assert [Path(item["where"]) for item in told] == [
        tmp_path / "d" / labels / split for split in ("train", "val")
    ]
    assert "'labels' takes the place of 'images'" in told[0]["remedy"]


@pytest.mark.parametrize(
    "text", ["", "a photograph of a cat", "0 0.5 0.5 2 2", "9 0.5 0.5 0.2 0.2"]
)
def test_a_text_beside_an_image_is_no_label_file(tmp_path: Path, text: str) -> None:
    source = make_dataset(tmp_path)
    (tmp_path / "labels/train/train0.txt").unlink()
    (tmp_path / "images/train/train0.txt").write_text(text)
    assert yolo.read(source, domain="day").problems == ()


@pytest.mark.parametrize("place", ["labels/train", "images/train"])
def test_label_files_in_other_capitals_are_named(tmp_path: Path, place: str) -> None:
    make_dataset(tmp_path / "d", names=["cat"])
    for path in sorted((tmp_path / "d/labels/train").iterdir())[1:]:
        path.rename(tmp_path / "d" / place / f"{path.stem}.TXT")
    increments = [{"domain": "d", "data": "d", "classes": ["cat"]}]
    document = checked(make_series(tmp_path, increments))
    (told,) = found(document, "pair.unread")
    assert told["what"].startswith("3 label files, such as train1.TXT, are not read")
    assert Path(told["where"]) == tmp_path / "d" / place
    assert not found(document, "pair.no-label")


def test_the_labels_of_another_image_are_not_in_other_capitals(tmp_path: Path) -> None:
    make_dataset(tmp_path / "d", names=["cat"])
    write_image(tmp_path / "d/images/train/TRAIN0.png", seed=99)
    increments = [{"domain": "d", "data": "d", "classes": ["cat"]}]
    document = checked(make_series(tmp_path, increments))
    assert not found(document, "pair.unread")
    assert len(found(document, "pair.no-label")) == 1


def test_a_label_file_says_which_image_differs_in_capitals(tmp_path: Path) -> None:
    make_dataset(tmp_path / "d", names=["cat"])
    (tmp_path / "d/labels/train/train0.txt").rename(tmp_path / "d/labels/train/TRAIN0.txt")
    increments = [{"domain": "d", "data": "d", "classes": ["cat"]}]
    (told,) = found(checked(make_series(tmp_path, increments)), "pair.no-image")
    assert "'train0.png' differs in capitals" in told["what"]


def test_annotations_in_other_capitals_are_named(tmp_path: Path) -> None:
    folder = make_voc(tmp_path / "voc", {n: {n: [("cat", BOX, False)]} for n in ("train", "val")})
    (folder / "Annotations/train.xml").rename(folder / "Annotations/train.XML")
    (problem,) = (p for p in voc.read(folder, domain="d").problems if p.severity == "error")
    assert (problem.code, problem.remedy) == ("label.missing", "rename it to 'train.xml'")
    assert "the folder has 'train.XML'" in problem.what
    text = "format: coco\ntrain: {images: train2017, annotations: annotations/Train.json}\n"
    make_coco(tmp_path / "coco")
    (tmp_path / "coco/annotations/train.json").write_text("{}")
    (tmp_path / "coco/data.yaml").write_text(text)
    what = coco.read(tmp_path / "coco/data.yaml", domain="d").problems[-1].what
    assert "the folder has 'train.json'" in what


# -- pictures that are not read --------------------------------------------------------------------


def renamed(folder: Path, suffix: str, count: int = 2) -> None:
    """Give the first training images another suffix; what is in them does not count."""
    for path in sorted((folder / "images/train").iterdir())[:count]:
        path.rename(path.with_suffix(suffix))


@pytest.mark.parametrize(
    ("suffix", "remedy"),
    [(".jfif", "to .jpg"), (".JPE", "to .jpg"), (".gif", "PNG"), (".pgm", "PNG"), (".cr2", "PNG"),
     (".NEF", "PNG"), (".j2k", "PNG"), (".ppm", "PNG"), (".jxl", "PNG")],
)  # fmt: skip
def test_pictures_that_are_not_read_are_told(tmp_path: Path, suffix: str, remedy: str) -> None:
    make_dataset(tmp_path / "d", names=["cat"])
    renamed(tmp_path / "d", suffix)
    increments = [{"domain": "d", "data": "d", "classes": ["cat"]}]
    document = checked(make_series(tmp_path, increments))
    (told,) = found(document, "image.unread")
    assert (told["severity"], Path(told["where"])) == ("warning", tmp_path / "d/images/train")
    assert f"2 files such as train0{suffix} are not read" in told["what"]
    assert remedy in told["remedy"]
    assert not found(document, "pair.no-image")  # their images are there


def test_one_problem_per_folder_and_suffix(tmp_path: Path) -> None:
    source = make_dataset(tmp_path, names=["cat"], counts={"train": 8, "val": 2})
    renamed(tmp_path, ".gif", 4)
    renamed(tmp_path, ".jfif", 1)
    source.write_text("names: [cat]\ntrain: images\nval: images/val\ntest: images/train\n")
    problems = [p for p in yolo.read(source, domain="d").problems if p.code == "image.unread"]
    assert [p.what.partition(" not read")[0] for p in problems] == [
        "the file train0.jfif is", "3 files such as train1.gif are",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["train0.cr2", "._train9.gif", "a.pdf", "a.mpg", "a.txt", "a.json"]
)
def test_other_files_beside_images_are_no_matter(tmp_path: Path, name: str) -> None:
    source = make_dataset(tmp_path)
    (tmp_path / "images/train" / name).write_bytes(b"of another program")
    assert yolo.read(source, domain="d").problems == ()


def test_a_folder_without_images_says_what_is_in_it(tmp_path: Path) -> None:
    source = make_dataset(tmp_path)
    renamed(tmp_path, ".gif", 4)
    (problem,) = yolo.read(source, domain="d").problems
    assert problem.code == "data.images"
    assert "4 files such as train0.gif are of a kind that is not read" in problem.what
    assert "save as PNG or JPEG" in problem.remedy


def test_pictures_of_all_kinds_belong_to_their_annotations(tmp_path: Path) -> None:
    folder = make_voc(tmp_path / "voc", {n: {n: [("cat", BOX, False)]} for n in ("train", "val")})
    (folder / "JPEGImages/train.jpg").rename(folder / "JPEGImages/train.jfif")
    (folder / "ImageSets/Main/train.txt").write_text("train.jfif\n")
    increments = [{"domain": "d", "data": "voc", "classes": ["cat"]}]
    document = checked(make_series(tmp_path, increments))
    assert document["ok"]
    assert not found(document, "pair.no-image")
    make_coco(tmp_path / "coco")
    (tmp_path / "coco/train2017/x.gif").write_bytes(b"unlisted")
    increments = [{"domain": "d", "data": "coco", "classes": ["cat"]}]
    (told,) = found(checked(make_series(tmp_path, increments)), "pair.no-entry")
    assert Path(told["where"]).name == "x.gif"


# -- messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
         "Darknet's obj.data"),
        ("classes= 2\ntrain  = C: /train.txt\nvalid  = x\n", "Darknet's obj.data"),
        ("data/train.txt", "got text"), ("- a\n- b\n", "got a list"), ("", "got nothing"),
        ("3", "got a number"), ("true", "got true or false"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("reader", [yolo, coco, voc])
def test_descriptions_that_are_none(tmp_path: Path, reader: Any, text: str, words: str) -> None:
    source = tmp_path / "obj.data"
    source.write_text(text)
    (problem,) = reader.read(source, domain="d").problems
    assert (problem.code, problem.where.path) == ("data.file", source)
    assert words in problem.what
    assert "Plain" not in problem.what
    assert "'names'" in problem.remedy


def test_objects_that_are_all_ignored_are_told(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        for item in document["annotations"]:
            item["iscrowd"] = 1

    make_coco(tmp_path / "coco", change=change)
    rows = {"a": [("cat", BOX, True)], "b": [("cat", BOX, True)]}
    make_voc(tmp_path / "voc", {"train": rows, "val": {"c": [("cat", BOX, True)]}})
    for name, count, remedy in (("coco", 1, "'iscrowd'"), ("voc", 2, "<difficult>")):
        increments = [{"domain": "d", "data": name, "classes": ["cat"]}]
        document = checked(make_series(tmp_path, increments))
        (told,) = found(document, "slice.no-train")
        assert f"no training image holds 'cat' (objects of this kind: {count}, all" in told["what"]
        assert remedy in told["remedy"]
        assert "'labels'" not in told["remedy"]
    (told,) = found(document, "slice.no-objects")
    assert "(objects of this kind: 1, all ignored as crowd or difficult): their AP" in told["what"]


@pytest.mark.parametrize("form", ["yolo", "coco", "voc"])
def test_where_labels_lie_is_said_for_yolo_only(tmp_path: Path, form: str) -> None:
    make_dataset(tmp_path / "yolo", counts={"train": 1, "val": 1})
    make_coco(tmp_path / "coco")
    make_voc(tmp_path / "voc", {n: {n: [("x", BOX, False)]} for n in ("train", "val")})
    text = "format: voc\ntrain: train\nval: val\nnames: [x, dog]\n"
    (tmp_path / "voc/data.yaml").write_text(text)
    name = "x" if form == "coco" else "dog"
    increments = [{"domain": "d", "data": form, "classes": [name]}]
    (told,) = found(checked(make_series(tmp_path, increments)), "slice.no-train")
    assert ("folder 'labels'" in told["remedy"]) == (form == "yolo")


# -- splits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "severities"),
    [
        ({"test": "../test/images"}, ["warning"]),
        ({"test": ["../test/images", "more"]}, ["warning"] * 2),
        ({"test": "../test/images", "val": "../valid/images"}, ["error"] * 2),
        ({"val": "../valid/images"}, ["error"]),
    ],
    ids=["test", "tests", "test and val", "val"],
)
def test_a_missing_test_split_is_no_error(
    tmp_path: Path, keys: dict[str, Any], severities: list[str]
) -> None:
    source = make_dataset(tmp_path / "d", extra=keys)
    reading = yolo.read(source, domain="d")
    assert [p.severity for p in reading.problems] == severities
    what = reading.problems[0].what
    assert ".." not in what
    folder = str(tmp_path / "d" / ("test" if "test" in keys and len(keys) == 1 else "valid"))
    assert folder in what
    if severities[0] == "warning":
        assert "delete the line 'test'" in reading.problems[0].remedy
        assert sorted(reading.data.splits) == ["train", "val"]


@pytest.fixture
def voc_2007(tmp_path: Path) -> Path:
    """Return a set with `trainval` and `test` only, the most usual one there is."""
    row = [("cat", (11, 11, 30, 40), False)]
    return make_voc(tmp_path / "VOC", {"trainval": {"a": row, "b": row}, "test": {"c": row}})


def test_what_was_converted_passes_the_check(tmp_path: Path, voc_2007: Path) -> None:
    for number, form in enumerate(("coco", "yolo", "voc", "yolo", "coco")):
        source = tmp_path / f"{number - 1}" if number else voc_2007
        outcome = CliRunner().invoke(
            cli, ["data", "convert", str(source), str(tmp_path / f"{number}"), "--to", form]
        )
        assert outcome.exit_code == 0, outcome.output
        reading = read(tmp_path / f"{number}", domain="day")
        assert reading.problems == ()
        assert_same(reading.data, voc.read(voc_2007, domain="day").data)
        increments = [{"domain": "d", "data": f"{number}/data.yaml", "classes": ["cat"]}]
        assert checked(make_series(tmp_path, increments), "--strict")["ok"]


def test_ultralytics_reads_a_converted_set_without_val(tmp_path: Path, voc_2007: Path) -> None:
    CliRunner().invoke(cli, ["data", "convert", str(voc_2007), str(tmp_path / "y"), "--to", "yolo"])
    from ultralytics.data.utils import check_det_dataset

    import duet.families.ultralytics  # noqa: F401  # tames the engine

    seen = check_det_dataset(str(tmp_path / "y" / "data.yaml"), autodownload=False)
    assert Path(seen["val"]) == tmp_path / "y" / "images" / "test"
    assert Path(seen["train"]) == tmp_path / "y" / "images" / "train"


@pytest.mark.parametrize("keys", [("test",), ("val", "test"), ("val",), ("validation",)])
def test_yolo_evaluates_on_val_or_test(tmp_path: Path, keys: tuple[str, ...]) -> None:
    source = make_dataset(tmp_path)
    document = yaml.safe_load(source.read_text())
    place = document.pop("val")
    source.write_text(yaml.safe_dump(document | dict.fromkeys(keys, place)))
    reading = yolo.read(source, domain="day")
    assert reading.problems == ()
    assert list(reading.data.splits) == ["train", "test" if "test" in keys else "val"]


def test_nothing_to_evaluate_on_is_one_error(tmp_path: Path) -> None:
    source = make_dataset(tmp_path, extra={"val": None})
    (problem,) = yolo.read(source, domain="day").problems
    assert (problem.code, problem.what) == (
        "data.split", "neither a 'val' nor a 'test' split to evaluate on"
    )  # fmt: skip


@pytest.mark.parametrize(("path", "told"), [(".", 1), ("../d", 1), (None, 0), ("", 0), ("/", 0)])
def test_a_relative_path_is_noted(tmp_path: Path, path: str | None, told: int) -> None:
    make_dataset(tmp_path / "d", names=["cat"], extra={"path": path})
    if path == "/":
        make_dataset(tmp_path / "d", names=["cat"], extra={"path": str(tmp_path / "d")})
    increments = [{"domain": "d", "data": "d", "classes": ["cat"]}]
    document = checked(make_series(tmp_path, increments))
    assert document["ok"]
    assert len(found(document, "data.path")) == told


# -- globs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("data[yolo](v8n) übung #1/a[1]/*.png", 2),
        ("data[yolo](v8n) übung #1/*/*.png", 3),
        ("data*/a[1]/*.png", 2),
        ("data*/a[[]1]/*.png", 2),
        ("data*/a[0-9]/*.png", 1),
        ("data[yolo](v8n) übung #1/a[1]/[x]*.png", 1),
        ("data[yolo](v8n) übung #1/a[1]/?.png", 1),
    ],
)
def test_globs_inside_folders_with_brackets(tmp_path: Path, pattern: str, count: int) -> None:
    top = tmp_path / "data[yolo](v8n) übung #1"
    for number, name in enumerate(("a[1]/[x]1.png", "a[1]/k.png", "a2/z.png")):
        write_image(top / name, seed=number)
    images = find_images(str(tmp_path / pattern))
    assert len(images.paths) == count
    assert all(not images.name_of(path).is_absolute() for path in images.paths)
    assert "*" not in str(images.root)
