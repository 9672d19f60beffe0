"""The doctor: every kind of damage is found under its name and nothing else is, and is mended."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from factories_doctor import DAMAGES, NAMES, Damage, add_row, healthy, image, label, put_copy
from factories_series import listing
from PIL import Image

from duet.cli.main import cli
from duet.doctor import examine, findings
from duet.doctor.duplicates import exact_copies
from duet.doctor.repair import REPORT, repair
from duet.errors import ConfigError, DataError, DuetError
from duet.labels import LabelSpace
from duet.series import Annotation, DomainData, Increment, Series, Split, read_series
from duet.series.formats.table import resolve
from duet.series.problems import Location, Problem, fatal, note


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series without a fault; tests copy it."""
    return healthy(tmp_path_factory.mktemp("healthy"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original.parent, tmp_path / "series")
    return tmp_path / "series"


def kinds(problems: tuple[Problem, ...]) -> set[tuple[str, str]]:
    """Return severity and code of what counts; notes do not."""
    return {(p.severity, p.code) for p in problems if p.severity != "note"}


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli, ["data", "check", *map(str, arguments)], env={"COLUMNS": "150"})


# -- finding ---------------------------------------------------------------------------------------


def test_healthy_series(original: Path) -> None:
    before = listing(original.parent)
    result = run(original, "--strict")
    assert result.exception is None
    assert {p.code for p in examine(original).problems} == {"background.labelled"}
    assert listing(original.parent) == before


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_each_damage_is_found_and_nothing_else(folder: Path, damage: Damage) -> None:
    damage.plant(folder)
    assert kinds(examine(folder / "series.yaml").problems) == {(damage.severity, damage.code)}


def test_all_damages_at_once(folder: Path) -> None:
    for damage in DAMAGES.values():
        damage.plant(folder)
    found = examine(folder / "series.yaml").problems
    # Renaming the classes twice leaves one of the two series; the data set still has both names.
    expected = {(d.severity, d.code) for d in DAMAGES.values()} - {("error", "class.alias-clash")}
    assert kinds(found) == expected
    rows = {row.code: row for row in findings(found)}
    assert rows["image.unreadable"].count == 2
    assert rows["label.whole-image"].count == 3
    assert [row.severity for row in rows.values()] == sorted(
        (row.severity for row in rows.values()), key=("error", "warning", "note").index
    )
    result = run(folder / "series.yaml")
    assert isinstance(result.exception, DataError)
    assert all(code in result.output for _, code in expected)
    document = json.loads(run(folder / "series.yaml", "--json").output)
    assert not document["ok"]
    assert {row["code"] for row in document["findings"]} >= {code for _, code in expected}


@pytest.mark.parametrize(
    ("rows", "severity"), [((6,), "note"), ((6, 7), "note"), ((6, 7, 8), "warning")]
)
def test_whole_images_count_when_they_come_again(
    folder: Path, rows: tuple[int, ...], severity: str
) -> None:
    add_row("1 0.5 0.5 1 1", *rows)(folder)
    found = [p for p in examine(folder / "series.yaml").problems if p.code == "label.whole-image"]
    assert [p.severity for p in found] == [severity] * len(rows)


def test_images_without_labels_may_be_meant(folder: Path) -> None:
    for index in range(16):
        label(folder, index).unlink()
    found = examine(folder / "series.yaml").problems
    assert {p.severity for p in found if p.code == "pair.no-label"} == {"note"}


@pytest.mark.parametrize(
    ("many", "few", "expected"),
    [
        (60, 2, {("warning", "class.imbalance")}),
        (15, 2, {("note", "class.few")}),
        (600, 11, {("warning", "class.imbalance")}),
        (500, 11, set()),
        (8, 9, {("note", "class.few")}),
    ],
)
def test_balance(many: int, few: int, expected: set[tuple[str, str]]) -> None:
    import numpy as np

    from duet.doctor.balance import balance_problems

    ids = np.array([0] * many + [1] * few, np.int64)
    boxes = np.full((len(ids), 4), 0.5)
    split = Split("train", (Path("a.jpg"),), (Annotation(ids, boxes, 8, 8),))
    data = DomainData("day", LabelSpace(NAMES), {"train": split}, Path("data.yaml"))
    series = Series("s", "", (Increment("day", "day", NAMES[:2], data),))
    assert {(p.severity, p.code) for p in balance_problems(series)} == expected


def test_known_background_shift_is_counted(folder: Path) -> None:
    # Each of the 24 images of `night` holds one object of each class.
    found = [p for p in examine(folder / "series.yaml").problems if p.code == "background.labelled"]
    assert len(found) == 2
    assert "24 objects of the old class 'cat'" in found[0].what
    assert "24 of 24 training images" in found[0].what


def convert(folder: Path, form: str) -> Path:
    """Write the series in another format beside it and return its file."""
    series = read_series(folder / "series.yaml")
    for increment in series.increments:
        target = folder / f"{increment.domain}-{form}"
        target.mkdir()
        resolve(form).write(increment.data, target, transfer="copy", progress=lambda _: None)
    document = yaml.safe_load((folder / "series.yaml").read_text())
    for item in document["increments"]:
        item["data"] = f"{item['domain']}-{form}"
    path = folder / f"{form}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_voc_pairs_and_dummies(folder: Path) -> None:
    path = convert(folder, "voc")
    assert kinds(examine(path).problems) == set()
    data = folder / "day-voc"
    (data / "Annotations" / "gone.xml").write_text("<annotation></annotation>")
    (data / "Annotations" / "train001.xml").unlink()
    xml = data / "Annotations" / "train002.xml"
    dummy = "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>1</xmax><ymax>1"
    text = xml.read_text().replace(
        "</annotation>", f"{dummy}</ymax></bndbox></object></annotation>"
    )
    xml.write_text(text)
    assert kinds(examine(path).problems) == {
        ("warning", "pair.no-image"),
        ("error", "label.missing"),
        ("error", "label.dummy"),
    }


def test_coco_images_without_entry(folder: Path) -> None:
    path = convert(folder, "coco")
    assert kinds(examine(path).problems) == set()
    listed = next((folder / "day-coco").rglob("train000.jpg"))
    shutil.copy(image(folder, 0, "night"), listed.with_name("unlisted.jpg"))
    assert kinds(examine(path).problems) == {("warning", "pair.no-entry")}


def test_notes_never_count() -> None:
    problems = (note("class.few", "x", "y", "z"),)
    assert fatal(problems) == fatal(problems, strict=True) == ()
    with pytest.raises(ValueError, match="'note'"):
        Problem("hint", "class.few", Location(part="x"), "y", "z")  # type: ignore[arg-type]


# -- repairing -------------------------------------------------------------------------------------

MENDED = {name: damage for name, damage in DAMAGES.items() if damage.mended}


@pytest.mark.parametrize("damage", MENDED.values(), ids=MENDED)
def test_each_damage_is_mended(folder: Path, tmp_path: Path, damage: Damage) -> None:
    damage.plant(folder)
    before = listing(folder)
    result = run(folder / "series.yaml", "--fix", tmp_path / "out", "--strict")
    assert result.exception is None, result.output
    assert kinds(examine(tmp_path / "out" / "series.yaml").problems) == set()
    report = json.loads((tmp_path / "out" / REPORT).read_text())
    assert damage.code.removesuffix("-between") in {change["code"] for change in report["changes"]}
    assert report["left"] == []
    assert listing(folder) == before


def test_what_a_person_must_decide_stays(folder: Path, tmp_path: Path) -> None:
    for name, damage in DAMAGES.items():
        if name not in ("unknown name", "two names"):
            damage.plant(folder)
    result = run(folder / "series.yaml", "--fix", tmp_path / "out")
    assert isinstance(result.exception, DataError)  # the unknown class id
    left = {
        (d.severity, d.code)
        for name, d in DAMAGES.items()
        if not d.mended and name not in ("unknown name", "two names")
    }
    assert kinds(examine(tmp_path / "out" / "series.yaml").problems) == left
    report = json.loads((tmp_path / "out" / REPORT).read_text())
    assert {(item["severity"], item["code"]) for item in report["left"]} == left
    assert report["counts"]["clipped box"] == 2


def test_repair_of_a_healthy_series_changes_nothing(original: Path, tmp_path: Path) -> None:
    repaired = repair(examine(original), tmp_path / "out")
    assert repaired.changes == repaired.left == ()
    pairs = zip(
        read_series(original).increments, read_series(repaired.series).increments, strict=True
    )
    for before, after in pairs:
        assert before.classes == after.classes
        for name, split in before.data.splits.items():
            copy = after.data.splits[name]
            assert [p.read_bytes() for p in split.images] == [p.read_bytes() for p in copy.images]
            texts = [
                [
                    Path(str(p).replace("/images/", "/labels/")).with_suffix(".txt").read_text()
                    for p in s.images
                ]
                for s in (split, copy)
            ]
            assert texts[0] == texts[1]


def test_evaluation_is_not_touched(folder: Path, tmp_path: Path) -> None:
    for name in ("leak", "leak between", "near-duplicate"):
        DAMAGES[name].plant(folder)
    diagnosis = examine(folder / "series.yaml")
    assert len(exact_copies(diagnosis.series)) == 2
    repaired = repair(diagnosis, tmp_path / "out")
    dropped = sorted(change.file.path.name for change in repaired.changes)
    assert dropped == ["train013.jpg", "train014.jpg", "train017.jpg"]
    for domain, count in (("day", 10), ("night", 9)):
        assert len(list((tmp_path / "out" / domain / "images" / "val").iterdir())) == count


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_repair_keeps_the_format(folder: Path, tmp_path: Path, form: str) -> None:
    add_row("0 0.4 0.4 0.005 0.2", 5)(folder)
    add_row("1 0.97 0.5 0.2 0.2", 11)(folder)
    path = convert(folder, form)
    assert kinds(examine(path).problems) == {
        ("warning", "label.tiny"),
        ("warning", "label.outside"),
    }
    repaired = repair(examine(path), tmp_path / "out")
    assert sorted(change.action for change in repaired.changes) == ["clipped box", "dropped row"]
    after = examine(repaired.series)
    assert kinds(after.problems) == set()
    assert {data.form for data in after.series.data_sets} == {form}


def test_data_sets_that_share_label_files_are_mended_each_by_its_own_classes(
    folder: Path, tmp_path: Path
) -> None:
    first = folder / "day" / "data.yaml"
    document = yaml.safe_load(first.read_text())
    (folder / "day" / "other.yaml").write_text(yaml.safe_dump({**document, "names": NAMES[:3]}))
    series = yaml.safe_load((folder / "series.yaml").read_text())
    series["increments"][1] |= {"domain": "day", "data": "day/other.yaml", "classes": ["bus"]}
    (folder / "series.yaml").write_text(yaml.safe_dump(series))
    sound = label(folder, 3).read_text()
    unknown, tiny, over = "3 0.5 0.5 0.2 0.2\n", "0 0.3 0.3 0.001 0.2\n", "1 1.02 0.5 0.2 0.2\n"
    label(folder, 3).write_text(unknown + tiny + over + sound)
    repaired = repair(examine(folder / "series.yaml"), tmp_path / "out")
    lines = [(change.action, change.file.line) for change in repaired.changes]
    assert lines == [("dropped row", 2), ("clipped box", 3)] * 2
    for name in ("day", "day-2"):
        text = (tmp_path / "out" / name / "labels" / "train" / "train003.txt").read_text()
        assert text == f"{unknown}1 0.96 0.5 0.08 0.2\n{sound}"


def test_an_image_listed_twice_is_kept_once(folder: Path, tmp_path: Path) -> None:
    data = folder / "day" / "data.yaml"
    data.write_text(yaml.safe_dump({**yaml.safe_load(data.read_text()), "train": "train.txt"}))
    lines = [f"./images/train/train{index:03d}.jpg\n" for index in (*range(24), 0)]
    (folder / "day" / "train.txt").write_text("".join(lines))
    repaired = repair(examine(folder / "series.yaml"), tmp_path / "out")
    assert [change.why for change in repaired.changes] == ["listed twice"]
    after = examine(repaired.series)
    assert kinds(after.problems) == set()
    assert len(after.series.increments[0].data.splits["train"].images) == 24


def test_an_image_with_two_labellings_keeps_both(folder: Path, tmp_path: Path) -> None:
    """COCO's objects may be listed class by class: each list holds objects of its own."""
    path = convert(folder, "coco")
    data = folder / "day-coco"
    document = json.loads((data / "annotations" / "instances_train.json").read_text())
    for name, kept in (("cat", {1}), ("rest", {2, 3, 4})):
        rows = [row for row in document["annotations"] if row["category_id"] in kept]
        (data / f"{name}.json").write_text(json.dumps({**document, "annotations": rows}))
    described = yaml.safe_load((data / "data.yaml").read_text())
    described["train"] = [
        {"images": "images/train", "annotations": f"{name}.json"} for name in ("cat", "rest")
    ]
    (data / "data.yaml").write_text(yaml.safe_dump(described))
    repaired = repair(examine(path), tmp_path / "out")
    assert repaired.changes == ()
    assert {problem.code for problem in repaired.left} == {"image.duplicate"}
    again = repair(examine(repaired.series), tmp_path / "again")
    for copy in (repaired, again):
        after = read_series(copy.series).increments[0].data
        assert len(after.splits["train"].images) == 2 * 24
        assert after.objects["train"] == set(NAMES)


def test_a_copy_with_objects_of_its_own_is_kept(folder: Path, tmp_path: Path) -> None:
    for index, copy in ((0, 90), (1, 91)):
        put_copy(image(folder, index), image(folder, copy), label(folder, index))
    label(folder, 90).write_text(label(folder, 90).read_text().splitlines()[0])
    add_row("0 0.3 0.3 0.2 0.2", 91)(folder)
    repaired = repair(examine(folder / "series.yaml"), tmp_path / "out")
    assert [(change.code, change.file.path) for change in repaired.changes] == [
        ("image.duplicate", image(folder, 90))
    ]
    assert [(problem.code, problem.where.path) for problem in repaired.left] == [
        ("image.duplicate", image(folder, 91))
    ]


def test_a_copy_that_is_listed_twice_keeps_objects_of_its_own(folder: Path, tmp_path: Path) -> None:
    path = convert(folder, "coco")
    data = folder / "day-coco"
    document = json.loads((data / "annotations" / "instances_train.json").read_text())
    shared = document["annotations"][0]
    original = next(item for item in document["images"] if item["id"] == shared["image_id"])
    copy = {**original, "file_name": f"copy-{original['file_name']}"}
    images = data / "images" / "train"
    shutil.copyfile(images / original["file_name"], images / copy["file_name"])
    for name, row in (("own", {**shared, "bbox": [1, 2, 9, 8]}), ("shared", shared)):
        text = json.dumps({**document, "images": [copy], "annotations": [row]})
        (data / f"{name}.json").write_text(text)
    described = yaml.safe_load((data / "data.yaml").read_text())
    described["train"] = [
        {"images": "images/train", "annotations": f"{name}.json"}
        for name in ("annotations/instances_train", "own", "shared")
    ]
    (data / "data.yaml").write_text(yaml.safe_dump(described))
    assert repair(examine(path), tmp_path / "out").changes == ()


def test_every_data_set_loses_its_copy_of_an_evaluated_picture(
    folder: Path, tmp_path: Path
) -> None:
    DAMAGES["repeat"].plant(folder)  # image 16 of `day` is image 93 of `night`
    target = image(folder, 94, split="val")
    put_copy(image(folder, 16), target, label(folder, 16))
    with Image.open(image(folder, 16)) as picture:
        picture.save(target, quality=60)
    repaired = repair(examine(folder / "series.yaml"), tmp_path / "out")
    dropped = sorted(change.file.path.name for change in repaired.changes)
    assert dropped == ["train016.jpg", "train093.jpg"]
    assert repaired.left == ()
    assert kinds(examine(repaired.series).problems) == set()


def test_each_repair_of_coco_is_told_once(folder: Path, tmp_path: Path) -> None:
    path = convert(folder, "coco")
    target = folder / "day-coco" / "annotations" / "instances_train.json"
    document = json.loads(target.read_text())
    for number, (picture, box) in enumerate([(1, [0, 0, 1, 1]), (777, [9, 9, 30, 30])], 9000):
        document["annotations"].append(
            {"id": number, "image_id": picture, "category_id": 1, "bbox": box}
        )
    target.write_text(json.dumps(document))
    # The folder of this data set begins with the name of another one.
    (folder / "night-coco").rename(folder / "day-coco-2")
    path.write_text(path.read_text().replace("night-coco", "day-coco-2"))
    repaired = repair(examine(path), tmp_path / "out")
    assert sorted(change.code for change in repaired.changes) == ["label.dummy", "label.image"]
    assert repaired.left == ()
    assert kinds(examine(repaired.series).problems) == set()


def test_images_without_readable_xml_are_told(folder: Path, tmp_path: Path) -> None:
    path = convert(folder, "voc")
    (folder / "day-voc" / "Annotations" / "train002.xml").write_text("<annotation><object>")
    repaired = repair(examine(path), tmp_path / "out")
    assert [(c.action, c.code) for c in repaired.changes] == [("dropped image", "label.file")]


def test_repair_refuses_to_guess(folder: Path, tmp_path: Path) -> None:
    path = convert(folder, "voc")
    xml = folder / "day-voc" / "Annotations" / "train002.xml"
    xml.write_text(xml.read_text().replace("<name>cat<", "<name>cta<"))
    with pytest.raises(DataError, match="no repair can tell"):
        repair(examine(path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--fix", "--crops"])
def test_targets_that_hold_files_are_refused_before_the_work(
    original: Path, tmp_path: Path, option: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    result = run(original, option, tmp_path / "full", "--detector", "nowhere")
    assert isinstance(result.exception, DuetError)
    assert "not empty" in str(result.exception)


def test_crops_need_a_detector(original: Path, tmp_path: Path) -> None:
    assert isinstance(run(original, "--crops", tmp_path / "x").exception, ConfigError)
