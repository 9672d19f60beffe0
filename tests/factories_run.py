"""The command line on a series so small that a whole run takes seconds; every run made once.

All subprocesses run without a network: an import hook refuses and logs every look-up and
connection, also in the training processes that they start.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from places import REPO

from duet.cli.main import _run
from duet.emoji.build import build
from duet.emoji.vocabulary import FOCI
from duet.families.yolo.build import stock_model
from duet.files import sha256_file
from duet.increments.base import save_base

OLD, NEW = (tuple(FOCI["2-phase"][domain]) for domain in ("flat", "comic"))
ENTRY = (sys.executable, "-c", "from duet.cli.main import main; main()")
HOOK = """\
import os, socket

def _refuse(name):
    def refused(*args, **kwargs):
        if args and getattr(args[0], "family", None) == socket.AF_UNIX:
            return original(*args, **kwargs)
        with open(os.environ["DUET_TEST_NETWORK"], "a") as log:
            log.write(f"{name} {args[1:]!r}\\n")
        raise OSError(101, "the network is off in this test")
    return refused

original = socket.socket.connect
socket.socket.connect = _refuse("connect")
socket.socket.connect_ex = _refuse("connect_ex")
socket.getaddrinfo = _refuse("getaddrinfo")
socket.gethostbyname = _refuse("gethostbyname")
socket.create_connection = _refuse("create_connection")
"""


@dataclass(frozen=True)
class Tiny:
    """A series of 24 training scenes per domain with everything a run needs."""

    folder: Path

    @property
    def series(self) -> Path:
        """The series file; its defaults name schedule, weights and architecture."""
        return self.folder / "series.yaml"

    @property
    def weights(self) -> Path:
        """Random θ_0."""
        return self.folder / "base.safetensors"

    @property
    def method(self) -> Path:
        """DuET+ with a re-fit of one epoch."""
        return self.folder / "duet-plus.yaml"

    def methods(self) -> list[str]:
        """Return the options that choose DuET+ and sequential fine-tuning."""
        return ["--strategy", str(self.method), "--strategy", "seq-ft"]


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, both streams, and requests to the network."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Return stdout as the one JSON document that it must be."""
        return json.loads(self.out)

    def error(self) -> dict[str, Any]:
        """Return the error record that `--json` puts on the last line of stderr."""
        record: dict[str, Any] = json.loads(self.err.strip().splitlines()[-1])
        assert record["exit_code"] == self.code
        assert set(record) == {"error", "message", "where", "suggestion", "exit_code"}
        return record


def once(folder: Path, make: Callable[[], object]) -> Path:
    """Have the first process that asks make ``folder``; the others wait until it is whole."""
    whole = folder.with_name(f"{folder.name}.whole")
    with folder.with_name(f"{folder.name}.making").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go of when the file is closed, or its process gone
        if not whole.exists():
            make()
            whole.touch()
    return folder


@functools.cache
def tiny(base: Path) -> Tiny:
    """Draw the series and write random start weights, once per test session."""

    def make() -> None:
        build(base / "tiny" / "data", train=24, val=8, test=16, size=64)
        write_settings(base / "tiny")

    return Tiny(once(base / "tiny", make))


def write_settings(folder: Path) -> None:
    """Write everything but the data: series, schedule, method, θ_0."""
    torch.manual_seed(0)
    state = stock_model("yolo11n.yaml", 60, 64).state_dict()
    save_base(folder / "base.safetensors", state, info={"architecture": "yolo11n.yaml"})
    files: dict[str, dict[str, Any]] = {
        "schedule": {
            "epochs": 2, "batch": 8, "image_size": 64, "lr": 0.001, "warmup_epochs": 0.5,
            "fisher_images": 4,
        },
        "duet-plus": {"name": "duet-plus", "head": "towers", "refit": {"epochs": 1}},
        "series": {
            "schema": 1, "name": "tiny", "root": "data",
            "increments": [
                {"domain": "flat", "data": "flat/data.yaml", "classes": list(OLD)},
                {"domain": "comic", "data": "comic/data.yaml", "classes": list(NEW)},
            ],
            "defaults": {"train": "schedule.yaml", "weights": "base.safetensors"},
        },
    }  # fmt: skip
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def copy_tiny(source: Tiny, folder: Path) -> Tiny:
    """Return a copy of the series that a test may damage."""
    shutil.copytree(source.folder, folder)
    return Tiny(folder)


@functools.cache
def offline(base: Path) -> dict[str, str]:
    """Return an environment without network, with caches of its own."""
    hooks = base / "hooks"

    def make() -> None:
        hooks.mkdir()
        (hooks / "sitecustomize.py").write_text(HOOK)
        (base / "network.log").touch()

    once(hooks, make)
    paths = [str(hooks), str(REPO), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "DUET_TEST_NETWORK": str(base / "network.log"),
        "XDG_CACHE_HOME": str(base / "cache"),
    }


def network_log(base: Path) -> str:
    """Return what the commands so far wanted of the network."""
    return (base / "network.log").read_text()


def duet(base: Path, *arguments: object, cwd: Path | None = None, **more: Any) -> Outcome:
    """Run a command in a process of its own, from another folder than the repository's."""
    done = subprocess.run(
        [*ENTRY, *map(str, arguments)], capture_output=True, text=True, env=offline(base),
        cwd=cwd or base, timeout=300, **more,
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout, done.stderr)


def duet_here(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """Run a command in this process, which saves importing torch; no network here either."""
    capsys.readouterr()
    refusal = OSError(101, "the network is off in this test")
    with (
        mock.patch("socket.getaddrinfo", side_effect=refusal) as look_up,
        mock.patch("socket.create_connection", side_effect=refusal) as connect,
    ):
        code = _run([str(argument) for argument in arguments])
    assert not look_up.called
    assert not connect.called
    out, err = capsys.readouterr()
    return Outcome(code, out, err)


@functools.cache
def finished_run(base: Path) -> tuple[Path, Outcome]:
    """Run the tiny series with DuET+, sequential fine-tuning and references, once per session.

    All processes read the same folder: a test that changes something copies it first.
    """
    series, said = tiny(base), base / "finished.json"

    def make() -> None:
        words = ["run", series.series, *series.methods(), "--out", base / "finished"]
        done = duet(base, *words, "--jobs", 2, "--json")
        assert done.code == 0, done.err
        said.write_text(json.dumps(asdict(done)))

    return once(base / "finished", make), Outcome(**json.loads(said.read_text()))


def detectors(run: Path) -> dict[str, str]:
    """Return the SHA-256 of every detector of a run."""
    found = sorted((run / "models").glob("*/*/model.safetensors"))
    return {str(path.parent.relative_to(run)): sha256_file(path) for path in found}


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and modification time of everything below ``folder``, locks aside."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Yield a small file system of its own; skip the test where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)
