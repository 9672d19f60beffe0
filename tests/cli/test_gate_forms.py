"""Every form of a gate in every command that takes one, kept and not kept, by the values found.

A small detector learns coloured squares: it is good at them, and forgets some of the old ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from factories_dots import on_path, write_series
from factories_results import as_version_1
from factories_run import Outcome, duet_here
from factories_training import trained_here

import duet
from duet.conformance.case import NEW, OLD
from duet.evaluation.cells import Cell

pytestmark = pytest.mark.slow
COMMANDS = ("run", "increment", "eval", "merge", "compare")
Row = tuple[float | None, bool]
Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Squares:
    """A finished run, and evaluations of what it knew after its stages."""

    folder: Path

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def command(self, name: str, *words: object) -> list[object]:
        """Return a command that measures the last detector, on data that are there."""
        run, series = self / "run", self / "series.yaml"
        stage = ["--strategy", self / "strategy.yaml", "--out", run, "--json", *words]
        parts = [run / "increments/short" / one for one in ("day", "night")]
        return {
            "run": ["run", series, *stage, "--jobs", 1],
            "increment": ["increment", series, "night", *stage],
            "eval": ["eval", run / "models/short/2-night", series, "--json", *words],
            "merge": [
                "merge", *parts, "--weights", self / "base.safetensors", "--series", series,
                "--out", self / "merged", "--overwrite", "--json", *words,
            ],
            "compare": ["compare", run, "--bootstrap", 0, "--json", *words],
        }[name]  # fmt: skip

    def cells(self, name: str) -> list[Cell]:
        """Return a kept evaluation."""
        return [Cell(**one) for one in json.loads((self / name).read_text())["cells"]]

    def now(self, command: str) -> list[Cell]:
        """Return what the detector of a command finds."""
        return self.cells("merged.json" if command == "merge" else "now.json")


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Squares]:
    found = Squares(tmp_path_factory.mktemp("squares"))
    with on_path(), trained_here(), pytest.MonkeyPatch.context() as patch:
        # Its pictures take most of the time of a run, and no gate looks at them.
        patch.setattr("duet.runs.run.write_report", lambda folder: folder)
        series, run = write_series(found.folder), found / "run"
        duet.learn(series, str(found / "strategy.yaml"), out=run, jobs=1, progress=False)
        models, parts = run / "models/short", run / "increments/short"
        before, now = (duet.load(models / name) for name in ("1-day", "2-night"))
        merged = duet.merge([parts / "day", parts / "night"], start=found / "base.safetensors")
        for name, model in (("before", before), ("now", now), ("merged", merged)):
            cells = [one.model_dump(mode="json") for one in model.evaluate(series).cells]
            (found / f"{name}.json").write_text(json.dumps({"cells": cells}))
        _write_perfect(found)
        assert 0 < duet.Run(run).results.main.indices.ri < 1, "nothing learned, or nothing lost"
        yield found


def _write_perfect(found: Squares) -> None:
    """Write an evaluation and a run whose last detector makes no mistake."""
    shutil.copytree(found / "run", found / "perfect")
    results = as_version_1(found / "perfect")
    kept = json.loads((found / "now.json").read_text())
    rows = [one for one in results["strategies"][0]["class_scores"] if one["stage"] == 2]
    for row in (*rows, *kept["cells"]):
        row["ap50"] = {name: None if ap is None else 1.0 for name, ap in row["ap50"].items()}
        for one in row["deployed"]["classes"].values():
            one |= {"found": one["objects"], "wrong": 0}
    (found / "perfect/results.json").write_text(json.dumps(results))
    (found / "perfect.json").write_text(json.dumps(kept))


def rows(done: Outcome) -> dict[str, Row]:
    """Return what is limited, in the words of messages, and how that ended."""
    return {
        f"{one['name']} of {one['about']}".removesuffix(" of "): (one["found"], one["passed"])
        for one in done.json()["gate"]
    }


def require(done: Outcome, expected: dict[str, float], *, failing: Sequence[str] = ()) -> None:
    """Require an exit code that fits, and of every limit what was found and how it ended."""
    assert done.code == (6 if failing else 0), done.err
    assert rows(done) == {
        key: (pytest.approx(value), key not in failing) for key, value in expected.items()
    }
    for key in failing:
        assert f"{key}: at " in done.error()["message"]


def values(cells: Sequence[Cell], measure: str) -> dict[str, float]:
    """Return what a class has where it was taught, worked out by hand."""
    found = {}
    for cell in (one for one in cells if one.taught):
        for name, shown in cell.deployed.classes.items():
            f1 = 2 * shown.found / (shown.objects + shown.found + shown.wrong)
            ap50 = cell.ap50[name]
            assert ap50 is not None
            found[f"{name} in {cell.domain}"] = f1 if measure == "f1" else ap50
    return found


def drops(before: Sequence[Cell], now: Sequence[Cell], measure: str) -> dict[str, float]:
    """Return the points that each class lost."""
    earlier, later = values(before, measure), values(now, measure)
    title = "F1" if measure == "f1" else "AP50"
    return {f"{title} drop of {key}": 100 * (earlier[key] - later[key]) for key in earlier}


# ---- --max-drop and --against -----------------------------------------------------------------

BEFORES = {
    "": "before.json",  # as of when they were learned
    "run/models/short/1-day": "before.json",
    "run/increments/short/day/evaluation.json": "before.json",
    "perfect": "perfect.json",
    "perfect/results.json": "perfect.json",
    "perfect.json": "perfect.json",
}  # fmt: skip


FORMS = [("", "plain"), ("", "yaml"), ("perfect.json", "yaml")]


@pytest.mark.parametrize(
    ("against", "form"),
    [*((path, "both") for path in BEFORES), *FORMS],
    ids=lambda value: value or "nothing",
)
@pytest.mark.parametrize("command", COMMANDS)
def test_drops(
    capsys: Capture, squares: Squares, command: str, against: str, form: str, tmp_path: Path
) -> None:
    then, now = squares.cells(BEFORES[against]), squares.now(command)
    lost = {one: drops(then, now, one) for one in ("ap50", "f1")[: 2 if form == "both" else 1]}
    every = {key: value for one in lost.values() for key, value in one.items()}
    worst = {measure: max(one.values()) for measure, one in lost.items()}
    assert min(worst.values()) > 1

    def judged(less: float) -> Outcome:
        limits = {measure: value - less for measure, value in worst.items()}
        if form == "yaml":
            named = {"against": str(squares / against)} if against else {}
            (tmp_path / "gate.yaml").write_text(
                yaml.safe_dump({"max_drop": limits["ap50"], **named})
            )
            return duet_here(capsys, *squares.command(command, "--gate", tmp_path / "gate.yaml"))
        words = ",".join(f"{measure}={value}" for measure, value in limits.items())
        named = ["--against", squares / against] if against else []
        drop = words if form == "both" else limits["ap50"]
        return duet_here(capsys, *squares.command(command, "--max-drop", drop, *named))

    if command == "compare" and "models" in against:
        done = judged(0)
        assert done.code == 2
        assert "no data here to measure a detector on" in done.error()["message"]
    elif command == "merge" and not against:
        done = judged(0)
        assert done.code == 6
        assert "nothing to compare with: give --against" in done.error()["message"]
    else:
        require(judged(0), every)
        failing = [k for one, rows in lost.items() for k, v in rows.items() if v > worst[one] - 0.5]
        require(judged(0.5), every, failing=failing)


@pytest.mark.parametrize("command", ["run", "increment", "eval"])
def test_the_detector_itself_loses_nothing(capsys: Capture, squares: Squares, command: str) -> None:
    """Without ``--against``, or with another detector, classes are lost."""
    words = ["--max-drop", "ap50=0,f1=0", "--against", squares / "run/models/short/2-night"]
    now = squares.now(command)
    lost = drops(now, now, "ap50") | drops(now, now, "f1")
    require(duet_here(capsys, *squares.command(command, *words)), lost)


# ---- --min ------------------------------------------------------------------------------------


def retained(before: Sequence[Cell], now: Sequence[Cell]) -> dict[str, float]:
    """Return RI and FR, worked out by hand: one old increment, all its classes labelled."""
    (then,) = (one for one in before if one.domain == "day")
    (last,) = (one for one in now if one.domain == "day" and one.taught)
    assert then.map50
    assert last.map50 is not None
    recalls = [
        sum(one.found for one in cell.deployed.classes.values())
        / sum(one.objects for one in cell.deployed.classes.values())
        for cell in (then, last)
    ]
    return {"ri": last.map50 / then.map50, "fr": recalls[1] / recalls[0]}


@pytest.mark.parametrize("index", ["ri", "fr", "map50"])
@pytest.mark.parametrize("command", COMMANDS)
def test_least_values(capsys: Capture, squares: Squares, command: str, index: str) -> None:
    now = squares.now(command)
    expected = {
        "RI": retained(squares.cells("before.json"), now)["ri"],
        "FR": retained(squares.cells("before.json"), now)["fr"],
    }
    expected = {index.upper(): expected[index.upper()]} if index != "map50" else {}
    if index == "map50":
        taught = [one for one in now if one.taught]
        expected = {f"mAP50 of {one.domain}[{', '.join(one.ap50)}]": one.map50 for one in taught}
    least = min(expected.values())
    assert least < 0.99
    against = ["--against", squares / "before.json"] if command == "merge" else []

    def judged(limit: float) -> Outcome:
        return duet_here(
            capsys, *squares.command(command, "--min", f"{index}={limit}", *against)
        )  # fmt: skip

    require(judged(least), expected)
    failing = [key for key, value in expected.items() if value < least + 0.01]
    require(judged(least + 0.01), expected, failing=failing)


# ---- limits of classes and domains, and cells ---------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_limits_of_classes_and_domains(
    capsys: Capture, squares: Squares, command: str, tmp_path: Path
) -> None:
    now, then = squares.now(command), squares.cells("before.json")
    ap50, lost = values(now, "ap50"), drops(then, now, "ap50")
    pairs = {one.domain: one.deployed.doubles for one in now if one.taught}
    (night,) = (one for one in now if one.domain == "night" and one.taught)
    expected = {
        f"mAP50 of night[{', '.join(NEW)}]": night.map50,
        "AP50 of red in day": ap50["red in day"],
        **lost,
        **{f"double boxes of {domain}": found for domain, found in pairs.items()},
    }
    file = tmp_path / "gate.yaml"

    def judged(green: float, red: float, map50: float) -> Outcome:
        gate = {
            "against": str(squares / "before.json"),
            "max_drop": 0, "max_double": max(pairs.values()),
            "classes": {"green": {"max_drop": green}, "red": {"min": {"ap50": red}}},
            "domains": {"day": {"max_drop": 100}, "night": {"min": {"map50": map50}}},
        }  # fmt: skip
        file.write_text(yaml.safe_dump(gate))
        return duet_here(capsys, *squares.command(command, "--gate", file))

    green = lost["AP50 drop of green in day"]
    require(judged(green, ap50["red in day"], night.map50), expected)
    failing = ["AP50 drop of green in day"]
    require(judged(green - 1, ap50["red in day"], night.map50), expected, failing=failing)


@pytest.mark.parametrize("command", COMMANDS)
def test_named_cells_count(capsys: Capture, squares: Squares, command: str, tmp_path: Path) -> None:
    """Old classes have no object in the new domain: nothing can be measured of them there."""
    gate = {"domains": {"night": {"min": {"map50": 0}}}}
    for cells, code in (({}, 0), ({"night": list(OLD)}, 6)):
        (tmp_path / "gate.yaml").write_text(yaml.safe_dump({**gate, "cells": cells}))
        done = duet_here(capsys, *squares.command(command, "--gate", tmp_path / "gate.yaml"))
        assert done.code == code
    assert rows(done)[f"mAP50 of night[{', '.join(OLD)}]"] == (None, False)
    assert "no labelled object" in done.error()["message"]


# ---- what is not measured ----------------------------------------------------------------------


@pytest.mark.parametrize("against", [*BEFORES, "run"], ids=lambda value: value or "nothing")
def test_other_splits_are_no_measurement(capsys: Capture, squares: Squares, against: str) -> None:
    words = ["--split", "train", "--max-drop", "ap50=100,f1=100", "--min", "ri=0"]
    words += ["--against", squares / against] if against else []
    done = duet_here(capsys, *squares.command("eval", *words))
    if "models" in against:  # a detector is measured on the same images
        assert done.code == 0, done.err
        return
    assert done.code == 6
    assert {found for found, _ in rows(done).values()} == {None}
    assert all("now train, before val" in one["why"] for one in done.json()["gate"])


def test_increments_without_memory_fail(capsys: Capture, squares: Squares, tmp_path: Path) -> None:
    """The classes of the other increment are compared all the same."""
    shutil.copytree(squares / "run", tmp_path / "run")
    (tmp_path / "run/increments/short/day/evaluation.json").unlink()
    command = ["eval", tmp_path / "run/models/short/2-night", squares / "series.yaml", "--json"]
    done = duet_here(capsys, *command, "--max-drop", 100)
    assert done.code == 6
    assert rows(done) == {f"AP50 drop of {name} in day": (None, False) for name in OLD}
    for one in done.json()["gate"]:
        assert one["why"] == "day remembers nothing of its stage: give --against BEFORE"
    done = duet_here(capsys, *command, "--max-drop", 100, "--against", squares / "before.json")
    assert done.code == 0


def test_data_that_are_gone_are_named(capsys: Capture, squares: Squares, tmp_path: Path) -> None:
    for name in ("series.yaml", "schedule.yaml", "base.safetensors"):
        shutil.copy(squares / name, tmp_path)
    shutil.copytree(squares / "night", tmp_path / "night")
    command = ["eval", squares / "run/models/short/1-day", tmp_path / "series.yaml", "--json"]
    done = duet_here(capsys, *command)
    assert done.code == 3
    assert "can be read" in done.error()["message"]
    assert f"day: {tmp_path}" in done.error()["message"]
    assert "rename" not in str(done.error())
    config = yaml.safe_load((tmp_path / "series.yaml").read_text())
    config["increments"][0]["classes"] = ["cyan"]
    (tmp_path / "series.yaml").write_text(yaml.safe_dump(config))
    done = duet_here(capsys, *command)
    assert done.code == 3
    assert f"the series has {', '.join((*NEW, 'cyan'))}" in done.error()["message"]
