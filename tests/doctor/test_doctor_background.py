"""Background shift, found by a real detector: θ_0 with the classes it was pretrained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pretrain_emoji
import pytest
import torch
import yaml
from click.testing import CliRunner
from torchvision.ops import box_convert, box_iou

from duet.cli.main import cli
from duet.detections import Detections
from duet.doctor import examine
from duet.doctor.background import Shift, Sighting, old_classes, unlabelled
from duet.families.yolo.adapter import FAMILY
from duet.increments.base import load_start
from duet.increments.manifest import DetectorManifest, Lineage
from duet.increments.store import save_detector
from duet.inference.detector import DetectorFacts, LoadedDetector
from duet.inference.load import load
from duet.labels import LabelSpace
from duet.series import Annotation, DomainData, Increment, Series, Split
from duet.shipped import shipped

NEW = ("apple", "bee", "crab", "frog", "pizza", "fish")
SIZE = 160


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """θ_0 as a detector of its own sixty classes."""
    start = load_start(shipped("weights") / "yolo11n-emoji.safetensors")
    state = FAMILY.start_state(
        start, architecture="yolo11n.yaml", head="rows", classes=start.classes,
        increment="mixed", seed=0,
    )  # fmt: skip
    lineage = (Lineage(increment="mixed", manifest="0" * 64, merge={"method": "duet"}),)
    manifest = DetectorManifest.for_state(
        state, lineage=lineage, image_size=SIZE, licence=FAMILY.licence
    )
    folder = tmp_path_factory.mktemp("detector") / "theta0"
    save_detector(folder, state, manifest)
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes with all objects labelled."""
    folder = tmp_path_factory.mktemp("scenes") / "emoji"
    pretrain_emoji.build(folder, train=60, test=4, size=SIZE, seed=99)
    return folder / "mixed"


def rows_of(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


def make_series(scenes: Path, folder: Path, *, keep_old: bool) -> tuple[Path, dict[str, int]]:
    """Write a series of the new classes; return it and the old objects on its training images."""
    names = list(yaml.safe_load((scenes / "data.yaml").read_text())["names"])
    if isinstance(names[0], int):
        names = list(yaml.safe_load((scenes / "data.yaml").read_text())["names"].values())
    new = {names.index(name) for name in NEW}
    truth: dict[str, int] = {}
    for split in ("train", "test"):
        for kind in ("images", "labels"):
            (folder / "data" / kind / split).mkdir(parents=True)
        for path in sorted((scenes / "images" / split).iterdir()):
            (folder / "data" / "images" / split / path.name).write_bytes(path.read_bytes())
            rows = rows_of(scenes / "labels" / split / f"{path.stem}.txt")
            kept = [row for row in rows if keep_old or int(row[0]) in new]
            text = "".join(f"{' '.join(row)}\n" for row in kept)
            (folder / "data" / "labels" / split / f"{path.stem}.txt").write_text(text)
            if split == "train" and any(int(row[0]) in new for row in rows):
                for row in rows:
                    if int(row[0]) not in new:
                        truth[names[int(row[0])]] = truth.get(names[int(row[0])], 0) + 1
    document = {"names": names, "train": "images/train", "val": "images/test"}
    (folder / "data" / "data.yaml").write_text(yaml.safe_dump(document))
    item = {"domain": "mixed", "data": "data/data.yaml", "classes": list(NEW)}
    path = folder / "series.yaml"
    path.write_text(yaml.safe_dump({"schema": 1, "name": "s", "increments": [item]}))
    return path, truth


def counted_by_hand(detector: Path, data: Path) -> tuple[dict[str, int], int]:
    """Count confident old objects without a label, and those that the files confirm."""
    loaded = load(detector)
    names = yaml.safe_load((data / "data.yaml").read_text())["names"]
    counts: dict[str, int] = {}
    confirmed = 0
    for image in sorted((data / "images" / "train").iterdir()):
        rows = rows_of(data / "labels" / "train" / f"{image.stem}.txt")
        labelled = [names[int(row[0])] for row in rows]
        if not set(labelled) & set(NEW):
            continue
        centres = torch.tensor([[float(value) for value in row[1:]] for row in rows]) * SIZE
        found = loaded(image, confidence=0.5)
        overlaps = box_iou(torch.tensor(found.xyxy.copy()), box_convert(centres, "cxcywh", "xyxy"))
        for name, row in zip(found.names, overlaps.tolist(), strict=True):
            near = {label for label, overlap in zip(labelled, row, strict=True) if overlap >= 0.5}
            if name not in NEW and not near & set(NEW):
                confirmed += name in near
                counts[name] = counts.get(name, 0) + (name not in near)
    return {name: count for name, count in counts.items() if count}, confirmed


@pytest.mark.slow
@pytest.mark.parametrize("keep_old", [False, True], ids=["unlabelled", "labelled in the files"])
def test_old_objects_are_counted(
    detector: Path, scenes: Path, tmp_path: Path, keep_old: bool
) -> None:
    path, truth = make_series(scenes, tmp_path, keep_old=keep_old)
    shifts = examine(path, detector=load(detector)).shifts
    assert {shift.name for shift in shifts}.isdisjoint(NEW)
    seen = {shift.name: len(shift.sightings) for shift in shifts}
    counts, confirmed = counted_by_hand(detector, tmp_path / "data")
    assert seen == counts
    assert (confirmed > 0) == keep_old
    if keep_old:  # what is seen beyond the labels is imagined
        assert sum(seen.values()) < 0.2 * confirmed
        return
    right = sum(min(count, truth.get(name, 0)) for name, count in seen.items())
    # Bounds of what θ_0 can do, not of the counting: most of what it is sure of is there, and most
    # of what is there is seen.
    assert right >= 0.8 * sum(seen.values())
    assert right >= 0.5 * sum(truth.values())
    assert all(0.5 <= shift.mean_score <= 1 and shift.images <= shift.trained for shift in shifts)


def test_labelled_objects_do_not_count(detector: Path, scenes: Path, tmp_path: Path) -> None:
    # All classes are new: nothing is old, however many objects there are.
    path, _ = make_series(scenes, tmp_path, keep_old=True)
    document = yaml.safe_load(path.read_text())
    names = yaml.safe_load((tmp_path / "data" / "data.yaml").read_text())["names"]
    document["increments"][0]["classes"] = names
    path.write_text(yaml.safe_dump(document))
    assert examine(path, detector=load(detector)).shifts == ()


@pytest.mark.slow
def test_command_writes_crops_and_sheets(detector: Path, scenes: Path, tmp_path: Path) -> None:
    path, _ = make_series(scenes, tmp_path, keep_old=False)
    arguments = [str(path), "--detector", str(detector), "--conf", "0.7", "--json"]
    out = tmp_path / "crops"
    result = CliRunner().invoke(cli, ["data", "check", *arguments, "--crops", str(out)])
    document: dict[str, Any] = json.loads(result.stdout)
    assert {row["code"] for row in document["notes"]} >= {"background.unlabelled"}
    assert all(row["mean_score"] >= 0.7 for row in document["background"])
    total = sum(row["objects"] for row in document["background"])
    assert document["crops"]["count"] == total == len(list(out.rglob("*.jpg"))) > 0
    assert len(list(out.glob("*.png"))) == len(document["background"])
    from duet.images import read_image

    sheet = read_image(next(iter(out.glob("*.png"))))
    assert sheet.shape[0] % 96 == sheet.shape[1] % 96 == 0
    assert np.unique(sheet).size > 10
    held = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = CliRunner().invoke(cli, ["data", "check", *arguments, "--crops", str(out)])
    assert json.loads(again.stdout)["crops"]["count"] == total
    assert held == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def look_at(
    folder: Path, labels: Sequence[str], ids: Sequence[int], *, ignored: bool, crowd: bool
) -> tuple[tuple[str, int, int], ...]:
    """Return class, unlabelled and labelled objects that a detector of cats and couches sees.

    It sees a couch and a cat within it; the label file holds objects ``ids`` in the couch's place.
    """
    image = folder / "a.png"
    cv2.imwrite(str(image), np.zeros((100, 100, 3), np.uint8))
    found = Detections(
        np.array([[10, 10, 70, 70], [20, 20, 40, 40]], np.float32),
        np.array([0.9, 0.8], np.float32), np.array([0, 1]), LabelSpace(("couch", "cat")),
    )  # fmt: skip
    facts = DetectorFacts("0" * 64, "MIT", 100, (("old", ("couch", "cat")),))
    detector = LoadedDetector(lambda images, **_: [found] * len(images), facts)
    boxes = np.array([[0.4, 0.4, 0.6, 0.6]] * len(ids) + [[0.8, 0.8, 0.2, 0.2]])
    flags = np.array([ignored] * len(ids) + [False])
    annotation = Annotation(
        np.array([*ids, 0]), boxes, 100, 100, flags, flags if crowd else np.zeros_like(flags)
    )
    splits = {"train": Split("train", (image,), (annotation,))}
    data = DomainData("d", LabelSpace(tuple(labels)), splits, folder)
    series = Series("s", "", (Increment("new", "d", (labels[0],), data),))
    shifts = unlabelled(series, detector, confidence=0.5)
    return tuple((shift.name, len(shift.sightings), shift.labelled) for shift in shifts)


@pytest.mark.parametrize(
    ("labels", "ids", "ignored", "crowd", "expected"),
    [
        (("bus",), (), False, False, (("couch", 1, 0), ("cat", 1, 0))),
        (("bus", "couch"), (1,), False, False, (("cat", 1, 0),)),
        (("bus", "sofa"), (1,), False, False, (("cat", 1, 0),)),
        (("bus", "sofa"), (1,), True, False, (("cat", 1, 0),)),
        (("bus", "cat"), (1,), True, True, (("couch", 1, 0),)),
        (("bus",), (0,), True, False, (("cat", 1, 0),)),
        (("sofa",), (), False, False, (("cat", 1, 0),)),
    ],
    ids=[
        "nothing labelled", "labelled", "alias", "ignored alias", "crowd of cats", "ignored bus",
        "new under an alias",
    ],
)  # fmt: skip
def test_what_carries_a_label_is_not_unlabelled(
    tmp_path: Path,
    labels: tuple[str, ...],
    ids: tuple[int, ...],
    ignored: bool,
    crowd: bool,
    expected: tuple[tuple[str, int, int], ...],
) -> None:
    assert look_at(tmp_path, labels, ids, ignored=ignored, crowd=crowd) == expected


def test_labelled_objects_are_told_beside_the_unlabelled_ones(tmp_path: Path) -> None:
    shift = Shift("new", "cat", 3, (Sighting(tmp_path / "a.png", (0, 0, 1, 1), 0.5),), labelled=2)
    assert "1 confident 'cat' without a label" in shift.as_problem().what
    assert "2 more are in the label files" in shift.as_problem().what
    assert shift.as_dict()["labelled_in_files"] == 2


def test_old_classes_are_those_learned_before() -> None:
    data = DomainData("d", LabelSpace(("a", "b", "c")), {}, Path("d.yaml"))
    steps = tuple(Increment(name, name, (name,), data) for name in ("a", "b", "c"))
    series = Series("s", "", steps)
    known = ("z", "a", "b", "c")
    assert old_classes(series, 0, known) == ("z",)
    assert old_classes(series, 1, known) == ("z", "a")
    assert old_classes(series, 2, known) == ("z", "a", "b")
    again = Series("s", "", (*steps, Increment("a2", "fog", ("a",), data)))
    assert old_classes(again, 3, known) == ("z", "b", "c")
