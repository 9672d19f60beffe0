"""Matches give AP50 again; resampled AP50 equals COCO's on a data set of as many copies."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from factories_scenes import LABELS, make_scene, make_truth
from hypothesis import given, settings
from hypothesis import strategies as st

from duet.detections import Detections
from duet.errors import ConfigError, DataError
from duet.evaluation.ap import RECALLS, Truth, evaluate_ap
from duet.evaluation.bootstrap import (
    reached,
    recall_at_precision,
    resamples,
    weighted_ap50,
    weighted_share,
)
from duet.evaluation.matches import ClassMatches, Matches, load_matches, match, save_matches
from duet.labels import LabelSpace

KEYS = np.arange(100, 200, dtype=np.uint64)


def keys(images: int) -> npt.NDArray[np.uint64]:
    return np.arange(images, dtype=np.uint64)


def distinct(predictions: list[Detections], random: np.random.Generator) -> list[Detections]:
    """Return the same detections with confidences of which no two are equal."""
    total = sum(map(len, predictions))
    scores = iter(random.permutation(np.linspace(0.01, 0.99, total)))
    return [
        Detections(p.xyxy, np.array([next(scores) for _ in range(len(p))]), p.class_ids, p.labels)
        for p in predictions
    ]


def ap50_of(matches: Matches, weights: npt.NDArray[np.float32]) -> dict[str, list[float | None]]:
    """Return AP50 per class and row of weights, None for NaN."""
    return {
        name: [None if np.isnan(v) else float(v) for v in weighted_ap50(found, weights)]
        for name, found in matches.classes.items()
    }


def with_ignored(truths: list[Truth], random: np.random.Generator) -> list[Truth]:
    """Return the same labels, a third of them ignored and some of those crowds."""
    marked = []
    for truth in truths:
        ignored = random.uniform(size=len(truth.class_ids)) < 0.3
        crowds = ignored & (random.uniform(size=len(ignored)) < 0.4)
        marked.append(replace(truth, ignored=ignored, crowds=crowds))
    return marked


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    crowd=st.sampled_from([1, 3, 45]),  # 45: above 100 of a class
    ignored=st.booleans(),
)
def test_weights_of_one_give_ap50_again(seed: int, crowd: int, ignored: bool) -> None:
    random = np.random.default_rng(seed)
    predictions, truths = make_scene(random, images=6, classes=4, crowd=crowd)
    truths = with_ignored(truths, random) if ignored else truths
    expected = evaluate_ap(predictions, truths, LABELS).ap50
    found = ap50_of(match(predictions, truths, LABELS, keys(6)), np.ones((1, 6), np.float32))
    for name, value in expected.items():
        assert found[name][0] == (None if value is None else pytest.approx(value, abs=1e-9))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), crowd=st.sampled_from([2, 4]))
def test_a_resample_is_a_data_set_with_copies_of_images(seed: int, crowd: int) -> None:
    random = np.random.default_rng(seed)
    predictions, truths = make_scene(random, images=7, classes=3, crowd=crowd)
    predictions, truths = distinct(predictions, random), with_ignored(truths, random)
    weights = resamples(7, 6, seed=seed, name="flat")
    found = ap50_of(match(predictions, truths, LABELS, keys(7)), weights)
    for row, counts in enumerate(weights.astype(int)):
        copies = np.repeat(np.arange(7), counts)
        drawn = [predictions[i] for i in copies], [truths[i] for i in copies]
        for name, value in evaluate_ap(*drawn, LABELS).ap50.items():
            assert found[name][row] == (None if value is None else pytest.approx(value, abs=1e-9))


def one_class(n: int, images: int, random: np.random.Generator, hits: int = 2) -> ClassMatches:
    """Return n random matches, some of them hits, and a tenth ignored."""
    kind = random.permutation(np.repeat([0, 1, 2], [hits, n - hits - n // 10, n // 10]))
    picked = random.integers(0, images, n)
    truths = np.bincount(picked[kind == 0], minlength=images) + random.integers(0, 2, images)
    scores = np.sort(random.uniform(0, 1, n).astype(np.float32))[::-1]
    iou = np.where(kind == 0, 0.8, 0).astype(np.float32)
    return ClassMatches.counted(scores, picked, kind == 0, kind == 2, truths, iou)


def direct_ap50(found: ClassMatches, weights: npt.NDArray[np.float32]) -> float:
    """Return weighted AP50 detection by detection, as pycocotools writes it."""
    weight = weights.astype(float)[found.images]
    hits = np.cumsum(weight * found.hit)
    wrong = np.cumsum(weight * ~(found.hit | found.ignored))
    recall = hits / (weights.astype(float) @ found.truths)
    precision = hits / (hits + wrong + np.spacing(1))
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    places = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.mean([precision[p] if p < len(precision) else 0.0 for p in places]))


def direct_recall(found: ClassMatches, weights: npt.NDArray[np.float32], precision: float) -> float:
    """Return the largest recall of any cut whose precision is that or higher."""
    weight = weights.astype(float)[found.images]
    hits, counted = np.cumsum(weight * found.hit), np.cumsum(weight * ~found.ignored)
    reached = hits[hits >= precision * counted]
    return float(reached.max(initial=0) / (weights.astype(float) @ found.truths))


@pytest.mark.parametrize("hits", [0, 1, 63, 64, 65, 128, 700])
@pytest.mark.parametrize("neighbours", [False, True])
def test_every_number_of_blocks_gives_what_is_counted_directly(hits: int, neighbours: bool) -> None:
    """One detection after the other, as COCO counts; whichever way the weights lie in memory."""
    random = np.random.default_rng(hits)
    found = one_class(hits * 3 + 20, 40, random, hits)
    assert found.hit.sum() == hits
    weights = resamples(40, 30, seed=1, name="x")
    weights = weights if neighbours else np.ascontiguousarray(weights)
    expected = [direct_ap50(found, row) for row in weights]
    assert weighted_ap50(found, weights) == pytest.approx(expected, abs=1e-12)
    wanted = random.choice([0.3, 0.35, 0.5], len(weights))
    recall = [direct_recall(found, *row) for row in zip(weights, wanted, strict=True)]
    assert recall_at_precision(found, weights, wanted) == pytest.approx(recall, abs=1e-12)


def test_recall_points_are_told_as_coco_tells_them() -> None:
    """An object more or less must not move a recall point: 0.29 * 100 is not 29."""
    for objects in [*range(1, 400), 4999, 10000, 65537]:
        recall = np.arange(objects + 1) / objects
        assert (reached(recall) == np.searchsorted(RECALLS, recall, side="right")).all()
    assert reached(np.array([1.2, 3.0])).tolist() == [101, 101]  # of a file that hits too often
    for point in RECALLS:
        near = np.clip(np.nextafter(point, [-1, point, 2]), 0, None)
        assert (reached(near) == np.searchsorted(RECALLS, near, side="right")).all()


def test_many_images_are_drawn_some_resamples_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = resamples(50, 19, seed=3, name="flat")
    monkeypatch.setattr("duet.evaluation.bootstrap.DRAWN", 150)  # three rows at a time
    assert (resamples(50, 19, seed=3, name="flat") == at_once).all()  # the last row alone
    random = np.random.default_rng([3, zlib.crc32(b"flat")])
    assert (at_once[1:] == random.multinomial(50, np.full(50, 1 / 50), size=19)).all()
    part, whole = np.random.default_rng(0).integers(0, 4, (2, 50))
    shares = (at_once @ part) / (at_once @ whole)
    assert weighted_share(part, whole, at_once) == pytest.approx(shares, abs=1e-12)


def test_ignored_detections_count_neither_way() -> None:
    flags = np.array([True, True, False]), np.array([False, False, True])
    found = ClassMatches.counted(
        np.array([0.9, 0.8, 0.7], np.float32), np.array([0, 1, 1]),
        np.array([False, True, False]), np.array([True, False, False]), np.array([0, 1]),
        np.array([0, 0.8, 0], np.float32),
    )  # fmt: skip
    ones = np.ones((1, 2), np.float32)
    assert weighted_ap50(found, ones) == pytest.approx([1.0])
    wrong = ClassMatches.counted(
        found.scores, found.images, found.hit, flags[1], found.truths, found.iou
    )
    assert weighted_ap50(wrong, ones) == pytest.approx([0.5])


def test_a_class_of_which_no_object_is_drawn_has_no_ap() -> None:
    found = ClassMatches.counted(
        np.array([0.9], np.float32), np.array([1]), np.array([True]), np.array([False]),
        np.array([0, 1]), np.array([0.8], np.float32),
    )  # fmt: skip
    rows = np.array([[2, 0], [1, 1], [0, 2]], np.float32)
    assert weighted_ap50(found, rows) == pytest.approx([np.nan, 1, 1], nan_ok=True)


def test_resamples_are_paired_seeded_and_whole() -> None:
    first = resamples(50, 20, seed=0, name="flat")
    assert (first[0] == 1).all()
    assert (first.sum(axis=1) == 50).all()
    assert (first == resamples(50, 20, seed=0, name="flat")).all()
    assert (first != resamples(50, 20, seed=0, name="comic")).any()
    assert (first != resamples(50, 20, seed=1, name="flat")).any()
    with pytest.raises(ConfigError, match="1 image"):
        resamples(0, 5, seed=0, name="flat")


def test_the_file_gives_everything_back(tmp_path: Path) -> None:
    predictions, truths = make_scene(np.random.default_rng(5), images=100, classes=3, crowd=3)
    matches = match(predictions, truths, LABELS, KEYS)
    path = tmp_path / "flat.npz"
    save_matches(path, matches)
    again = load_matches(path)
    assert (again.keys == KEYS).all()
    assert list(again.classes) == list(LABELS.names)
    for name, found in matches.classes.items():
        for column in ("scores", "images", "hit", "ignored", "iou", "owners", "truths"):
            one, other = getattr(found, column), getattr(again.classes[name], column)
            assert one.dtype == other.dtype
            assert (one == other).all()
    assert [item.name for item in tmp_path.iterdir()] == ["flat.npz"]  # nothing temporary stays


def test_a_file_of_an_older_duet_is_read(tmp_path: Path) -> None:
    """It held no IoU; counts of objects and images as now, in types of its own."""
    predictions, truths = make_scene(np.random.default_rng(5), images=300, classes=3, crowd=3)
    matches = match(predictions, truths, LABELS, keys(300))
    save_matches(tmp_path / "a.npz", matches)
    with np.load(tmp_path / "a.npz") as stored:
        arrays = dict(stored)
    assert (arrays["truths"].dtype, arrays["images"].dtype) == (np.uint8, np.uint16)
    del arrays["iou"]
    np.savez(tmp_path / "old.npz", **(arrays | {"truths": arrays["truths"].astype(np.int64)}))
    old = load_matches(tmp_path / "old.npz")
    ones = np.ones((1, 300), np.float32)
    assert ap50_of(old, ones) == ap50_of(matches, ones)
    assert all((one.iou == 0).all() for one in old.classes.values())


def test_counts_of_many_classes_take_what_their_objects_take() -> None:
    """Not a number for each image and class."""
    wide = LabelSpace.of(f"class {number}" for number in range(500))
    truths = [make_truth([[0, 0, 9, 9]], [image % 500]) for image in range(1000)]
    matches = match([Detections.empty(wide)] * 1000, truths, wide, keys(1000))
    assert sum(one.owners.nbytes for one in matches.classes.values()) <= 8 * len(truths)
    assert matches.classes["class 7"].truths.nonzero()[0].tolist() == [7, 507]


@pytest.mark.parametrize(
    ("predictions", "truth"),
    [
        pytest.param(Detections.empty(LABELS), make_truth([[0, 0, 9, 9]], [1]), id="nothing-found"),
        pytest.param(
            Detections.empty(LABELS),
            replace(make_truth([[0, 0, 9, 9]], [1]), ignored=np.array([True])),
            id="nothing-found-of-ignored",
        ),
        pytest.param(
            Detections(np.array([[0, 0, 9, 9]]), np.array([0.5]), np.array([1]), LABELS),
            make_truth(),
            id="nothing-labelled",
        ),
    ],
)  # fmt: skip
def test_empty_sides(tmp_path: Path, predictions: Detections, truth: Truth) -> None:
    save_matches(tmp_path / "a.npz", match([predictions], [truth], LABELS, keys(1)))
    found = ap50_of(load_matches(tmp_path / "a.npz"), np.ones((1, 1), np.float32))
    assert found["bee"] == [evaluate_ap([predictions], [truth], LABELS).ap50["bee"]]


def test_no_classes_are_no_matches() -> None:
    nothing = LabelSpace(())
    assert match([Detections.empty(LABELS)], [make_truth()], nothing, keys(1)).classes == {}


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_damaged_files_are_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.npz"
    save_matches(path, match([Detections.empty(LABELS)], [make_truth()], LABELS, keys(1)))
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100] if damage == "cut" else b"hello")
    with pytest.raises(DataError, match="cannot be read"):
        load_matches(path)


def test_a_flipped_byte_is_no_traceback(tmp_path: Path) -> None:
    """Archives fail in many ways: wrong checksums, broken streams, unknown compressions."""
    predictions, truths = make_scene(np.random.default_rng(5), images=20, classes=3, crowd=3)
    path = tmp_path / "a.npz"
    save_matches(path, match(predictions, truths, LABELS, keys(20)))
    whole, random = path.read_bytes(), np.random.default_rng(0)
    told = []
    for place in random.integers(0, len(whole), 200):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            load_matches(path)
        except DataError as error:
            told.append(str(error))
    assert len(told) > 100
    assert all(message.startswith(f"{path}: the matches cannot be read") for message in told)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("counts", lambda a: a + 1),
        ("counts", lambda a: a.astype(str)),
        ("images", lambda a: a + 99),
        ("scores", lambda a: a[::-1]),
        ("scores", lambda a: a * np.nan),
        ("truths", lambda a: a[:-1]),
        ("truths", lambda a: -a.astype(np.int64) - 1),
        ("hit", lambda a: a[:-1]),
        ("hit", lambda a: a.astype(float)),
        ("keys", lambda a: a[0]),
        ("classes", lambda a: a[:-1]),
    ],
)
def test_files_of_other_arrays_are_refused(tmp_path: Path, name: str, change: Any) -> None:
    predictions, truths = make_scene(np.random.default_rng(5), images=20, classes=3, crowd=3)
    path = tmp_path / "a.npz"
    save_matches(path, match(predictions, truths, LABELS, keys(20)))
    with np.load(path) as stored:
        arrays: dict[str, Any] = dict(stored)
    np.savez(path, **(arrays | {name: change(arrays[name])}))
    with pytest.raises(DataError, match=r"a\.npz: the matches cannot be read"):
        load_matches(path)


def test_a_few_bytes_cannot_ask_for_much_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = make_truth([[0, 0, 9, 9]] * 30, [1] * 30)
    save_matches(tmp_path / "a.npz", match([Detections.empty(LABELS)], [truth], LABELS, keys(1)))
    assert load_matches(tmp_path / "a.npz").classes["bee"].truths.tolist() == [30]
    monkeypatch.setattr("duet.evaluation.matches.MOST_OBJECTS", 29)
    with pytest.raises(DataError, match="more than 29 objects"):
        load_matches(tmp_path / "a.npz")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("name", "content"),
    [("truths.npy", b"hello"), ("truths.npy", None), ("notes.txt", b"hello")],
    ids=["twice, other", "twice, the same", "no array"],
)
def test_members_that_are_no_arrays_are_refused(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / "a.npz"
    save_matches(path, match([Detections.empty(LABELS)], [make_truth()], LABELS, keys(1)))
    with zipfile.ZipFile(path, "a") as stored:
        stored.writestr(name, stored.read("truths.npy") if content is None else content)
    with pytest.raises(DataError, match=r"a\.npz: the matches cannot be read"):
        load_matches(path)


def test_weights_must_fit() -> None:
    found = one_class(5, 4, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="4 images"):
        weighted_ap50(found, np.ones((2, 3), np.float32))
