"""Windows and macOS, as far as Linux can tell: without the modules, signals and calls they lack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from factories_compare import write_run
from factories_run import tiny
from places import REPO

pytestmark = pytest.mark.slow

LACKING = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
SIGNALS = ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE", "SIGQUIT")
CALLS = (
    "chown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getpgid", "getuid", "killpg",
    "mkfifo", "posix_fallocate", "setsid", "O_NOFOLLOW",
)  # fmt: skip
WITHOUT = f"""
import builtins, json, os, platformdirs, signal, sys
for name in {SIGNALS}:
    delattr(signal, name)
for name in {CALLS}:
    delattr(os, name)
given = builtins.__import__
def guarded(name, globals=None, *rest, **more):
    asked = (globals or {{}}).get("__name__", "")
    if name.partition(".")[0] in {LACKING} and (EVERYBODY or asked.startswith("duet")):
        raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
    return given(name, globals, *rest, **more)
builtins.__import__ = guarded
for name in {LACKING}:
    sys.modules.pop(name, None)
"""
COMMANDS = """
import contextlib, io
from duet.cli.main import _run
codes = []
for words in json.loads(sys.argv[1]):
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        code = _run(words)
    codes.append([code, told.getvalue()[-2000:]])
print(json.dumps(codes))
"""
MODULES = """
import importlib, pathlib
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.py")):
    name = ".".join(path.relative_to(sys.argv[2]).with_suffix("").parts)
    if not name.endswith("__main__"):
        importlib.import_module(name.removesuffix(".__init__"))
"""


def run(code: str, *arguments: str, everybody: bool, first: str = "") -> str:
    text = f"{first}\nEVERYBODY = {everybody}\n{WITHOUT}{code}"
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPO),
        "PYTHONUTF8": "0",
        "LC_ALL": "C.UTF-8",
        "USERNAME": "somebody",
    }
    done = subprocess.run(
        [sys.executable, "-c", text, *arguments], capture_output=True, text=True, timeout=300,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("systems")


def test_light_commands_work_where_nothing_is_posix(base: Path) -> None:
    series = str(tiny(base).series)
    runs = [str(write_run(base / name)) for name in ("one", "two")]
    commands: list[list[str]] = [
        ["--help"], ["--version"], ["methods"], ["methods", "ties"], ["weights", "ls"],
        ["data", "check", series], ["data", "convert", series, str(base / "coco"), "--to", "coco"],
        ["run", series, "--dry-run", "--out", str(base / "out")], ["report", runs[0]],
        ["compare", *runs], ["log", str(base / "nothing")],
    ]  # fmt: skip
    results: list[Any] = json.loads(run(COMMANDS, json.dumps(commands), everybody=True))
    told = {" ".join(words[:2]): result for words, result in zip(commands, results, strict=True)}
    assert {name: code for name, (code, _) in told.items() if code} == {
        f"log {base / 'nothing'}": 4
    }, told


def test_every_module_can_be_imported_where_nothing_is_posix() -> None:
    # Other packages ask which system it is, and this one is no other.
    first = "import ultralytics, transformers.models.d_fine.modeling_d_fine"
    run(MODULES, str(REPO / "duet"), str(REPO), everybody=False, first=first)


LOCK = """
import pathlib
from duet.errors import DuetError
from duet.files import run_lock, write_text
folder = pathlib.Path(sys.argv[1])
with run_lock(folder):
    write_text(folder / "results.json", "{}")
    try:
        with run_lock(folder):
            print("held twice")
    except DuetError as error:
        print(error.what)
"""


def test_a_folder_is_locked_without_the_calls_of_posix(tmp_path: Path) -> None:
    assert run(LOCK, str(tmp_path), everybody=False) == "another duet process is writing here\n"
