"""tools/prepare_photos.py: small copies of the authors' folders, as clones and as GitHub's zips."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain, combinations
from pathlib import Path

import factories_archives as make
import pytest
import yaml

from duet.errors import ConfigError, DataError
from duet.evaluation.pairs import gi_pairs, pi_pairs, ri_pairs
from duet.series.reader import read_config, read_series
from duet.shipped import shipped
from published import PHOTOS, Choices, Prepared, prepare
from published.command import prepare_command, run_tool
from published.folds import deal
from published.sets import CARD_NAMES

SMALL = make.smaller(PHOTOS, {
    ("phone", "train"): 24, ("phone", "test"): 6, ("webcam", "all"): 20, ("raccoon", "all"): 12,
    ("blood", "train"): 6, ("blood", "val"): 3, ("blood", "test"): 3,
})  # fmt: skip
PHONES = [f"IMG_{number}" for number in range(2460, 2484)]
TESTED = [f"IMG_{number}" for number in range(2600, 2606)]
WEBCAM = [f"cam_image{number}" for number in (*range(1, 20), 54)]
RACCOONS = [f"raccoon-{number}" for number in (11, 116, 21, 45, 1, 2, 3, 4, 5, 6, 7, 8)]


def pairs(places: dict[str, tuple[str, str]], names: tuple[str, ...]) -> make.Files:
    """Return images and label files: image -> (image without suffix, label file without it)."""
    files: make.Files = {}
    for number, (image, (picture, label)) in enumerate(places.items()):
        suffix = "JPG" if image.startswith("IMG") else "jpg"
        box = (1 + number % 5, 2, 20 + number % 9, 25)
        files[f"{picture}.{suffix}"] = make.jpeg(number + sum(map(ord, names[0])))
        files[f"{label}.xml"] = make.xml([(names[number % len(names)], box)])
    return files


def card_files(root: str = "") -> make.Files:
    beside = dict.fromkeys(PHONES, "train") | dict.fromkeys(TESTED, "test")
    beside |= {image: "test" if n % 7 == 1 else "train" for n, image in enumerate(WEBCAM)}
    places = {image: f"{root}images/{folder}/{image}" for image, folder in beside.items()}
    files = pairs({image: (place, place) for image, place in places.items()}, CARD_NAMES)
    # What the repository holds besides.
    return files | {f"{root}images/train_labels.csv": b"x", f"{root}xml_to_csv.py": b"x"}


def blood_files(root: str = "BCCD") -> make.Files:
    listed = make.ids("BloodImage_", 12)
    lists = {"train": listed[:6], "val": listed[6:9], "test": listed[9:], "trainval": listed[:9]}
    return make.tree(root, lists, ("RBC", "WBC", "Platelets"), seed=7)


def raccoon_files(root: str = "") -> make.Files:
    places = {name: (f"{root}images/{name}", f"{root}annotations/{name}") for name in RACCOONS}
    return pairs(places, ("raccoon",)) | {f"{root}data/raccoon_labels.csv": b"x"}


@pytest.fixture
def clones(tmp_path: Path) -> list[Path]:
    """The three repositories, cloned."""
    return [
        make.write_folder(tmp_path / "cards", card_files()),
        make.write_folder(tmp_path / "BCCD_Dataset", blood_files()),
        make.write_folder(tmp_path / "raccoon_dataset", raccoon_files()),
    ]


def run(archives: list[Path], out: Path, *, fold: int = 0, folds: int = 3) -> Prepared:
    choices = Choices(folds=folds, fold=fold)
    return prepare(
        SMALL, [("", path) for path in archives], out, choices=choices, step=lambda *_: None
    )


def lists(out: Path, name: str) -> dict[str, set[str]]:
    """Return split -> image ids of a prepared data set."""
    splits = yaml.safe_load((out / f"{name}.yaml").read_text())
    found = {}
    for split in ("train", "val", "test"):
        (place,) = splits[split]
        folder, _, listed = place.partition("/")
        text = (out / folder / "ImageSets" / "Main" / f"{listed}.txt").read_text()
        found[split] = set(text.split())
    return found


def content(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != "prepared.json"  # holds the paths of the archives
    }


def test_clones_become_two_series(clones: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = run(clones, out)
    assert {name: (s.train, s.val, s.test) for name, s in made.sets.items()} == {
        "phone": (16, 8, 6), "webcam": (6, 7, 7), "blood": (6, 3, 3), "raccoon": (4, 4, 4),
    }  # fmt: skip
    assert set(made.series) == {"photos-cards", "photos-4"}
    for name in made.series:
        series = read_series(out / f"{name}.yaml")  # reads and checks every image and label
        steps = [(step.domain, step.classes) for step in series.increments]
        assert steps[:2] == [
            ("phone", ("ace", "king", "queen")),
            ("webcam", ("jack", "ten", "nine")),
        ]
        assert sorted(series.increments[0].data.splits) == ["test", "train", "val"]
    assert (out / "photos.yaml").is_file()
    assert lists(out, "phone")["test"] == set(TESTED)  # the authors' own
    assert (out / "phone" / "JPEGImages" / "IMG_2460.jpg").is_file()


def test_zips_of_github_and_one_folder_of_all_give_the_same(
    clones: list[Path], tmp_path: Path
) -> None:
    zips = [
        make.write_zip(tmp_path / "a.zip", card_files("Object-Detection-master/")),
        make.write_zip(tmp_path / "b.zip", blood_files("BCCD_Dataset-master/BCCD")),
        make.write_zip(tmp_path / "raccoon_dataset-master.zip", raccoon_files("raccoon-master/")),
    ]
    everything = make.write_folder(
        tmp_path / "photos",
        card_files("cards/") | blood_files("bccd/BCCD") | raccoon_files("raccoon/"),
    )
    outs = [tmp_path / name for name in ("one", "two", "three")]
    for archives, out in zip((clones, zips, [everything]), outs, strict=True):
        run(archives, out)
    assert content(outs[0]) == content(outs[1]) == content(outs[2])


def test_folds_measure_every_image_once_and_keep_copies_together(
    clones: list[Path], tmp_path: Path
) -> None:
    tested: Counter[str] = Counter()
    for fold in range(3):
        out = tmp_path / str(fold)
        run(clones, out, fold=fold)
        for name, images in [("webcam", WEBCAM), ("raccoon", RACCOONS), ("phone", PHONES + TESTED)]:
            splits = lists(out, name)
            assert set(chain(*splits.values())) == set(images)
            assert sum(map(len, splits.values())) == len(images)  # no image in two
            for one, other in [("cam_image1", "cam_image54"), ("raccoon-11", "raccoon-116"),
                               ("IMG_2464", "IMG_2465")]:  # fmt: skip
                assert all(len({one, other} & split) != 1 for split in splits.values())
        tested.update(chain(lists(out, "webcam")["test"], lists(out, "raccoon")["test"]))
    assert tested == Counter([*WEBCAM, *RACCOONS])


def test_rare_classes_are_dealt_evenly() -> None:
    objects = {f"{n}": Counter({"often": 1 + n % 3}) for n in range(60)}
    for number in range(0, 60, 6):
        objects[f"{number}"]["rare"] += 1
    dealt = deal(objects, (), 5)
    assert sorted(chain(*dealt)) == sorted(objects)
    shown = [sum((objects[image] for image in fold), Counter[str]()) for fold in dealt]
    assert {fold["rare"] for fold in shown} == {2}
    assert max(f["often"] for f in shown) - min(f["often"] for f in shown) <= 3
    assert dealt == deal(dict(reversed(objects.items())), (), 5)  # whatever the order


def test_images_without_objects_are_dealt_too() -> None:
    dealt = deal({f"{n}": Counter() for n in range(7)}, (("0", "1", "2"),), 3)
    assert sorted(map(len, dealt)) == [2, 2, 3]
    assert any({"0", "1", "2"} <= set(fold) for fold in dealt)


def test_cards_alone_give_one_series(clones: list[Path], tmp_path: Path) -> None:
    made = run(clones[:1], tmp_path / "out")
    assert made.series == ("photos-cards",)
    assert made.left_out == {"photos-4": ("blood", "raccoon")}


def test_what_is_missing_or_there_twice_is_told_together(tmp_path: Path) -> None:
    files = card_files()
    del files["images/train/IMG_2461.xml"]
    del files["images/train/cam_image3.jpg"]
    files["images/test/IMG_2470.JPG"] = files["images/train/IMG_2470.JPG"]
    with pytest.raises(DataError) as got:
        run([make.write_folder(tmp_path / "cards", files)], tmp_path / "out")
    told = str(got.value)
    assert "phone: phone/train: 1 of 24 listed ids have no label file in the archives" in told
    assert "webcam: webcam/all: 1 of 20 listed ids have no image in the archives" in told
    assert "have several label files or images, for example" in told
    assert "phone/test lists 7 images, published are 6" in told
    assert not (tmp_path / "out").exists()


def test_label_files_that_name_another_image_are_noted(tmp_path: Path) -> None:
    files = raccoon_files()
    lying = make.xml([("raccoon", (3, 3, 9, 9))]).replace(b"x.jpg", b"raccoon-2.png")
    files["annotations/raccoon-1.xml"] = lying
    made = run([make.write_zip(tmp_path / "r.zip", files)], tmp_path / "out")
    assert "name another listed image inside" in made.sets["raccoon"].notes[-1]


@pytest.mark.parametrize(("folds", "fold"), [(2, 0), (5, 5), (5, -1)])
def test_folds_that_cannot_be_are_refused(folds: int, fold: int) -> None:
    with pytest.raises(ConfigError, match=f"fold {fold} of {folds}"):
        Choices(folds=folds, fold=fold)


def test_more_folds_than_images_are_refused(clones: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="raccoon: 12 images cannot be cut into 13 folds"):
        run(clones, tmp_path / "out", folds=13)


def test_the_tool_speaks_json_and_fails_in_one_paragraph(
    clones: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, out = prepare_command(SMALL, "help"), tmp_path / "out"
    words = [*map(str, clones), "--out", str(out), "--folds", "3", "--fold", "1"]
    assert run_tool(command, [*words, "--json"]) == 0
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert (answer["choices"]["folds"], answer["choices"]["fold"]) == (3, 1)
    assert answer["sets"]["webcam"]["test"] == 7
    assert "--strategies duet-plus,seq-ft" in said.err
    assert run_tool(command, [str(tmp_path / "nowhere"), "--out", str(tmp_path / "o")]) == 3
    assert run_tool(command, [*words[:-4], "--fold", "5"]) == 2
    capsys.readouterr()
    (tmp_path / "empty").mkdir()
    assert run_tool(command, [str(tmp_path / "empty"), "--out", str(tmp_path / "o")]) == 3
    told = capsys.readouterr().err
    assert "and no images of phone and no images of webcam and no images of raccoon" in told
    assert "datitran/raccoon_dataset" in told
    assert run_tool(command, [f"blood={clones[0]}", "--out", str(tmp_path / "o")]) == 3
    assert "given as blood, but 'images/test/" in capsys.readouterr().err


def test_the_cards_series_defines_every_index() -> None:
    """All six classes are labelled in both domains, so no pair of an index is left out."""
    steps = tuple(
        (step.domain, step.classes)
        for step in read_config(shipped("configs", "series", "photos-cards.yaml")).increments
    )
    assert steps
    assert all(map(list, (ri_pairs(steps), gi_pairs(steps), pi_pairs(steps))))
    assert {name for _, names in steps for name in names} == set(CARD_NAMES)
    assert not any(set(one) & set(other) for (_, one), (_, other) in combinations(steps, 2))
