"""Class names of different data sets: what means the same, and what only looks like it."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet.aliases import (
    BDD10,
    COCO80,
    GROUPS,
    VOC,
    VOCABULARIES,
    canonical,
    clashes,
    match_classes,
    meaning,
    same_class,
    spelled,
)
from duet.errors import DataError
from duet.weights import load_manifest

COCO = load_manifest().class_lists["coco"].names
BDD = (
    "pedestrian", "rider", "car", "truck", "bus", "train", "motor", "bike", "traffic light",
    "traffic sign",
)  # fmt: skip
BDD_LATER = (*BDD[:6], "motorcycle", "bicycle", *BDD[8:])
CITYSCAPES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")

ALL_NAMES = [name for group in GROUPS for name in group]
WORDS = st.sampled_from([*ALL_NAMES, *COCO, *VOC, *BDD, "Sofa", "traffic-light", "no such thing"])


def test_vocabularies_are_those_of_the_published_sets() -> None:
    assert COCO80 == COCO
    assert {name: len(names) for name, names in VOCABULARIES.items()} == {
        "voc": 20, "coco": 80, "bdd": 10,
    }  # fmt: skip
    assert list(VOC) == sorted(VOC)
    assert match_classes(BDD10, BDD) == dict(zip(BDD10, BDD, strict=True))


@pytest.mark.parametrize("names", VOCABULARIES.values(), ids=VOCABULARIES)
def test_names_of_one_vocabulary_all_mean_different_things(names: Sequence[str]) -> None:
    assert clashes(names) == []


@given(WORDS, WORDS)
def test_one_meaning_is_one_class(one: str, other: str) -> None:
    assert (meaning(one) == meaning(other)) == (same_class(one, [other]) is not None)
    assert clashes([one, other, one]) == (
        [(one, other)] if one != other and meaning(one) == meaning(other) else []
    )


def test_every_voc_class_is_in_coco() -> None:
    pairs = match_classes(VOC, COCO)
    assert tuple(pairs) == VOC
    assert {ours: theirs for ours, theirs in pairs.items() if ours != theirs} == {
        "aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
        "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv",
    }  # fmt: skip


@pytest.mark.parametrize("names", [BDD, BDD_LATER])
def test_bdd_and_coco(names: Sequence[str]) -> None:
    pairs = match_classes(names, COCO)
    assert pairs["pedestrian"] == "person"
    assert (pairs[names[6]], pairs[names[7]]) == ("motorcycle", "bicycle")
    assert set(names) - set(pairs) == {"rider", "traffic sign"}


def test_a_rider_is_no_person_and_an_exact_name_goes_first() -> None:
    assert match_classes(CITYSCAPES, COCO).keys() == set(CITYSCAPES) - {"rider"}
    assert match_classes(("pedestrian", "person"), COCO) == {"person": "person"}
    assert same_class("rider", COCO) is None


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("cat", (), None),
        ("", ("cat",), None),
        ("--", ("__",), None),  # nothing is left of either: no name
        ("--", ("--",), "--"),
        ("cat", ("CAT", "cat"), "cat"),  # exact before spelling
        ("sofa", ("couch", "Sofa"), "Sofa"),  # spelling before alias
        ("Traffic_Light", ("traffic light",), "traffic light"),
        ("TV-Monitor", ("television",), "television"),
        ("strasse", ("Straße",), "Straße"),
        ("ｃａｔ", ("cat",), "cat"),  # full-width letters
        ("mouse", ("computer mouse",), None),
        ("van", ("car",), None),
        ("stop sign", ("traffic sign",), None),
    ],
)
def test_same_class(name: str, known: Sequence[str], found: str | None) -> None:
    assert same_class(name, known) == found
    assert match_classes((name,), known) == ({} if found is None else {name: found})


@pytest.mark.parametrize(
    ("wanted", "known", "named"),
    [
        (("bike",), ("Bicycle", "bicycle_"), ("Bicycle", "bicycle_")),
        (("sofa",), ("So fa", "SOFA"), ("So fa", "SOFA")),
        (("bike", "pedal cycle"), ("bicycle",), ("bike", "pedal cycle")),
    ],
)
def test_two_partners_are_an_error_that_names_them(
    wanted: Sequence[str], known: Sequence[str], named: Sequence[str]
) -> None:
    with pytest.raises(DataError) as caught:
        match_classes(wanted, known)
    assert all(name in str(caught.value) for name in named)
    assert str(caught.value).count("\n  - ") == 1
    if len(wanted) == 1:
        with pytest.raises(DataError, match=r"can mean .* or "):
            same_class(wanted[0], known)


def test_all_problems_are_shown_at_once() -> None:
    with pytest.raises(DataError, match="2 problems"):
        match_classes(("bike", "sofa"), ("b-icycle", "bicycle", "Couch", "settee", "couch"))


def test_no_word_is_in_two_groups() -> None:
    words = [spelled(name) for name in ALL_NAMES]
    assert len(set(words)) == len(words)
    assert all(len(group) >= 2 for group in GROUPS)
    assert all(canonical(name) == group[0] for group in GROUPS for name in group)


@pytest.mark.parametrize("names", [COCO, VOC, BDD, CITYSCAPES])
def test_no_two_classes_of_one_data_set_are_the_same(names: Sequence[str]) -> None:
    for one, other in itertools.combinations(names, 2):
        assert same_class(one, [other]) is None
    assert match_classes(names, names) == {name: name for name in names}


@given(WORDS, WORDS)
def test_meaning_the_same_goes_both_ways(one: str, other: str) -> None:
    assert (same_class(one, [other]) == other) == (same_class(other, [one]) == one)


@given(WORDS, WORDS, WORDS)
def test_meaning_the_same_carries_on(one: str, two: str, three: str) -> None:
    if same_class(one, [two]) and same_class(two, [three]):
        assert same_class(one, [three]) == three


@given(st.lists(WORDS, unique=True), WORDS)
def test_a_second_look_finds_the_same(known: list[str], name: str) -> None:
    try:
        found = same_class(name, known)
    except DataError:
        return
    if found is not None:
        assert same_class(found, known) == found


@given(st.lists(WORDS, unique=True), st.lists(WORDS, unique=True))
def test_pairs_are_one_to_one_and_the_same_from_both_sides(
    wanted: list[str], known: list[str]
) -> None:
    try:
        pairs = match_classes(wanted, known)
    except DataError:
        with pytest.raises(DataError):
            match_classes(known, wanted)
        return
    assert len(set(pairs.values())) == len(pairs)
    assert set(pairs) <= set(wanted)
    assert set(pairs.values()) <= set(known)
    assert all(same_class(ours, [theirs]) for ours, theirs in pairs.items())
    assert all(pairs[name] == name for name in set(wanted) & set(known))
    assert match_classes(known, wanted) == {theirs: ours for ours, theirs in pairs.items()}


def test_the_table_needs_no_engine() -> None:
    program = "import sys, duet.aliases; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
