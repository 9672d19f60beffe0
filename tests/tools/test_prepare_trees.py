"""tools/prepare_trees.py: a small wheel becomes the series; other files are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import factories_archives as make
import prepare_trees
import pytest
from click.testing import CliRunner, Result

from duet.series.formats.voc_xml import VocObject
from duet.series.reader import read_series

PHOTOS: dict[str, list[make.Object]] = {
    prepare_trees.LARGE: [
        ("Tree", box) for box in ((10, 10, 50, 50), (20, 1850, 60, 1890), (290, 5, 340, 45))
    ],
    prepare_trees.SMALL: [("Tree", (5, 5, 45, 45))],
    "SOAP_061": [
        ("Dead", (20, 20, 50, 50)),
        ("Alive", (60, 300, 90, 330)),
        ("Dead", (300, 300, 330, 330)),
    ],
}


def wheel(folder: Path, *, without: str = "", trees: str = "") -> Path:
    """Write a zip with pictures and labels where deepforest has them."""
    cuts = [cut for _, cuts in prepare_trees.DOMAINS.values() for cut in cuts]
    files: make.Files = {}
    for name, objects in PHOTOS.items():
        objects = [(trees or label, box) for label, box in objects]
        areas = [cut.area for cut in cuts if cut.photo == name]
        size = max(area[2] for area in areas), max(area[3] for area in areas)
        if name != without:
            files[f"deepforest/data/{name}.png"] = make.jpeg(1, size)  # known by its bytes
            files[f"deepforest/data/{name}.xml"] = make.xml(objects, size)
    return make.write_zip(folder / "deepforest-2.1.0-py3-none-any.whl", files)


def no_zip(folder: Path) -> Path:
    path = folder / "other.whl"
    path.write_bytes(b"no zip")
    return path


def prepared(*arguments: str | Path) -> Result:
    """Run the tool; return its result."""
    return CliRunner().invoke(prepare_trees.main, [str(one) for one in arguments])


def test_a_wheel_becomes_a_series(tmp_path: Path) -> None:
    result = prepared(wheel(tmp_path), "--out", tmp_path / "trees", "--json")
    assert json.loads(result.stdout)["yellowstone"]["test"] == [1, 1]
    series = read_series(tmp_path / "trees" / "trees.yaml")
    counts = {
        (item.domain, name): sum(len(one.boxes) for one in split.annotations)
        for item in series.increments for name, split in item.data.splits.items()
    }  # fmt: skip
    # The tree at 290 lies in two tiles: one shows a fifth of it, the other the rest.
    assert counts["yellowstone", "train"] == 2
    assert counts["yellowstone", "val"] == 1


def test_an_object_belongs_to_the_tiles_that_show_half_of_it() -> None:
    tree = VocObject(1, "Tree", (291.0, 1.0, 310.0, 20.0))  # VOC: from 1, the last one inclusive
    cut = prepare_trees.cut_objects
    assert list(cut((tree,), (0, 0, 300, 300))) == [("Tree", [290.0, 0.0, 10.0, 20.0])]
    assert list(cut((tree,), (300, 0, 600, 300))) == [("Tree", [0.0, 0.0, 10.0, 20.0])]
    assert not list(cut((tree,), (301, 0, 600, 300)))


def test_no_tile_of_one_split_shares_a_pixel_with_another() -> None:
    for _, cuts in prepare_trees.DOMAINS.values():
        for one in cuts:
            for other in cuts:
                if one is not other and one.photo == other.photo:
                    apart = one.area[2] <= other.area[0] or one.area[3] <= other.area[1]
                    assert apart or other.area[2] <= one.area[0] or other.area[3] <= one.area[1]


@pytest.mark.parametrize(
    ("make_it", "words"),
    [
        (lambda folder: wheel(folder, without="SOAP_061"), "not the wheel of deepforest 2.1.0"),
        (no_zip, "expected a zip or tar archive"),
        (lambda folder: wheel(folder, trees="Shrub"), "'Shrub' is no class of the series"),
    ],
    ids=["a photograph is missing", "no zip", "another class"],
)
def test_another_file_is_refused(
    tmp_path: Path, make_it: Callable[[Path], Path], words: str
) -> None:
    assert words in str(prepared(make_it(tmp_path), "--out", tmp_path / "o").exception)
    assert not (tmp_path / "o").exists()


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    assert "exists already" in str(prepared(wheel(tmp_path), "--out", tmp_path).exception)
