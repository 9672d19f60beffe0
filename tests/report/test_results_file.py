"""`results.json`: class sets are said once, older files are read, strangers' files are refused."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from factories_compare import Skill, write_run
from factories_results import FOUR_PHASE, as_version_1, make_results

import duet
from duet.comparison.ranking import compare
from duet.comparison.runs import find_runs
from duet.comparison.tables import as_dict
from duet.errors import DataError
from duet.results.boxes import GallerySide
from duet.results.files import (
    laid_out,
    load_results,
    parse_results,
    read_document,
    results_csv,
    save_results,
    was_changed,
)
from duet.results.gated import load_before
from duet.results.schema import Results


def names_in(value: Any) -> int:
    """Count how often a file says the name of a class."""
    classes = {name for _, classes in FOUR_PHASE for name in classes} - {"train"}  # a split, too
    if isinstance(value, dict):
        return sum((key in classes) + names_in(item) for key, item in value.items())
    return sum(map(names_in, value)) if isinstance(value, list) else value in classes


def test_every_class_set_stands_there_once(tmp_path: Path) -> None:
    results = make_results(FOUR_PHASE)
    save_results(tmp_path, results)
    document = read_document(tmp_path)
    sets = document.pop("class_sets")
    assert document["schema_version"] == 2
    assert len({tuple(one) for one in sets}) == len(sets)
    assert [tuple(one) for one in sets[:4]] == [classes for _, classes in FOUR_PHASE]
    assert names_in(document) == 0
    assert load_results(tmp_path) == results


def test_files_of_version_1_say_the_same(tmp_path: Path) -> None:
    old, new = write_run(tmp_path / "old"), write_run(tmp_path / "new")
    as_version_1(old)
    kept = read_document(old)
    assert (kept["schema_version"], "class_sets" in kept) == (1, False)
    assert names_in(kept["strategies"]) > 100
    assert load_results(old) == load_results(new)
    assert results_csv(load_results(old)) == (new / "results.csv").read_text()
    assert not was_changed(kept)
    assert load_before(old) == load_before(new)
    assert duet.Run(old).indices == duet.Run(new).indices
    told = [as_dict(compare(find_runs([one]), bootstrap=5)) for one in (old, new)]
    assert told[0]["strategies"] == told[1]["strategies"]
    save_results(old, load_results(old))
    assert (old / "results.json").read_bytes() == (new / "results.json").read_bytes()


def test_a_changed_number_is_noticed_in_both(tmp_path: Path) -> None:
    for name, version in (("old", 1), ("new", 2)):
        run = write_run(tmp_path / name)
        if version == 1:
            as_version_1(run)
        document = read_document(run)
        assert not was_changed(document)
        document["strategies"][0]["indices"]["ri"] = 0.123
        assert was_changed(document)


def test_sets_that_are_none_are_written_as_they_are(tmp_path: Path) -> None:
    results = make_results(gallery=1)
    for classes in ((), ("cat", "cat")):
        image = results.gallery[0]
        after = GallerySide(title="odd", detections=(), classes=classes)
        odd = results.model_copy(update={"gallery": (image.model_copy(update={"after": after}),)})
        save_results(tmp_path, odd)
        assert load_results(tmp_path) == odd


def test_those_who_read_a_set_share_it(tmp_path: Path) -> None:
    save_results(tmp_path, make_results(FOUR_PHASE))
    main = load_results(tmp_path).main
    taught = [cell.classes for cell in main.matrix if cell.classes == FOUR_PHASE[0][1]]
    assert len(taught) == 7  # four stages, and as classes never labelled in the next domain
    assert len({id(classes) for classes in taught}) == 1


def test_a_small_file_that_refers_to_a_large_set_stays_small(tmp_path: Path) -> None:
    """Each of 20 000 cells of 20 000 names would take 160 kB: 3 GB in all."""
    save_results(tmp_path, make_results(FOUR_PHASE))
    document = read_document(tmp_path)
    document["class_sets"].append([f"class {number}" for number in range(20_000)])
    cell = {"stage": 1, "domain": "voc", "classes": len(document["class_sets"]) - 1, "map50": 0.5}
    document["strategies"][0]["matrix"] = [cell] * 20_000
    tracemalloc.start()
    try:
        parse_results(document, where="here")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 100e6


def _no_such_set(document: dict[str, Any]) -> None:
    document["strategies"][0]["matrix"][0]["classes"] = 99
    document["references"][0]["ap50"]["of"] = -1


def _no_number(document: dict[str, Any]) -> None:
    document["strategies"][0]["matrix"][0]["classes"] = True


def _too_few(document: dict[str, Any]) -> None:
    document["references"][0]["ap50"]["values"].pop()


def _columns_of_unequal_length(document: dict[str, Any]) -> None:
    document["references"][0]["ap50"]["values"] = {"one": [1], "two": []}


def _another_form(document: dict[str, Any]) -> None:
    document["references"][0]["ap50"] = {"bear": 0.5}


def _twice(document: dict[str, Any]) -> None:
    document["class_sets"][0][1] = document["class_sets"][0][0]


def _empty(document: dict[str, Any]) -> None:
    document["class_sets"][1] = []


def _no_sets(document: dict[str, Any]) -> None:
    del document["class_sets"]


def _sets_in_version_1(document: dict[str, Any]) -> None:
    document["schema_version"] = 1


def _true(document: dict[str, Any]) -> None:
    document["schema_version"] = True


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_no_such_set, r"(?s)2 problems.*matrix\.0\.classes.*no such class set.*ap50.*no such"),
        (_no_number, r"matrix\.0\.classes.*got True"),
        (_too_few, r"references\.0\.ap50.*expected a list of 9 values"),
        (_columns_of_unequal_length, "expected a list of 9 values"),
        (_another_form, "expected 'of', the number of a class set, and 'values'"),
        (_twice, r"class_sets\.0.*each of its classes once"),
        (_empty, r"class_sets\.1.*at least 1 item"),
        (_no_sets, "'class_sets' has 0"),
        (_sets_in_version_1, r"classes: Input should be a list, got 0"),
        (_true, "schema_version is True, this duet reads 1 to 2"),
    ],
)
def test_damaged_sets_are_refused(
    tmp_path: Path, damage: Callable[[dict[str, Any]], None], expected: str
) -> None:
    save_results(tmp_path, make_results())
    document = read_document(tmp_path)
    damage(document)
    (tmp_path / "results.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=expected):
        load_results(tmp_path)


def test_records_of_each_class_come_back_as_they_were(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"good": Skill(old=0.7, new=0.8)})
    scores = load_results(run).main.class_scores
    rows = [one for item in scores if item.deployed for one in item.deployed.classes.values()]
    # Of the detector that learned a class there is nothing to compare with, of others there is.
    assert {one.at_precision is None for one in rows} == {True, False}
    again = Results.model_validate(load_results(run).model_dump(mode="json"))
    save_results(tmp_path, again)
    assert load_results(tmp_path) == load_results(run)


def test_a_copy_with_other_values_looks_up_those(tmp_path: Path) -> None:
    results = make_results(FOUR_PHASE)
    place = 1, *FOUR_PHASE[0]
    assert results.main.map50_at(*place) is not None
    assert results.reference(*FOUR_PHASE[1]) is not None
    assert results.main.model_copy(update={"matrix": ()}).map50_at(*place) is None
    assert results.model_copy(update={"references": ()}).reference(*FOUR_PHASE[1]) is None


def test_the_file_is_readable(tmp_path: Path) -> None:
    save_results(tmp_path, make_results(FOUR_PHASE))
    lines = (tmp_path / "results.json").read_text().splitlines()
    assert ' "main_strategy": "duet-plus",' in lines
    assert any(line.strip().startswith('{"stage": 1, "domain": "watercolor"') for line in lines)
    assert sum(len(line) > 200 for line in lines) < 0.1 * len(lines)


@pytest.mark.parametrize(
    "value", [{}, [], [[]], {"a": {}}, [1, "ü", None], {"a": [{"b": [1] * 99}, 2]}, "x", [{}] * 90]
)
def test_layout_is_json_with_the_same_content(value: Any) -> None:
    assert json.loads(laid_out(value)) == value


def test_layout_refuses_what_is_no_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        laid_out({"a": [float("nan")]})
