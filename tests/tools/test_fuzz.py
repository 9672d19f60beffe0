"""Spoiled inputs of the cheap kinds, and a judge that sees what it must see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import REPO

TOOLS = REPO / "tools"
CHEAP = (
    "yolo-labels", "coco-labels", "voc-labels", "voc-lists", "images", "data-yaml", "coco-yaml",
    "series", "schedule", "method", "weights", "side-file", "weights-table", "foreign-pt",
    "zip-archive", "tar-archive",
)  # fmt: skip
"""Kinds whose set-up trains nothing."""


def fuzz(tmp_path: Path, kinds: tuple[str, ...], count: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, TOOLS / "fuzz.py", "--count", str(count), "--kinds", ",".join(kinds),
         "--keep", tmp_path, "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == bool(report["findings"])
    return report


@pytest.mark.slow
def test_spoiled_inputs_are_refused_or_read_in_full(tmp_path: Path) -> None:
    report = fuzz(tmp_path, CHEAP, 64)
    assert report["mutations"] == 64
    assert report["findings"] == []
    assert {"0", "2", "3", "4"} <= set(report["codes"])


FEWER = '{"increments": [{"splits": {"train": {"ignored": 0, "objects": {"cup": 1}}}}]}'
WHOLE = FEWER.replace("0", "1")


@pytest.mark.parametrize(
    ("rules", "code", "out", "err"),
    [
        ("", 0, WHOLE, ""),
        ("", 0, FEWER, "warning: labels7.txt: line 2 is left out"),
        ("", 3, "", "Error [data]: labels7.txt: wrong"),
        ("silent", 0, FEWER, ""),
        ("traceback code unnamed", 1, "", "Traceback (most recent call last):\nKeyError: 'x'"),
        ("code", 4, "", "Error [model]: labels7.txt: wrong"),
        ("code", 3, "", "Error [config]: labels7.txt: wrong"),
        ("unsaid", 3, "", "labels7.txt"),
        ("unnamed", 3, "", "Error [data]: something is wrong"),
        ("long", 3, "", "Error [data]: labels7.txt: " + "x" * 5000),
        ("control", 3, "", "Error [data]: labels7.txt: \x1b[31m"),
        ("control", 0, WHOLE, "note: \u202e"),
    ],
)
def test_the_judge_sees(
    rules: str, code: int, out: str, err: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(TOOLS)
    from fuzzing.child import Outcome
    from fuzzing.judge import Case, judge, listing, result
    from fuzzing.kinds import KINDS

    for name in ("good", "case"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "labels7.txt").write_text("0 .5 .5 .1 .1\n1 .5 .5 .2 .2\n")
    folder = tmp_path / "case"
    case = Case("yolo-labels", folder, "labels7.txt", "", (), listing(folder))
    kind = KINDS["yolo-labels"]
    expected = result(kind, folder, Outcome(0, WHOLE, "", 0.1, 0.1, 1.0, False))
    found = judge(case, kind, Outcome(code, out, err, 0.1, 0.1, 1.0, False), expected)
    assert set(found) == set(rules.split())
