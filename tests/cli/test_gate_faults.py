"""Gates on finished runs by value, and what is refused: nothing here trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from factories_compare import Skill, write_run
from factories_results import TWO_PHASE, as_version_1
from factories_run import duet_here
from factories_series import make_clean_series

import duet
from duet.errors import ConfigError
from duet.evaluation.gate import load_gate
from duet.results.files import load_results

OLD = TWO_PHASE[0][1]
Capture = pytest.CaptureFixture[str]


def write_good(folder: Path) -> Path:
    """Write a run of one strategy, so that what is said of it is said of the run."""
    return write_run(folder, {"good": Skill(old=0.7, new=0.8)})


def edited(run: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the class scores of every stage of a run by hand."""
    file = run / "results.json"
    document = as_version_1(run)
    (strategy,) = document["strategies"]
    for row in strategy["class_scores"]:
        change(row)
    file.write_text(json.dumps(document))
    return run


# ---- finished runs, by value --------------------------------------------------------------------


@pytest.mark.parametrize("index", ["ri", "gi", "pi", "rai", "h", "fr", "or"])
def test_least_values_of_a_run(capsys: Capture, tmp_path: Path, index: str) -> None:
    run = write_good(tmp_path / "run")
    numbers = load_results(run).main.indices.numbers()
    value = numbers[index]
    assert value is not None
    assert value not in [other for name, other in numbers.items() if name != index]
    for limit, code in ((min(value, 1), 0), (value + 0.001, 6)):
        words = ["compare", run, "--bootstrap", 0, "--min", f"{index}={limit}"]
        done = duet_here(capsys, *words, "--json")
        assert done.code == code, done.err
        (row,) = done.json()["gate"]
        assert (row["name"], row["found"]) == (index.upper(), value)
        (line,) = (
            text for text in duet_here(capsys, *words).out.splitlines() if "at least" in text
        )
        assert line.split()[-2:] == [f"{value:.3f}", "NO" if code else "yes"]


def test_double_boxes_of_a_run(capsys: Capture, tmp_path: Path) -> None:
    def double(row: dict[str, Any]) -> None:
        row["deployed"] |= {"doubles_within": 4, "doubles_between": 8}  # in 80 images

    run = edited(write_good(tmp_path / "run"), double)
    for limit, code in ((15, 0), (14.9, 6)):
        words = ["compare", run, "--bootstrap", 0, "--max-double", limit, "--json"]
        done = duet_here(capsys, *words)
        assert done.code == code
        assert [one["found"] for one in done.json()["gate"]] == [15, 15]
    (tmp_path / "gate.yaml").write_text(yaml.safe_dump({"domains": {"flat": {"max_double": 20}}}))
    done = duet_here(capsys, *words, "--gate", tmp_path / "gate.yaml")
    assert [(one["about"], one["passed"]) for one in done.json()["gate"]] == [
        ("flat", True), ("comic", False),
    ]  # fmt: skip


def test_named_cells_of_a_run(capsys: Capture, tmp_path: Path) -> None:
    """Old classes were never labelled in the new domain, and are not good there."""
    run, file = write_good(tmp_path / "run"), tmp_path / "gate.yaml"
    seen = load_results(run).main.scores_at(2, "comic")
    assert seen is not None
    value = sum(seen.ap50[name] or 0 for name in OLD) / len(OLD)
    words = ["compare", run, "--bootstrap", 0, "--json", "--gate", file]
    for limit, cells, code in (
        (value + 0.001, {}, 0),
        (value + 0.001, {"comic": list(OLD)}, 6),
        (value - 0.001, {"comic": list(OLD)}, 0),
    ):
        file.write_text(yaml.safe_dump({"min": {"map50": limit}, "cells": cells}))
        done = duet_here(capsys, *words)
        assert done.code == code, done.err
        assert len(done.json()["gate"]) == 2 + len(cells)
    assert done.json()["gate"][-1]["found"] == pytest.approx(value)


def test_what_was_emptied_by_hand_is_named(capsys: Capture, tmp_path: Path) -> None:
    run = write_good(tmp_path / "run")
    words = ["compare", run, "--max-drop", 100, "--json"]
    assert duet_here(capsys, *words, "--bootstrap", 0).code == 0
    edited(run, lambda row: row["ap50"].clear() if row["stage"] == 1 else None)
    done = duet_here(capsys, *words, "--bootstrap", 0)
    assert done.code == 6
    told = {one["about"]: one["why"] for one in done.json()["gate"]}
    assert told == {f"{name} in flat": "results.json has nothing of its stage" for name in OLD}
    edited(run, lambda row: row["deployed"]["classes"].clear())
    done = duet_here(capsys, *words, "--bootstrap", 5)
    assert done.code == 3
    assert "stage 1 in flat has no threshold of bear" in done.error()["message"]
    assert done.error()["where"] == str(run / "results.json")
    assert "duet run" in done.error()["suggestion"]


# ---- what cannot be compared with ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read: No such file"),
        ("[", "not valid JSON"),
        ("{}", "no evaluation: it has no 'cells'"),
        ('{"cells": []}', "cells: "),
        ('{"cells": [{"domain": 3}]}', "cells.0.domain: "),
    ],
)
def test_no_evaluation(capsys: Capture, tmp_path: Path, content: str | None, told: str) -> None:
    run, path = write_good(tmp_path / "run"), tmp_path / "before.json"
    if content is not None:
        path.write_text(content)
    words = ["compare", run, "--bootstrap", 0, "--max-drop", 5, "--against", path, "--json"]
    done = duet_here(capsys, *words)
    assert done.code == 3
    assert told in done.error()["message"]
    assert done.error()["where"] == str(path)
    assert "`duet eval MODEL SERIES.yaml --out BEFORE.json`" in done.error()["suggestion"]


@pytest.mark.parametrize("name", ["before.json", "results.json", "detector"])
def test_a_link_that_leads_nowhere(capsys: Capture, tmp_path: Path, name: str) -> None:
    run, link = write_good(tmp_path / "run"), tmp_path / name
    link.symlink_to(tmp_path / "moved away")
    words = ["compare", run, "--bootstrap", 0, "--max-drop", 5, "--against", link, "--json"]
    done = duet_here(capsys, *words)
    assert done.code == 3
    told = f"a link that leads nowhere: there is no {tmp_path / 'moved away'}"
    assert (done.error()["where"], done.error()["message"]) == (str(link), told)


def test_an_image_that_is_a_link_to_nowhere(capsys: Capture, tmp_path: Path) -> None:
    series = make_clean_series(tmp_path)
    image = next(iter(sorted(tmp_path.rglob("*.png"))))
    image.unlink()
    image.symlink_to("../gone/photo.png")
    done = duet_here(capsys, "data", "check", series)
    assert done.code == 3
    assert "a link that leads nowhere: there is no ../gone/photo.png" in done.out + done.err


# ---- limits that are none -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"max_drop": True}, "max_drop.ap50: "),
        ({"max_drop": {"f1": True}}, "max_drop.f1: "),
        ({"min": {"ri": True}}, "min.ri: "),
        ({"max_double": False}, "max_double: "),
        ({"classes": {"cat": {"min": {"ap50": True}}}}, "classes.cat.min.ap50: "),
        ({"domains": {"day": {"max_double": True}}}, "domains.day.max_double: "),
        ({"max_drop": 1, "against": True}, "against: "),
        ({"max_duble": 3}, "did you mean 'max_double'?"),
        ({}, "sets no limit"),
    ],
    ids=str,
)
def test_python_and_files_refuse_the_same(
    tmp_path: Path, limits: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=r"^duet\.Gate: the gate is not valid") as error:
        duet.Gate(**limits)
    assert told in str(error.value)
    (tmp_path / "gate.yaml").write_text(yaml.safe_dump(limits))
    with pytest.raises(ConfigError, match=r"gate\.yaml: the gate is not valid") as error:
        load_gate(tmp_path / "gate.yaml")
    assert told in str(error.value)
