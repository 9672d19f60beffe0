"""`duet env` and `duet completion`: facts for a report of a bug, words for a shell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from factories_run import ENTRY, duet_here

import duet
from duet import environment
from duet.merging.table import METHODS


def test_the_environment_as_text_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    done = duet_here(capsys, "env", "--json")
    assert (done.code, done.err) == (0, "")
    facts = done.json()
    assert facts == json.loads(json.dumps(environment.environment()))
    assert facts["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["threads"]["torch"] == torch.get_num_threads()
    assert facts["devices"][0] == {"device": "cpu"}
    assert facts["processor"]["torch_uses"] == torch.backends.cpu.get_cpu_capability()
    assert {"yolo", "rtdetr", "dfine"} <= set(facts["families"])
    text = duet_here(capsys, "env").out
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert facts["processor"]["torch_uses"] in text


def test_extras_are_told_apart_from_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "torch>=2.6", "no-such-package>=1", "duet-detect[demo,dfine]; extra == 'dev'",
        "pytest>=8; extra == 'dev'", "resvg-py>=0.5; extra == 'demo'",
        'no-such-other; extra == "track"',
    ]  # fmt: skip
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    core, extras = environment._packages()
    assert list(core) == ["torch", "no-such-package"]
    assert core["no-such-package"] is None
    assert extras["demo"]["resvg-py"]
    assert extras == {"demo": extras["demo"], "track": {"no-such-other": None}}


def test_nobody_is_named_by_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path(duet.__file__).parent.parent)
    folders = environment.environment()["folders"]
    assert folders["package"] == "~/duet"


def test_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    about = SimpleNamespace(name="NVIDIA H200", total_memory=150e9, major=9, minor=0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda number: about)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    told = "device     cuda:0: NVIDIA H200, 150 GB, compute 9.0, CUDA 13.0\n"
    assert told in duet_here(capsys, "env").out


# ---- completion ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_reads(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    done = duet_here(capsys, "completion", shell)
    assert done.code == 0, done.err
    assert "_DUET_COMPLETE" in done.out
    program = shutil.which(shell)
    if program is not None:
        (tmp_path / "script").write_text(done.out)
        subprocess.run([program, "-n", tmp_path / "script"], check=True)


def test_an_unknown_shell_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert duet_here(capsys, "completion", "cmd").code == 2


def offered(words: str) -> list[tuple[str, str]]:
    """Return what the script for bash would be told: kinds and words."""
    done = subprocess.run(
        ENTRY,
        env={
            **os.environ,
            "_DUET_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        },
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return [(kind, word) for kind, _, word in (s.partition(",") for s in done.stdout.split())]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("duet dro", [("plain", "drop-class")]),
        ("duet weights g", [("plain", "get")]),
        ("duet merge --method tie", [("plain", "ties")]),
        ("duet methods ", [("plain", name) for name in METHODS]),
        ("duet merge --weights yolo11n-e", [("file", "yolo11n-e"), ("plain", "yolo11n-emoji")]),
        ("duet scale --weights rtd", [("file", "rtd"), ("plain", "rtdetr-tiny-emoji")]),
        ("duet weights get yolo11n", [("file", "yolo11n"), ("plain", "yolo11n-emoji"),
                                      ("plain", "yolo11n")]),
        ("duet run --strategy frozen-", [("file", "frozen-"), ("plain", "frozen-long")]),
    ],
)  # fmt: skip
def test_words_are_offered(words: str, expected: list[tuple[str, str]]) -> None:
    assert offered(words) == expected
