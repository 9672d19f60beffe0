"""Killed and interrupted runs end in the same bits when the same command is given again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import factories_run as make
import pytest


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="session")
def report(base: Path) -> dict[str, Any]:
    """Strike one run three times: Ctrl-C to the group and to the parent alone, then a kill.

    With this seed the moments lie early enough for all three to hit the same run.
    """
    series, (run, _) = make.tiny(base), make.finished_run(base)
    command = [
        sys.executable, make.REPO / "tools/check_kill.py",
        "--kills", 1, "--interrupts", 2, "--seed", 79, "--grace", 30, "--series", series.series,
        *series.methods(), "--reference", run, "--work", base / "struck", "--json",
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


def test_ctrl_c_ends_within_seconds(report: dict[str, Any]) -> None:
    blows = [blow for blow in report["blows"] if blow["kind"].startswith("interrupt")]
    assert [blow["kind"] for blow in blows] == ["interrupt group", "interrupt parent"]
    assert all(blow["exit_code"] == 130 for blow in blows)
    assert all(blow["ended_in_s"] < 30 for blow in blows)  # 1 s on a free machine


def test_no_training_outlives_its_run(report: dict[str, Any]) -> None:
    assert len(report["blows"]) == 3
    assert all(blow["orphans"] == blow["writes"] == 0 for blow in report["blows"])


def test_no_temporary_file_is_left_in_the_lab(report: dict[str, Any], base: Path) -> None:
    assert report["finished"]
    assert not list((base / "struck").glob("struck-*/lab/*/.*"))
    assert not list((base / "struck").glob("struck-*/lab/*/checkpoint.pt"))
