"""Killed and interrupted runs end in the same bits when the same command is given again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import factories_run as make
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session", params=[1, pytest.param(2, marks=pytest.mark.thorough)])
def interrupts(request: pytest.FixtureRequest) -> int:
    """How many times Ctrl-C is struck: to the group, and then to the parent alone."""
    count: int = request.param
    return count


@pytest.fixture(scope="session")
def struck(base: Path, interrupts: int) -> Path:
    return base / f"struck-{interrupts}"


@pytest.fixture(scope="session")
def report(base: Path, struck: Path, interrupts: int) -> dict[str, Any]:
    """Strike one run with Ctrl-C and then with a kill.

    With this seed the moments lie early enough for all to hit the same run.
    """
    series, (run, _) = make.tiny(base), make.finished_run(base)
    command = [
        sys.executable, make.REPO / "tools/check_kill.py",
        "--kills", 1, "--interrupts", interrupts, "--seed", 79, "--grace", 30,
        "--series", series.series, *series.methods(), "--reference", run,
        "--work", struck, "--json",
    ]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=make.offline(base)
    )
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_struck_run_ends_in_the_same_detectors(report: dict[str, Any]) -> None:
    assert report["detectors"] == 4  # two methods, two stages
    assert report["finished"] >= 1
    assert report["different"] == []
    assert report["ok"]


def test_ctrl_c_ends_within_seconds(report: dict[str, Any], interrupts: int) -> None:
    blows = [blow for blow in report["blows"] if blow["kind"].startswith("interrupt")]
    kinds = ["interrupt group", "interrupt parent"]
    assert [blow["kind"] for blow in blows] == kinds[:interrupts]
    assert all(blow["exit_code"] == 130 for blow in blows)
    assert all(blow["ended_in_s"] < 30 for blow in blows)  # 1 s on a free machine


def test_no_training_outlives_its_run(report: dict[str, Any], interrupts: int) -> None:
    assert len(report["blows"]) == interrupts + 1
    assert all(blow["orphans"] == blow["writes"] == 0 for blow in report["blows"])


def test_no_temporary_file_is_left_in_the_lab(report: dict[str, Any], struck: Path) -> None:
    assert report["finished"]
    assert not list(struck.glob("struck-*/lab/*/.*"))
    assert not list(struck.glob("struck-*/lab/*/checkpoint.pt"))


# ---- the other commands --------------------------------------------------------------------------


def killed(base: Path, *options: object) -> dict[str, Any]:
    """Kill commands that work on the finished run, at random points of their work."""
    series, (run, _) = make.tiny(base), make.finished_run(base)
    command = [
        sys.executable, make.REPO / "tools/check_kill_commands.py", "--run", run,
        "--series", series.series, "--work", base / "killed", "--json", *options,
    ]  # fmt: skip
    # With a network: `weights get` asks a server on this machine.
    environment = {**os.environ, "PYTHONPATH": str(make.REPO)}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment
    )  # fmt: skip
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["ok"], done.stderr
    return found["commands"]


def test_killed_commands_finish_when_they_are_given_again(base: Path) -> None:
    names = ["merge", "convert", "fix"]
    found = killed(base, "--kills", 1, *(word for name in names for word in ("--command", name)))
    assert {name: len(record["kills"]) for name, record in found.items()} == dict.fromkeys(names, 1)


@pytest.mark.thorough
def test_every_command_survives_twenty_kills(base: Path) -> None:
    found = killed(base, "--kills", 20)
    assert len(found) == 7
    assert all(len(record["kills"]) == 20 for record in found.values())
    assert sum(kill["left"] > 0 for record in found.values() for kill in record["kills"]) > 10
