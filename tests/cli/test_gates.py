"""Gates in every command that measures: they pass, they fail with exit 6, and all is written."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import factories_run as make
import pytest
import yaml
from factories_compare import write_run
from factories_run import NEW, OLD, Outcome, duet_here
from places import REPO

import duet
from duet.errors import ConfigError, GateError
from duet.evaluation.cells import Cell
from duet.evaluation.gate import Gate
from duet.objects.evaluation import Evaluation


def limits(done: Outcome) -> dict[str, tuple[Any, bool]]:
    return {
        f"{one['name']} {one['about']}".strip(): (one["found"], one["passed"])
        for one in done.json()["gate"]
    }


def same_but_better(evaluation: Path, target: Path) -> Path:
    """Write an evaluation that found everything that this one had to find."""
    document = json.loads(evaluation.read_text())
    for cell in document["cells"]:
        for name, value in cell["ap50"].items():
            if value is not None:
                cell["ap50"][name] = 1.0
                counted = cell["deployed"]["classes"][name]
                counted["found"] = counted["objects"]
    target.write_text(json.dumps(document))
    return target


@pytest.fixture(scope="module")
def evaluated(
    base: Path, run: Path, series: make.Tiny, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Evaluate the base, once."""
    path = tmp_path_factory.mktemp("gates") / "before.json"
    model = run / "models/duet-plus/1-flat"
    done = make.duet(base, "eval", model, series.series, "--out", path, "--json")
    assert done.code == 0, done.err
    assert done.json() == json.loads(path.read_text())
    return path


# ---- eval -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_evaluation_is_compared_with_a_kept_one(
    capsys: pytest.CaptureFixture[str], run: Path, series: make.Tiny, evaluated: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    model = run / "models/duet-plus/2-comic"
    words = ["eval", model, series.series, "--max-drop", "ap50=5,f1=5", "--json", "--against"]
    cells = json.loads(evaluated.read_text())["cells"]
    old = {n: v for cell in cells if cell["taught"] for n, v in cell["ap50"].items()}
    assert set(old) == set(OLD)
    better = same_but_better(evaluated, tmp_path / "better.json")
    done = duet_here(capsys, *words, better)
    assert done.code == 6
    found = limits(done)
    assert set(found) == {f"{kind} drop {name} in flat" for kind in ("AP50", "F1") for name in OLD}
    there = [name for name in OLD if old[name] is not None]
    assert all(found[f"AP50 drop {name} in flat"][0] > 90 for name in there)
    assert done.error()["error"] == "gate"
    # A class without an object is not measured, unless nothing is asked of it.
    done = duet_here(capsys, *words, evaluated)
    unmeasured = {key for key, (value, _) in limits(done).items() if value is None}
    kinds = ("AP50", "F1")
    assert unmeasured == {
        f"{kind} drop {name} in flat" for kind in kinds for name in OLD if name not in there
    }
    assert done.code == (6 if unmeasured else 0)
    gate = tmp_path / "gate.yaml"
    gate.write_text(yaml.safe_dump({"classes": {name: {"max_drop": {"f1": 5}} for name in there}}))
    words = ["eval", model, series.series, "--gate", gate, "--against"]
    assert duet_here(capsys, *words, evaluated).code == 0
    done = duet_here(capsys, *words, run / "models/duet-plus/1-flat")
    assert done.code == 0
    assert "F1 drop" in done.out
    assert "yes" in done.out
    done = duet_here(capsys, *words, better)
    assert done.code == 6
    assert "NO" in done.out


@pytest.mark.slow
def test_classes_that_were_never_labelled_in_a_domain_do_not_count_unless_named(
    capsys: pytest.CaptureFixture[str], run: Path, series: make.Tiny, tmp_path: Path
) -> None:
    words = ["eval", run / "models/duet-plus/2-comic", series.series, "--min-map50", 0, "--json"]
    done = duet_here(capsys, *words)
    assert done.code == 0
    assert len(done.json()["cells"]) == 4
    assert [key.split("[")[0] for key in limits(done)] == ["mAP50 flat", "mAP50 comic"]
    gate = tmp_path / "gate.yaml"
    gate.write_text(yaml.safe_dump({"max_double": 1000, "cells": {"comic": list(OLD)}}))
    done = duet_here(capsys, *words, "--gate", gate)
    assert done.code == 0
    assert [key.split("[")[0] for key in limits(done)] == [
        "mAP50 flat", "mAP50 comic", "mAP50 comic", "double boxes flat", "double boxes comic",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--max-drop", "ap5=3"], "did you mean 'ap50'"),
        (["--max-drop", "x"], "max_drop.ap50"),
        (["--min", "ri"], "expected NAME=NUMBER, got 'ri'"),
        (["--min", "ri=0.5,ri=0.6"], "named twice"),
        (["--min", "fri=0.5"], "no 'fri', did you mean 'ri'"),
        (["--min", "map50=2"], "less than or equal to 1"),
        (["--against", "x.json"], "sets no limit"),
        (["--gate", "missing.yaml"], "missing.yaml: cannot read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_are_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    done = duet_here(capsys, "compare", "no-such-run", *words, "--json")
    assert done.code == 2
    assert told in f"{done.error()['where']}: {done.error()['message']}"


# ---- merge ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_merge_is_measured_on_a_series(
    capsys: pytest.CaptureFixture[str], run: Path, series: make.Tiny, evaluated: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    kept = run / "increments/duet-plus"
    out = tmp_path / "merged"
    words = ["merge", kept / "flat", kept / "comic", "--weights", series.weights, "--json"]
    words += ["--out", out]
    done = duet_here(capsys, *words, "--max-double", 1000)
    assert done.code == 2
    assert "give --series SERIES.yaml" in done.error()["message"]
    assert not out.exists()
    words += ["--series", series.series]
    done = duet_here(capsys, *words, "--max-double", 1000, "--min", "map50=0")
    assert done.code == 0, done.err
    assert len(done.json()["gate"]) == 4
    done = duet_here(capsys, *words, "--overwrite", "--max-drop", 5, "--min", "ri=0")
    assert done.code == 6
    assert done.json()["detector"] == str(out)  # written before it is judged
    assert limits(done) == {"RI": (None, False), "AP50 drop any old class": (None, False)}
    assert "give --against BEFORE" in done.error()["message"]
    better = same_but_better(evaluated, tmp_path / "better.json")
    done = duet_here(
        capsys, *words, "--overwrite", "--max-drop", 5, "--split", "test", "--against", better
    )
    assert done.code == 6
    assert limits(done)[f"AP50 drop {OLD[0]} in flat"][0] > 5


# ---- base, increment and run --------------------------------------------------------------------


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copied"))


@pytest.mark.slow
def test_an_increment_is_measured_where_old_data_are_there(
    capsys: pytest.CaptureFixture[str], copied: Path, series: make.Tiny, tmp_path: Path
) -> None:
    own = make.copy_tiny(series, tmp_path / "own")
    stage = ["--out", copied, "--strategy", own.method, "--json"]
    done = duet_here(
        capsys, "base", own.series, *stage, "--max-double", 1000, "--min", "map50=0"
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [key.split("[")[0] for key in limits(done)] == ["mAP50 flat", "double boxes flat"]
    done = duet_here(capsys, "base", own.series, *stage, "--max-drop", 5)
    assert done.code == 6
    assert "no class was learned before" in done.error()["message"]
    words = ["increment", own.series, "comic", *stage, "--max-double", 1000]
    done = duet_here(capsys, *words)
    assert done.code == 0, done.err
    assert set(limits(done)) == {"double boxes flat", "double boxes comic"}
    gate = tmp_path / "gate.yaml"
    gate.write_text(yaml.safe_dump({"classes": {OLD[0]: {"max_drop": 100}}}))
    done = duet_here(capsys, *words, "--gate", gate)
    assert done.code == 0, done.err
    shutil.rmtree(own.folder / "data" / "flat")
    done = duet_here(capsys, *words, "--gate", gate)
    assert done.code == 6
    assert "flat: not measured, its data cannot be read" in done.err
    assert limits(done) == {
        f"AP50 drop {OLD[0]} in flat": (None, False),
        "double boxes comic": (limits(done)["double boxes comic"][0], True),
    }
    done = duet_here(capsys, *words, "--independent")
    assert done.code == 2


@pytest.mark.slow
def test_a_run_is_judged_after_everything_is_written(
    capsys: pytest.CaptureFixture[str], copied: Path, series: make.Tiny, tmp_path: Path
) -> None:
    words = ["run", series.series, *series.methods(), "--out", copied, "--json"]
    done = duet_here(capsys, *words, "--max-double", 1000, "--min", "map50=0")
    assert done.code == 0, done.err
    assert {one["strategy"] for one in done.json()["gate"]} == {"duet-plus"}
    (copied / "report.md").unlink()
    done = duet_here(capsys, *words, "--min", "map50=0.99,h=0.9")
    assert done.code == 6
    assert (copied / "report.md").is_file()
    assert done.json()["indices"]
    assert len(done.json()["gate"]) == 3
    gate = tmp_path / "gate.yaml"
    gate.write_text(yaml.safe_dump({"domains": {"comics": {"max_double": 3}}}))
    done = duet_here(capsys, *words, "--gate", gate, "--dry-run")
    assert done.code == 2
    assert "no domain 'comics', did you mean 'comic'?" in done.error()["message"]


# ---- compare and Python -------------------------------------------------------------------------


def test_a_comparison_judges_every_strategy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for seed in range(2):
        write_run(tmp_path / "runs" / f"seed-{seed}", seed=seed)
    words = ["compare", tmp_path / "runs", "--bootstrap", 0, "--min", "ri=0.8"]
    done = duet_here(capsys, *words)
    assert done.code == 6
    assert "In each run" in done.out
    rows = {
        line.split()[0]: line.split()[-1] for line in done.out.splitlines() if "at least" in line
    }
    assert rows == {"good": "yes", "twin": "yes", "bad": "NO"}
    assert "bad RI: at least 0.8, found" in done.err
    gate = tmp_path / "gate.yaml"
    gate.write_text("strategies: [good]\nmax_drop: 40\n")
    done = duet_here(capsys, *words, "--gate", gate, "--json")
    assert done.code == 0
    assert {one["strategy"] for one in done.json()["gate"]} == {"good"}


@pytest.mark.slow
def test_the_session_of_the_page_runs(run: Path, series: make.Tiny) -> None:
    text = (REPO / "docs" / "python.md").read_text()
    session = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0]
    known = duet.Run(run)
    names = {"duet": duet, "run": known, "detector": known.detector}
    *session, last = session.replace('"shop.yaml"', repr(str(series.series))).splitlines()
    exec("\n".join(session), names)
    assert {check.name for check in names["verdict"].checks} >= {"AP50 drop", "F1 drop", "RI"}
    with pytest.raises(GateError, match=r"RI: at least 0\.95, nothing measured"):
        exec(last, names)


def test_runs_and_evaluations_are_checked_in_python(tmp_path: Path) -> None:
    run = duet.Run(write_run(tmp_path / "run"))
    assert run.check(duet.Gate(max_drop=60, min={"ri": 0.8})).passed
    assert not run.check(duet.Gate(max_drop=60, min={"ri": 0.99})).passed
    assert run.check(duet.Gate(max_drop=0), before=run.standings).passed
    shown: dict[str, Any] = {"images": 4, "ece": None, "doubles_within": 0, "doubles_between": 1}
    cell = Cell(
        domain="comic", increment="comic", taught=True, split="test", images=4, map50=0.5, map=0.4,
        ap50={NEW[0]: 0.5}, deployed={"classes": {}, **shown},
    )  # fmt: skip
    found = Evaluation((cell,))
    assert found.check(Gate(max_double=25)).passed
    assert not found.check(Gate(max_double=24)).passed
    assert found.check(Gate(max_drop=0), before=found.standings).passed
    (tmp_path / "gate.yaml").write_text("min: {map50: 0.6}\n")
    assert not found.check(tmp_path / "gate.yaml").passed
    with pytest.raises(ConfigError, match="duet eval MODEL"):
        found.check(Gate(max_drop=5, against=tmp_path))
