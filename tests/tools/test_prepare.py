"""tools/prepare_pascal.py and prepare_weather.py: small archives in the layout of the real ones."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import factories_archives as make
import pytest
import yaml

from duet.errors import DataError, DuetError
from duet.series.formats import voc
from duet.series.reader import read_series
from published import PASCAL, WEATHER, Choices, Group, Prepared, members, prepare, staging
from published.command import prepare_command, run_tool
from published.sets import SIX_NAMES, VOC_NAMES, WEATHER_NAMES

SMALL_PASCAL = make.smaller(PASCAL, {
    ("VOC2007", "trainval"): 20, ("VOC2012", "trainval"): 22, ("VOC2007", "test"): 21,
    **{(name, split): 20 for name in ("clipart", "watercolor", "comic")
       for split in ("train", "test")},
})  # fmt: skip
SMALL_WEATHER = make.smaller(WEATHER, {
    **{(name, split): 14 for name in ("day-sunny", "night-sunny", "day-foggy")
       for split in ("train", "test")},
    ("dusk-rainy", "train"): 14, ("night-rainy", "train"): 20,
})  # fmt: skip

VOC_07, VOC_12, VOC_TEST = (
    "VOCtrainval_06-Nov-2007.tar", "VOCtrainval_11-May-2012.tar", "VOCtest_06-Nov-2007.tar",
)  # fmt: skip


def quiet(title: str, done: int, total: int) -> None:
    assert 0 < done <= total, title


def run(
    group: Group, archives: list[Path | tuple[str, Path]], out: Path, **options: Any
) -> Prepared:
    named = [item if isinstance(item, tuple) else ("", item) for item in archives]
    dry_run = options.pop("dry_run", False)
    choices = Choices(**options)
    return prepare(group, named, out, choices=choices, step=quiet, dry_run=dry_run)


def voc_files(part: str) -> make.Files:
    root = f"VOCdevkit/{'VOC2012' if part == VOC_12 else 'VOC2007'}"
    if part == VOC_TEST:
        return make.tree(root, {"test": make.ids("t", 21)}, VOC_NAMES, seed=2)
    listed = make.ids("a" if part == VOC_07 else "2008_", 20 if part == VOC_07 else 22)
    files = make.tree(root, {"trainval": listed}, VOC_NAMES, seed=part == VOC_12)
    # What the real archives hold besides: other lists, class-wise lists, segmentations.
    files[f"{root}/ImageSets/Main/train.txt"] = f"{listed[0]}\n".encode()
    files[f"{root}/ImageSets/Main/cat_trainval.txt"] = f"{listed[0]} -1\n".encode()
    files[f"{root}/SegmentationClass/{listed[0]}.png"] = b"not an image"
    return files


def art_files(name: str) -> make.Files:
    names = VOC_NAMES if name == "clipart" else SIX_NAMES
    lists = {"train": make.ids("1", 20), "test": make.ids("2", 20)}
    files = make.tree(name, lists, names, seed=len(name))
    extra = make.ids("9", 3)
    files[f"{name}/ImageSets/Main/extra.txt"] = "\n".join(extra).encode()
    for image in extra:  # image-level labels only
        files[f"{name}/Annotations/{image}.xml"] = make.xml([("person", (1, 1, 1, 1))])
        files[f"{name}/JPEGImages/{image}.jpg"] = make.jpeg(9)
    return files


def weather_files(root: str, *, train: list[str] | None = None, test: bool = True) -> make.Files:
    lists = {"train": train or make.ids("a", 14)}
    if test:
        lists["test"] = make.ids("b", 14)
    return make.tree(root, lists, WEATHER_NAMES, seed=sum(map(ord, root)))


@pytest.fixture
def pascal(tmp_path: Path) -> list[Path]:
    """The six archives as their authors pack them."""
    folder = tmp_path / "archives"
    tars = [make.write_tar(folder / part, voc_files(part)) for part in (VOC_07, VOC_12, VOC_TEST)]
    zips = [
        make.write_zip(folder / f"{name}.zip", art_files(name))
        for name in ("clipart", "watercolor", "comic")
    ]
    return [*tars, *zips]


def nothing_left(out: Path) -> bool:
    """Tell whether neither the folder nor a temporary sibling exists."""
    return not [path for path in out.parent.iterdir() if out.name in path.name]


# --- what is made --------------------------------------------------------------------------------


@pytest.mark.slow
def test_pascal_archives_become_readable_series(pascal: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "pascal"
    made = run(SMALL_PASCAL, pascal, out)
    assert {name: (s.train, s.val) for name, s in made.sets.items()} == {
        "voc": (42, 21), "clipart": (20, 20), "watercolor": (20, 20), "comic": (20, 20),
    }  # fmt: skip
    assert set(made.series) == {
        "pascal-voc-clipart", "pascal-voc-clipart-alphabetical", "pascal-clipart-voc",
        "pascal-4phase",
    }  # fmt: skip
    assert not made.left_out
    for name in made.series:
        series = read_series(out / f"{name}.yaml")  # reads and checks every image and label
        assert series.name == name
    first = read_series(out / "pascal-voc-clipart.yaml")
    voc = first.increments[0].data
    assert {name: len(split.images) for name, split in voc.splits.items()} == {
        "train": 42, "val": 21,
    }  # fmt: skip
    assert first.expected is not None
    # 1-based inclusive pixels: 1 2 20 25 of a 40 x 30 image
    box = voc.split("train").annotations[0].boxes[0]
    assert box == pytest.approx(((0 + 20) / 80, (1 + 25) / 60, 20 / 40, 24 / 30))
    assert (out / "paper.yaml").is_file()
    record = json.loads((out / "prepared.json").read_text())
    assert record["sets"]["voc"]["objects"]["cat"] == sum(
        1 for listed in (20, 22, 21) for place in range(listed) if VOC_NAMES[place % 20] == "cat"
    )


def test_nothing_but_lists_labels_and_images_is_written(pascal: list[Path], tmp_path: Path) -> None:
    run(SMALL_PASCAL, pascal, tmp_path / "out")
    written = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*")}
    assert not [path for path in written if "extra" in path.name or path.name.startswith("9")]
    assert not [path for path in written if path.parts[-1] == "SegmentationClass"]
    assert {p.name for p in (tmp_path / "out/VOC2007/ImageSets/Main").iterdir()} == {
        "trainval.txt", "test.txt",
    }  # fmt: skip


def test_a_part_of_the_data_gives_the_series_that_it_allows(
    pascal: list[Path], tmp_path: Path
) -> None:
    made = run(SMALL_PASCAL, pascal[:4], tmp_path / "out")
    assert set(made.sets) == {"voc", "clipart"}
    assert "pascal-voc-clipart" in made.series
    assert made.left_out == {"pascal-4phase": ("Watercolor", "Comic")}
    assert not (tmp_path / "out" / "pascal-4phase.yaml").exists()


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_archives_are_known_by_content_not_by_name(tmp_path: Path, mode: str) -> None:
    archive = make.write_tar(tmp_path / "download(1)", art_files("clipart"), mode)
    assert set(run(SMALL_PASCAL, [archive], tmp_path / "out").sets) == {"clipart"}


def test_a_dry_run_checks_and_writes_nothing(pascal: list[Path], tmp_path: Path) -> None:
    made = run(SMALL_PASCAL, pascal, tmp_path / "out", dry_run=True)
    assert made.sets["comic"].train == 20
    assert nothing_left(tmp_path / "out")


def test_two_runs_write_the_same_bytes(pascal: list[Path], tmp_path: Path) -> None:
    def content(out: Path) -> dict[str, bytes]:
        run(SMALL_PASCAL, pascal, out)
        files = [path for path in sorted(out.rglob("*")) if path.is_file()]
        return {str(path.relative_to(out)): path.read_bytes() for path in files}

    first, second = content(tmp_path / "a"), content(tmp_path / "b")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == ["prepared.json"]  # its path


def test_weather_archives_folders_and_drive_parts(tmp_path: Path) -> None:
    night = weather_files("VOC2007")  # a zip that does not name its set inside
    half = len(night) // 2
    parts = [dict(list(night.items())[:half]), dict(list(night.items())[half:])]
    archives: list[Path | tuple[str, Path]] = [
        make.write_zip(tmp_path / "Daytime_Sunny.zip", weather_files("daytime_clear/VOC2007")),
        *(
            make.write_zip(tmp_path / f"Night-Sunny-20261101T120000Z-00{number}.zip", part)
            for number, part in enumerate(parts, 1)
        ),
        ("day-foggy", make.write_folder(tmp_path / "mist", weather_files("VOC2007"))),
    ]
    made = run(SMALL_WEATHER, archives, tmp_path / "out")
    assert set(made.sets) == {"day-sunny", "night-sunny", "day-foggy"}
    assert set(made.series) == {
        "weather-daysunny-nightsunny", "weather-nightsunny-daysunny", "weather-3phase",
    }  # fmt: skip
    assert made.left_out == {"weather-daysunny-nightrainy": ("NightRainy",)}
    descriptor = yaml.safe_load((tmp_path / "out" / "night-sunny.yaml").read_text())
    assert descriptor["train"] == ["night-sunny/train"]
    assert (descriptor["format"], descriptor["difficult"]) == ("voc", "ignore")


# --- choices -------------------------------------------------------------------------------------


def test_overlapping_lists_are_refused_or_dropped_from_training(tmp_path: Path) -> None:
    shared = [*make.ids("a", 10), *make.ids("b", 4)]
    archive = make.write_zip(
        tmp_path / "Night-Sunny.zip", weather_files("night_sunny/VOC2007", train=shared)
    )
    with pytest.raises(DataError, match="4 of 14 training images are evaluation images too") as got:
        run(SMALL_WEATHER, [archive], tmp_path / "out")
    assert "28 listed, 24 different" in str(got.value)
    assert "--overlap drop-from-train" in str(got.value)
    made = run(SMALL_WEATHER, [archive], tmp_path / "out", overlap="drop-from-train")
    assert (made.sets["night-sunny"].train, made.sets["night-sunny"].val) == (10, 14)
    assert "left out of training" in made.sets["night-sunny"].notes[0]
    names = tmp_path / "out/night-sunny/ImageSets/Main/train-not-evaluated.txt"
    assert names.read_text().split() == make.ids("a", 10)


def test_a_set_without_evaluation_list_needs_a_seed(tmp_path: Path) -> None:
    archive = make.write_zip(
        tmp_path / "night_rainy.zip",
        weather_files("night_rainy/VOC2007", train=make.ids("r", 20), test=False),
    )
    with pytest.raises(DataError, match="NightRainy has no evaluation list") as got:
        run(SMALL_WEATHER, [archive], tmp_path / "out")
    assert "--split-seed 0" in str(got.value)
    splits = []
    for seed, name in [(0, "a"), (0, "b"), (1, "c")]:
        made = run(SMALL_WEATHER, [archive], tmp_path / name, split_seed=seed)
        assert (made.sets["night-rainy"].train, made.sets["night-rainy"].val) == (14, 6)
        lists = tmp_path / name / "night-rainy/ImageSets/Main"
        train, val = (
            set((lists / f"duet-{split}-{seed}.txt").read_text().split())
            for split in ("train", "test")
        )
        assert train | val == set(make.ids("r", 20))
        assert not train & val
        splits.append(train)
    assert splits[0] == splits[1] != splits[2]


def test_other_counts_need_consent(pascal: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Clipart") as got:
        run(PASCAL, [pascal[3]], tmp_path / "out")
    assert "clipart/train lists 20 images, published are 500 (--allow-counts" in str(got.value)
    assert "clipart/test lists 20 images" in str(got.value)  # all at once
    made = run(PASCAL, [pascal[3]], tmp_path / "out", allow_counts=True)
    assert len(made.sets["clipart"].notes) == 2


def art_with(changes: dict[str, bytes]) -> make.Files:
    return {**art_files("comic"), **changes}


LABEL = "comic/Annotations/1000003.xml"


def test_other_spellings_are_renamed_and_told(tmp_path: Path) -> None:
    content = make.xml([("Bike", (3, 3, 9, 9)), ("human", (5, 5, 9, 9))])
    archive = make.write_zip(tmp_path / "comic.zip", art_with({LABEL: content}))
    made = run(SMALL_PASCAL, [archive], tmp_path / "out")
    assert made.sets["comic"].renamed == {"Bike -> bicycle": 1, "human -> person": 1}
    written = (tmp_path / "out" / LABEL).read_text()
    assert "<name>bicycle</name>" in written
    assert "Bike" not in written


def test_label_files_without_a_change_are_copied_byte_for_byte(tmp_path: Path) -> None:
    archive = make.write_zip(tmp_path / "comic.zip", art_files("comic"))
    run(SMALL_PASCAL, [archive], tmp_path / "out")
    assert (tmp_path / "out" / LABEL).read_bytes() == art_files("comic")[LABEL]


@pytest.mark.parametrize(
    ("objects", "options", "words", "left"),
    [
        pytest.param([("dragon", (3, 3, 9, 9))], {"drop_names": ("dragon",)},
                     "unknown name 'dragon'", "named 'dragon'", id="name"),
        pytest.param([("cat", (1, 1, 1, 1))], {"drop_broken_boxes": True},
                     "dummy box 1 1 1 1", "broken box", id="dummy"),
        pytest.param([("cat", (9, 3, 4, 9))], {"drop_broken_boxes": True},
                     "ends before it begins", "broken box", id="inverted"),
        pytest.param([("cat", (50, 3, 60, 9))], {"drop_broken_boxes": True},
                     "outside the image", "broken box", id="outside"),
        pytest.param([("cat", (30, 3, 60, 9))], {"drop_broken_boxes": True},
                     "outside the image or is larger", "broken box", id="centre-outside"),
        pytest.param([("cat", (-9, 3, 35, 9))], {"drop_broken_boxes": True},
                     "outside the image or is larger", "broken box", id="larger"),
        pytest.param([("Dog", (3, 3, 9, 9))], {"drop_broken_boxes": True},
                     "the same object twice, box 3 3 9 9", "the same object twice", id="twice"),
        pytest.param([("cat", (float("nan"), 3, 6, 9))], {"drop_broken_boxes": True},
                     "not finite", "broken box", id="nan"),
    ],
)  # fmt: skip
def test_objects_that_cannot_be_used_are_refused_or_left_out(
    tmp_path: Path, objects: list[make.Object], options: dict[str, Any], words: str, left: str
) -> None:
    content = make.xml([("dog", (3, 3, 9, 9)), *objects])
    archive = make.write_zip(tmp_path / "comic.zip", art_with({LABEL: content}))
    with pytest.raises(DataError, match=words) as got:
        run(SMALL_PASCAL, [archive], tmp_path / "out")
    assert f"comic.zip: {LABEL}" in str(got.value)
    assert nothing_left(tmp_path / "out")
    made = run(SMALL_PASCAL, [archive], tmp_path / "out", **options)
    assert made.sets["comic"].dropped == {left: 1}
    assert (tmp_path / "out" / LABEL).read_text().count("<object>") == 1
    assert not voc.read(tmp_path / "out" / "comic.yaml", domain="Comic").problems


# --- what is refused -----------------------------------------------------------------------------


def bomb(path: Path) -> Path:
    name = "comic/JPEGImages/1000000.jpg"
    return make.write_zip(path, art_with({name: bytes(8 * 2**20)}))


def linked(path: Path) -> Path:
    make.write_tar(path, art_files("comic"))
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("comic/JPEGImages/link.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    return path


def zip_link(path: Path) -> Path:
    make.write_zip(path, art_files("comic"))
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("comic/JPEGImages/link.jpg")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return path


def device(path: Path) -> Path:
    make.write_tar(path, art_files("comic"))
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("comic/JPEGImages/null.jpg")
        info.type = tarfile.CHRTYPE
        archive.addfile(info)
    return path


def cut(path: Path, share: float, mode: str = "") -> Path:
    whole = (
        make.write_tar(path, art_files("comic"), mode) if mode
        else make.write_zip(path, art_files("comic"))
    )  # fmt: skip
    content = whole.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def flipped(path: Path) -> Path:
    """A zip with one wrong byte inside an image: only its checksum tells."""
    make.write_zip(path, art_files("comic"))
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("comic/JPEGImages/1000000.jpg")
    content = bytearray(path.read_bytes())
    content[info.header_offset + 30 + len(info.filename) + 200] ^= 0xFF
    path.write_bytes(bytes(content))
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def without(path: Path, member: str) -> Path:
    files = art_files("comic")
    del files[member]
    return make.write_zip(path, files)


def patched(path: Path, local: int, central: int, value: int) -> Path:
    """A zip with one byte set in the header of every member, at these two offsets."""
    make.write_zip(path, art_files("comic"))
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\3\4", local), (b"PK\1\2", central)):
        place = content.find(mark)
        while place >= 0:
            content[place + offset] = value
            place = content.find(mark, place + 4)
    return written(path, bytes(content))


def appended(path: Path, name: str) -> Path:
    """An archive that holds one of its members twice."""
    files = art_files("comic")
    if path.suffix == ".zip":
        make.write_zip(path, files)
        with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(name, files[name])
        return path
    make.write_tar(path, files)
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(files[name])
        archive.addfile(info, io.BytesIO(files[name]))
    return path


def tar_header_flipped(path: Path) -> Path:
    """A tar whose last header does not match its checksum: `tarfile` takes that for the end."""
    files = {**art_files("comic"), "comic/readme.txt": b"x"}
    content = bytearray(make.write_tar(path, files).read_bytes())
    content[content.index(b"comic/readme.txt")] ^= 1
    return written(path, bytes(content))


def gz_checksum_flipped(path: Path) -> Path:
    content = bytearray(make.write_tar(path, art_files("comic"), "w:gz").read_bytes())
    content[-8] ^= 1
    return written(path, bytes(content))


def tar_bomb(path: Path) -> Path:
    """A tar that states a member of 2 GiB."""
    make.write_tar(path, art_files("comic"))
    info = tarfile.TarInfo("comic/more.bin")
    info.size = 2 * 2**30
    content = path.read_bytes().rstrip(b"\0")
    content += bytes(-len(content) % 512)
    return written(path, content + info.tobuf(tarfile.GNU_FORMAT))


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("name", "build", "words"),
    [
        pytest.param("comic.zip", lambda p: p, "cannot read: No such file", id="missing"),
        pytest.param("comic.zip", lambda p: written(p, b""), "an empty file", id="empty"),
        pytest.param("comic.zip", lambda p: written(p, b"\n<!DOCTYPE html><html>sign in"),
                     "a web page", id="html"),
        pytest.param("comic.zip", lambda p: written(p, b"Rar!\x1a\x07"), "RAR", id="rar"),
        pytest.param("comic.zip", lambda p: written(p, b"\x89PNG"), "neither", id="png"),
        pytest.param("comic.zip", lambda p: cut(p, 0.5), "cut off", id="cut-zip"),
        pytest.param("comic.tar", lambda p: cut(p, 0.5, "w"), "damaged or cut off", id="cut-tar"),
        pytest.param("comic.tgz", lambda p: cut(p, 0.5, "w:gz"), "damaged or cut", id="cut-gz"),
        pytest.param("comic.zip", flipped, "damaged or cut off", id="flipped"),
        pytest.param("comic.zip", bomb, "unpacks to", id="bomb"),
        pytest.param("comic.tar", linked, "a link, a device", id="tar-link"),
        pytest.param("comic.zip", zip_link, "a link, a device", id="zip-link"),
        pytest.param("comic.tar", device, "a link, a device", id="device"),
        pytest.param("comic.zip", lambda p: make.write_zip(p, art_with({"../evil.xml": b"x"})),
                     "unsafe name", id="dotdot"),
        pytest.param("comic.tar", lambda p: make.write_tar(p, art_with({"/etc/evil": b"x"})),
                     "unsafe name", id="absolute"),
        pytest.param("comic.zip", lambda p: make.write_zip(p, art_with({"C:/evil": b"x"})),
                     "unsafe name", id="drive"),
        pytest.param("VOCdevkit.tar", lambda p: make.write_tar(p, {"VOCdevkit/VOCcode/a.m": b""}),
                     "development kit's code", id="devkit"),
        pytest.param("comic.zip", lambda p: make.write_zip(p, {"models/a.caffemodel": b"x"}),
                     "it holds models", id="no-voc"),
        pytest.param("anime.zip", lambda p: make.write_zip(p, make.tree(
            "anime", {"train": ["a"]}, SIX_NAMES)), "none of the data sets", id="unknown"),
        pytest.param(VOC_07, lambda p: make.write_tar(p, voc_files(VOC_12)),
                     "this is VOC2007/trainval, but it holds VOC2012/", id="2012-as-2007"),
        pytest.param("clipart.zip", lambda p: make.write_zip(p, art_files("comic")),
                     "this is clipart/train, but it holds comic/", id="comic-as-clipart"),
        pytest.param("comic.zip", lambda p: without(p, LABEL),
                     "1 of 20 listed ids have no label file in the archives: 1000003", id="no-xml"),
        pytest.param("comic.zip", lambda p: without(p, "comic/JPEGImages/2000001.jpg"),
                     "1 of 20 listed ids have no image in the archives: 2000001", id="no-jpg"),
        pytest.param("art.zip", lambda p: without(p, "comic/ImageSets/Main/test.txt"),
                     "no list 'test' of comic; it is in comic.zip", id="no-list"),
        pytest.param("comic.zip", lambda p: make.write_zip(p, art_with(
            {"comic/ImageSets/Main/test.txt": b"../../x\n" * 20})), "not image ids", id="bad-ids"),
        pytest.param("comic.zip", lambda p: make.write_zip(p, art_with({LABEL: b"<annotation>"})),
                     "not usable as XML", id="bad-xml"),
        pytest.param("comic.zip", lambda p: make.write_zip(p, art_with({LABEL: (
            b'<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>')})),
            "not usable as XML", id="entities"),
        pytest.param("comic.zip", lambda p: make.write_zip(p, art_with(
            {"comic/JPEGImages/1000003.jpg": b"<html>"})), "not a readable image", id="bad-jpg"),
        pytest.param("comic.zip", lambda p: patched(p, 6, 8, 1), "is encrypted", id="encrypted"),
        pytest.param("comic.zip", lambda p: patched(p, 8, 10, 9),
                     "packed in a way that cannot be read here", id="deflate64"),
        pytest.param("comic.zip", lambda p: appended(p, "comic/JPEGImages/1000001.jpg"),
                     "several label files or images", id="image-twice"),
        pytest.param("comic.tar", lambda p: appended(p, LABEL),
                     "several label files or images", id="label-twice"),
        pytest.param("comic.zip", lambda p: make.write_zip(p, art_with(
            {"comic/JPEGImages/1000001.png": make.jpeg(3)})), "1000001.png", id="jpg-and-png"),
        pytest.param("comic.zip", lambda p: appended(p, "comic/ImageSets/Main/test.txt"),
                     "has given already", id="list-twice"),
        pytest.param("comic.tar", tar_header_flipped, "a header of the tar is damaged",
                     id="tar-header"),
        pytest.param("comic.tgz", gz_checksum_flipped, "CRC check failed", id="gz-checksum"),
        pytest.param("comic.tar", tar_bomb, "unpacks to more than", id="tar-bomb"),
        pytest.param("comic.zip", pipe, "neither a file nor a folder", id="pipe"),
        pytest.param("comic.zip", lambda p: make.write_zip(p, art_with({LABEL: (
            b'<?xml version="1.0" encoding="klingon"?><annotation/>')})),
            "unknown encoding", id="encoding"),
        pytest.param("comic.zip", lambda p: make.write_zip(p, art_with({LABEL: b"<html/>"})),
                     "expected <annotation>, got <html>", id="html-label"),
        pytest.param("comic.zip", lambda p: make.write_zip(p, art_with({LABEL: (
            b"<annotation><objects><object/></objects></annotation>")})),
            "1 of 1 <object> are not directly in <annotation>", id="object-elsewhere"),
        pytest.param("comic.zip", lambda p: make.write_zip(p, art_with({LABEL: make.xml(
            [("Cat", (3, 3, 9, 9))]).replace(b"<size>", b"<a>" * 2000 + b"</a>" * 2000 + b"<size>"
            )})), "nested too deeply", id="deep"),
    ],
)  # fmt: skip
def test_bad_archives_are_refused_and_nothing_is_left(
    tmp_path: Path, name: str, build: Callable[[Path], Path], words: str
) -> None:
    (tmp_path / "in").mkdir()
    archive = build(tmp_path / "in" / name)
    with pytest.raises(DataError) as got:
        run(SMALL_PASCAL, [archive], tmp_path / "out")
    assert words in str(got.value)
    assert nothing_left(tmp_path / "out")
    assert not (tmp_path / "evil.xml").exists()


def test_a_wrong_archive_is_not_taken_for_what_it_is_called(tmp_path: Path) -> None:
    comic = make.write_zip(tmp_path / "x.zip", art_files("comic"))
    with pytest.raises(DataError, match="given as watercolor, but 'comic' inside is comic"):
        run(SMALL_PASCAL, [("watercolor", comic)], tmp_path / "out")
    night = make.write_zip(tmp_path / "Daytime_Sunny.zip", weather_files("night_sunny/VOC2007"))
    with pytest.raises(DataError, match="by its name this is day-sunny, but it holds night-sunny"):
        run(SMALL_WEATHER, [night], tmp_path / "out")
    made = run(SMALL_WEATHER, [("night-sunny", night)], tmp_path / "out")
    assert set(made.sets) == {"night-sunny"}


def test_spellings_of_other_systems_are_understood(tmp_path: Path) -> None:
    """Backslashes, upper-case suffixes, lists of file names, what macOS and Windows add."""
    files = art_files("comic")
    listed = "comic/ImageSets/Main/train.txt"
    files[listed] = files[listed].replace(b"\n", b".jpg\r\n")
    files |= {
        f"__MACOSX/comic/JPEGImages/._{name.rsplit('/', 1)[-1]}": b"\0\5" for name in list(files)
    }
    files |= {"comic/.DS_Store": b"x", "comic/Annotations/._1000000.xml": b"x"}
    path = tmp_path / "comic.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("x")
            stem, _, suffix = name.rpartition(".")
            info.filename = f"{stem}.{suffix.upper()}".replace("/", "\\")
            archive.writestr(info, content)
    made = run(SMALL_PASCAL, [path], tmp_path / "out")
    assert (made.sets["comic"].train, made.sets["comic"].val, made.sets["comic"].notes) == (
        20, 20, [],
    )  # fmt: skip
    assert (tmp_path / "out" / "comic/JPEGImages/1000003.jpg").is_file()


def test_labels_of_other_images_and_without_objects_are_noted(tmp_path: Path) -> None:
    swapped = make.xml([("cat", (3, 3, 9, 9))]).replace(b"x.jpg", b"1000004.jpg")
    empty = "comic/Annotations/1000005.xml"
    archive = make.write_zip(
        tmp_path / "comic.zip", art_with({LABEL: swapped, empty: make.xml([])})
    )
    notes = run(SMALL_PASCAL, [archive], tmp_path / "out").sets["comic"].notes
    assert len(notes) == 2
    assert "name another listed image inside" in notes[0]
    assert "1, for example comic/1000003" in notes[0]
    assert "hold no object: 1, for example comic/1000005" in notes[1]


def test_folders_may_be_links_to_another_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name.removeprefix("comic/"): content for name, content in art_files("comic").items()}
    folder = make.write_folder(tmp_path / "comic", files)
    (folder / "JPEGImages").rename(tmp_path / "elsewhere")
    (folder / "JPEGImages").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    monkeypatch.chdir(folder)
    assert run(SMALL_PASCAL, [Path(".")], tmp_path / "out").sets["comic"].train == 20


def test_an_out_that_is_a_link_or_a_mount_point(tmp_path: Path) -> None:
    archive = make.write_zip(tmp_path / "comic.zip", art_files("comic"))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    run(SMALL_PASCAL, [archive], tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "comic.yaml").is_file()
    (tmp_path / "disk").mkdir()
    with (
        mock.patch.object(Path, "is_mount", return_value=True),
        pytest.raises(DuetError, match="is a mount point"),
    ):
        run(SMALL_PASCAL, [archive], tmp_path / "disk")


def test_an_incomplete_voc_names_the_archives_that_miss(pascal: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="parts are missing") as got:
        run(SMALL_PASCAL, [pascal[0], pascal[3]], tmp_path / "out")
    assert VOC_12 in str(got.value)
    assert VOC_TEST in str(got.value)


def test_the_same_archive_twice_is_an_error(pascal: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.zip"
    copy.write_bytes(pascal[3].read_bytes())
    with pytest.raises(DataError, match="has given already"):
        run(SMALL_PASCAL, [pascal[3], copy], tmp_path / "out")


def test_a_filled_folder_is_left_alone(pascal: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(DuetError, match="already exists"):
        run(SMALL_PASCAL, pascal, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_too_many_members_and_too_large_ones_are_refused(
    pascal: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "MAX_SIZE", 100)
    with pytest.raises(DataError, match="larger than 100 bytes"):
        run(SMALL_PASCAL, [pascal[3]], tmp_path / "out")
    monkeypatch.setattr(members, "MAX_MEMBERS", 10)
    with pytest.raises(DataError, match="more than 10 members"):
        run(SMALL_PASCAL, [pascal[3]], tmp_path / "out")


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interruption_leaves_nothing(
    pascal: list[Path], tmp_path: Path, failure: BaseException
) -> None:
    real, count = staging._write, 0

    def failing(path: Path, content: bytes) -> None:
        nonlocal count
        count += 1
        if count > 70:  # in the middle of the images
            raise failure
        real(path, content)

    with (
        mock.patch.object(staging, "_write", failing),
        pytest.raises((KeyboardInterrupt, DuetError)) as got,
    ):
        run(SMALL_PASCAL, [pascal[3]], tmp_path / "out")
    if isinstance(failure, OSError):
        assert "No space left" in str(got.value)
        assert isinstance(got.value, DuetError)
    assert nothing_left(tmp_path / "out")


def test_room_is_checked_before_images_are_written(
    pascal: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "SPARE_BYTES", 10**18)
    with pytest.raises(DuetError, match="not enough room: need 10000000"):
        run(SMALL_PASCAL, [pascal[3]], tmp_path / "out")
    assert nothing_left(tmp_path / "out")


# --- the command line ----------------------------------------------------------------------------


def test_the_tool_speaks_json_and_tells_what_is_next(
    pascal: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = prepare_command(SMALL_PASCAL, "help")
    assert run_tool(command, [str(pascal[3]), "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["sets"]["clipart"]["train"] == 20
    assert "next:" not in said.err  # no series can be run with Clipart alone
    assert run_tool(command, [*map(str, pascal[:4]), "--out", str(tmp_path / "more")]) == 0
    said = capsys.readouterr()
    assert "VOC: 42 images to train on, 21 to evaluate on, 63 objects of 20 classes" in said.out
    assert "not possible: pascal-4phase, needs Watercolor, Comic too" in said.out
    assert "next: duet data check" in said.err


def test_the_tool_fails_in_one_paragraph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = prepare_command(WEATHER, "help")
    archive = make.write_zip(tmp_path / "x.zip", weather_files("somewhere/VOC2007"))
    assert run_tool(command, [str(archive), "--out", str(tmp_path / "out")]) == 3
    assert "say which it is: NAME=x.zip" in capsys.readouterr().err
    assert run_tool(command, [f"nigth-sunny={archive}", "--out", str(tmp_path / "out")]) == 2
    assert "did you mean 'night-sunny'" in capsys.readouterr().err
    assert (
        run_tool(command, [f"night-sunny={archive}", "--out", str(tmp_path / "o"), "--json"]) == 3
    )
    error = json.loads(capsys.readouterr().err.strip().splitlines()[-1])
    assert "published are 25868" in error["message"]
    assert run_tool(command, []) == 2
    assert run_tool(command, ["comic=", "--out", str(tmp_path / "o")]) == 2
    capsys.readouterr()
    assert run_tool(command, ["--json", "--out", str(tmp_path / "o")]) == 2
    assert "Missing argument" in json.loads(capsys.readouterr().err)["message"]
    assert run_tool(command, [str(tmp_path / "a=b" / "x.zip"), "--out", str(tmp_path / "o")]) == 3
    assert "No such file" in capsys.readouterr().err


def test_a_stopped_tool_leaves_nothing_and_a_killed_one_is_told(
    pascal: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM, as `timeout` and batch systems send it, in the middle of the images."""
    out = tmp_path / "out"
    arguments = [str(pascal[3]), "--out", str(out)]
    real, command = staging._write, prepare_command(SMALL_PASCAL, "help")

    def stopping(path: Path, content: bytes) -> None:
        real(path, content)
        if path.suffix == ".jpg":
            os.kill(os.getpid(), signal.SIGTERM)

    with mock.patch.object(staging, "_write", stopping):
        assert run_tool(command, [*arguments, "--json"]) == 130
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["error"] == "interrupted"
    assert nothing_left(out)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    (tmp_path / ".out-4194303-abcd1234").mkdir()  # of a process that is not there
    assert run_tool(command, arguments) == 0
    told = capsys.readouterr().err
    assert ".out-4194303-abcd1234 was left by a command that was killed" in told
