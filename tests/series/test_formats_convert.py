"""`duet data convert`: what is written, what is said, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from factories_formats import assert_same, codes, describe, make_coco, make_voc, simple_voc
from factories_series import listing, make_clean_series, make_dataset, make_series, write_labels

from duet.cli.main import cli
from duet.errors import ConfigError, DataError, DuetError
from duet.series import inspect_series, read_series
from duet.series.formats import read
from duet.series.formats.table import FORMATS
from duet.series.reader import is_series

CAT = (11.0, 11.0, 30.0, 40.0)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["data", "convert", *map(str, arguments)])


def done(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exception is None, result.exception
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@pytest.mark.parametrize("form", FORMATS)
def test_a_data_set(tmp_path: Path, form: str) -> None:
    source = make_dataset(tmp_path / "a")
    before = listing(tmp_path / "a")
    told = done(source, tmp_path / "b", "--to", form)
    assert told["datasets"][0]["images"] == {"train": 4, "val": 3}
    assert told["datasets"][0]["objects"] == {"train": 4, "val": 3}
    assert told["datasets"][0]["read_as"] == "yolo"
    assert told["datasets"][0]["data"] == "data.yaml"
    assert_same(read(source, domain="x").data, read(tmp_path / "b" / "data.yaml", domain="x").data)
    assert listing(tmp_path / "a") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_people_are_told_counts_and_the_next_command(tmp_path: Path) -> None:
    result = run(make_dataset(tmp_path / "a"), tmp_path / "b", "--to", "voc", "--images", "link")
    assert "train 4 images 4 objects, val 3 images 3 objects, 3 classes" in result.stdout
    assert f"next: name {tmp_path / 'b' / 'data.yaml'}" in result.stdout
    assert (tmp_path / "b" / "JPEGImages" / "train0.png").is_symlink()


@pytest.mark.parametrize(
    ("options", "objects", "lost"),
    [
        ([], None, 0),
        (["--lossy"], 3, 2),
        (["--difficult", "keep"], 5, 0),
        (["--difficult", "drop"], 3, 0),
    ],
)
def test_marks_are_not_lost_in_silence(
    tmp_path: Path, options: list[str], objects: int | None, lost: int
) -> None:
    source = simple_voc(tmp_path / "a")
    result = run(source, tmp_path / "b", "--to", "yolo", *options)
    if objects is None:
        assert isinstance(result.exception, DataError)
        assert "2 ignored objects" in str(result.exception)
        assert "--lossy" in str(result.exception)
        assert not (tmp_path / "b").exists()
        return
    assert result.exception is None
    assert ("were left out" in result.stdout) == bool(lost)
    data = read(tmp_path / "b", domain="x").data
    assert sum(len(a.class_ids) for s in data.splits.values() for a in s.annotations) == objects


def test_what_is_not_written_is_counted(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "a")
    write_labels(tmp_path / "a", "train", "train0", ["0 0.1 0.2 0.5 0.2 0.3 0.8"])
    assert done(source, tmp_path / "b", "--to", "coco")["datasets"][0]["unused"] == {"outlines": 1}
    result = run(source, tmp_path / "c", "--to", "coco")
    assert "not written: 1 outlines" in result.stdout


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ("dog", "motor", "motorbike", "tv")),
        (["--rename", "dog=hound"], ("hound", "motor", "motorbike", "tv")),
        (["--rename", "motor=motorbike"], ("dog", "motorbike", "tv")),
        (
            ["--rename", "motor=motorbike", "--aliases", "coco"],
            ("dog", "motorcycle", "tv"),
        ),
        (["--rename", "motor=motorbike", "--aliases", "voc"], ("dog", "motorbike", "tvmonitor")),
        (["--rename", "motor=motorbike", "--aliases", "bdd"], ("dog", "motor", "tv")),
    ],
)
def test_names(tmp_path: Path, options: list[str], names: tuple[str, ...]) -> None:
    rows = [("motor", CAT, False), ("motorbike", CAT, False), ("tv", CAT, False)]
    lists = {"train": {"a": rows, "b": [("dog", CAT, False)]}, "val": {"c": rows}}
    source = make_voc(tmp_path / "a", lists)
    told = done(source, tmp_path / "b", "--to", "yolo", *options)["datasets"][0]
    reading = read(tmp_path / "b", domain="x")
    assert reading.data.labels.names == names
    assert reading.problems == ()
    # The same object under both names is one object.
    assert told["joined"] == (2 if len(names) == 3 else 0)
    assert told["objects"]["val"] == (2 if len(names) == 3 else 3)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (["--rename", "cta=kitty"], ConfigError, "did you mean 'cat'"),
        (["--rename", "cat"], ConfigError, "OLD=NEW"),
        (["--rename", "cat=a", "--rename", "cat=b"], ConfigError, "cannot become"),
        (["--to", "yoloo"], ConfigError, "did you mean 'yolo'"),
        (["--from", "voc"], DataError, "JPEGImages|split"),
        (["--from", "vok"], DataError, "unknown format"),
        (["--difficult", "drop"], DataError, "a choice for VOC data"),
    ],
)
def test_what_cannot_be_done_writes_nothing(
    tmp_path: Path, options: list[str], error: type[Exception], words: str
) -> None:
    source = make_dataset(tmp_path / "a")
    result = run(source, tmp_path / "b", "--to", "coco", *options)
    assert isinstance(result.exception, error)
    assert result.exception is not None
    with pytest.raises(error, match=words):
        raise result.exception
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_target_with_files_is_refused(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").touch()
    result = run(source, tmp_path / "b", "--to", "coco")
    assert isinstance(result.exception, DuetError)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["mine"]


@pytest.mark.parametrize("series", [False, True])
def test_a_target_among_the_images_is_refused(tmp_path: Path, series: bool) -> None:
    source = make_clean_series(tmp_path) if series else make_dataset(tmp_path / "a")
    images = next(path for path in tmp_path.rglob("images/train") if path.is_dir())
    before = listing(tmp_path)
    result = run(source, images / "deeper" / "b", "--to", "yolo")
    assert isinstance(result.exception, DuetError)
    assert "would count as data" in str(result.exception)
    assert listing(tmp_path) == before


@pytest.mark.skipif(os.name == "nt", reason="names places of Linux")
@pytest.mark.parametrize("place", ["/", "/proc", "link"])
def test_the_whole_system_is_no_folder_of_images(tmp_path: Path, place: str) -> None:
    source = make_dataset(tmp_path / "a")
    if place == "link":
        (tmp_path / "a" / "images" / "train" / "more").symlink_to("/")
    else:
        document = yaml.safe_load(source.read_text())
        source.write_text(yaml.safe_dump(document | {"train": place}))
    problems = read(source, domain="x").problems
    assert [problem.code for problem in problems if "no folder" in problem.what] == ["data.images"]


def test_data_with_errors_are_refused(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "a")
    write_labels(tmp_path / "a", "train", "train0", ["9 0.5 0.5 0.1 0.1"])
    result = run(source, tmp_path / "b", "--to", "coco")
    assert isinstance(result.exception, DataError)
    assert "[label.class]" in str(result.exception)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("form", FORMATS)
def test_a_series(tmp_path: Path, form: str) -> None:
    make_clean_series(tmp_path / "data")
    (tmp_path / "fast.yaml").touch()
    items = [
        {"domain": "day", "data": "day/data.yaml", "classes": ["cat"]},
        {"domain": "day", "data": "day/data.yaml", "classes": ["dog"], "format": "yolo"},
        {"domain": "night", "data": "night", "classes": ["bus"]},
    ]
    path = make_series(tmp_path, items, root="data", defaults={"train": "fast.yaml"})
    told = done(path, tmp_path / "b", "--to", form, "--rename", "bus=coach")
    assert told["series"] == str(tmp_path / "b" / "series.yaml")
    assert len(told["datasets"]) >= 2
    document = yaml.safe_load((tmp_path / "b" / "series.yaml").read_text())
    assert os.path.realpath(tmp_path / "b" / document["defaults"]["train"]) == os.path.realpath(
        tmp_path / "fast.yaml"
    )
    before, after = read_series(path), read_series(tmp_path / "b" / "series.yaml")
    assert after.labels.names == ("cat", "dog", "coach")
    for old, new in zip(before.increments, after.increments, strict=True):
        assert old.name == new.name
        for name, split in old.data.splits.items():
            pairs = zip(split.annotations, new.data.splits[name].annotations, strict=True)
            assert all(a.boxes.tobytes() == b.boxes.tobytes() for a, b in pairs)


def test_data_sets_of_different_formats_become_one(tmp_path: Path) -> None:
    simple_voc(tmp_path / "day")
    make_coco(tmp_path / "night", seed=70)
    items = [
        {"domain": "day", "data": "day", "classes": ["dog", "cat"]},
        {"domain": "night", "data": "night", "classes": ["x"]},
    ]
    path = make_series(tmp_path, items)
    options = ("--to", "coco", "--difficult", "keep")
    told = done(path, tmp_path / "b", *options)
    assert [one["read_as"] for one in told["datasets"]] == ["voc", "coco"]
    assert codes(read(tmp_path / "b" / "day", domain="x")) == []


# -- names in a series -----------------------------------------------------------------------------


def two_domains(folder: Path, night: tuple[str, ...], classes: list[list[str]]) -> Path:
    """Write a series of two data sets; only the second one's names are given."""
    make_dataset(folder / "day", seed=1, names=("motorbike", "sofa", "dog"))
    make_dataset(folder / "night", seed=2, names=night)
    items = [
        {"domain": domain, "data": domain, "classes": names}
        for domain, names in zip(("day", "night"), classes, strict=True)
    ]
    return make_series(folder, items)


def test_classes_are_read_under_the_names_of_the_series(tmp_path: Path) -> None:
    path = two_domains(tmp_path, ("Motor", "couch", "Dog"), [["motorbike", "sofa"], ["dog"]])
    inspection = inspect_series(path)
    assert {problem.code for problem in inspection.problems} == {"class.alias"}
    assert {problem.severity for problem in inspection.problems} == {"note"}
    assert inspection.series.increments[1].data.labels.names == ("motorbike", "sofa", "dog")
    read_series(path)


@pytest.mark.parametrize(
    ("night", "classes", "where"),
    [
        (("motor", "motorcycle", "dog"), [["motorbike"], ["dog"]], "night"),
        (("motor", "couch", "dog"), [["motorbike"], ["motor"]], "motorbike"),
        (("motor", "motorbike", "dog"), [["sofa"], ["motor", "motorbike"]], "motor"),
    ],
    ids=["in-a-data-set", "in-two-increments", "in-one-increment"],
)
def test_two_names_of_one_thing_are_refused(
    tmp_path: Path, night: tuple[str, ...], classes: list[list[str]], where: str
) -> None:
    path = two_domains(tmp_path, night, classes)
    problems = [p for p in inspect_series(path).problems if p.code == "class.alias-clash"]
    assert problems
    assert all(problem.severity == "error" for problem in problems)
    assert any(where in str(problem.where) for problem in problems)


def test_a_clash_outside_the_series_does_not_matter(tmp_path: Path) -> None:
    path = two_domains(tmp_path, ("person", "pedestrian", "dog"), [["sofa"], ["dog"]])
    assert inspect_series(path).problems == ()


def test_unknown_names_stay_refused(tmp_path: Path) -> None:
    path = two_domains(tmp_path, ("bus", "car", "dgo"), [["sofa"], ["dog"]])
    with pytest.raises(DataError, match=r"class\.unknown"):
        read_series(path)


def test_the_remedy_for_a_clash_works(tmp_path: Path) -> None:
    path = two_domains(tmp_path, ("motor", "motorcycle", "dog"), [["motorbike"], ["dog"]])
    told = done(tmp_path / "night", tmp_path / "b", "--to", "yolo", "--rename", "motorcycle=motor")
    assert told["datasets"][0]["classes"] == ["motor", "dog"]
    document = yaml.safe_load(path.read_text())
    document["increments"][1]["data"] = "b"
    fixed = describe(tmp_path, document, "fixed.yaml")
    assert {problem.code for problem in inspect_series(fixed).problems} == {"class.alias"}


@pytest.mark.parametrize(
    ("name", "text", "series"),
    [
        ("a.yaml", "names: [a]\ntrain: images\n", False),
        ("a.YML", "name: shop\nincrements: []\n", True),
        ("a.yaml", "name: shop\nincrement: []\n", True),  # its reader says what was meant
        ("a.yaml", "names: [a]\nincrements: []\n", True),
        ("a.yaml", "path: .\nnc: 2\n", False),
        ("a.yaml", "", False),
        ("a.yaml", "- a\n", False),
        ("a.json", '{"images": [], "increments": []}', False),
        ("obj.data", "classes = 2\ntrain = a\nnames = b\n", False),
    ],
)
def test_a_series_is_told_from_a_data_set(
    tmp_path: Path, name: str, text: str, series: bool
) -> None:
    (tmp_path / name).write_text(text)
    assert is_series(tmp_path / name) is series
    assert is_series(tmp_path) is False
    with pytest.raises(ConfigError, match="No such file"):
        is_series(tmp_path / "gone.yaml")


def test_problems_of_a_data_set_alone_name_no_series(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("path: .\nnc: 2\n")
    failure = run(tmp_path / "data.yaml", tmp_path / "out", "--to", "coco").exception
    assert isinstance(failure, DataError)
    assert "'names' must be a list" in failure.what
    assert failure.remedy == "correct them in one go and give the same command again"
