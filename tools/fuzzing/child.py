"""Run one command in a fork of a process that has everything imported, within limits."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREPARE = "prepare_pascal.py"
"""First word of the commands of tools/prepare_pascal.py."""

MOST_MEMORY_BYTES = 6 * 2**30
"""Address space that a command may add; training and exporters ask for more than they use."""

_EVEN_SO = 70
"""What a child exits with that died of something else than the command."""


@dataclass(frozen=True)
class Outcome:
    """What a command left.

    Attributes:
        code: Exit code; minus the number of the signal that ended it.
        cpu_s: CPU seconds of the command and its children.
        memory_mb: What it needed above the process that it was forked from.
        asked_network: What it wanted of the network; it has none.
    """

    code: int
    out: str
    err: str
    cpu_s: float
    wall_s: float
    memory_mb: float
    hung: bool
    asked_network: tuple[str, ...] = ()


def warm() -> None:
    """Import everything that commands import, and start no thread."""
    import importlib

    from duet.cli.main import COMMANDS, DATA_COMMANDS

    for place in {**COMMANDS, **DATA_COMMANDS}.values():
        importlib.import_module(place.split(":")[0])
    import cv2
    import torch

    import duet.families.yolo.adapter  # noqa: F401  # the engine

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for name in (
        "published.command", "duet.comparison.ranking", "duet.doctor",
        "duet.export.export", "duet.families.yolo.adapter", "duet.inference.predict",
        "duet.recipes.write", "duet.report.markdown", "duet.runs.run", "matplotlib.pyplot",
    ):  # fmt: skip
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or the first collection in a fork copies every page


def run(
    words: Sequence[str], cwd: Path, scratch: Path, *, cpu_s: float = 10.0, wall_s: float = 60.0
) -> Outcome:
    """Run a command of duet in a fork.

    Args:
        words: Its arguments; after ``!python`` code and its arguments; after `PREPARE` those of
            that tool.
        cwd: Its working folder.
        scratch: Where its output, its caches and its temporary files go.
        cpu_s: CPU seconds after which it counts as hanging.
        wall_s: Seconds after which it does.
    """
    for name in ("home", "temporary"):
        (scratch / name).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        streams = [Path(folder) / name for name in ("out", "err", "network")]
        before, began = _memory_of_self()[1] / 2**20, time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _become(words, cwd, scratch, streams, cpu_s)
        status, usage, hung = _wait(pid, began + wall_s)
        out, err = (path.read_text("utf-8", "backslashreplace") for path in streams[:2])
        asked = streams[2].read_text().splitlines() if streams[2].exists() else []
    code = os.waitstatus_to_exitcode(status)
    return Outcome(
        code, out, err, usage.ru_utime + usage.ru_stime, time.monotonic() - began,
        max(0.0, usage.ru_maxrss / 1024 - before), hung or code == -signal.SIGXCPU, tuple(asked),
    )  # fmt: skip


def _memory_of_self() -> tuple[int, int]:
    """Return the bytes of this process: addresses, and what of them is in memory."""
    with open("/proc/self/statm") as stream:
        total, resident = stream.read().split()[:2]
    return int(total) * resource.getpagesize(), int(resident) * resource.getpagesize()


def _wait(pid: int, until: float) -> tuple[int, Any, bool]:
    pause, hung = 0.002, False
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # workers that it left
            return status, usage, hung
        if time.monotonic() > until and not hung:
            hung = True
            os.killpg(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(0.05, pause * 1.5)


def _become(
    words: Sequence[str], cwd: Path, scratch: Path, streams: Sequence[Path], cpu_s: float
) -> None:
    """Be the command; never returns."""
    code = _EVEN_SO
    try:
        os.setsid()
        for number, path in enumerate(streams[:2], 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # Tests and notebooks have put streams of their own there.
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        limit = int(cpu_s) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        most = _memory_of_self()[0] + MOST_MEMORY_BYTES  # or a device read to its end takes all
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        os.chdir(cwd)
        os.environ["TMPDIR"] = tempfile.tempdir = str(scratch / "temporary")
        os.environ["XDG_CACHE_HOME"] = os.environ["HOME"] = str(scratch / "home")
        _no_network(streams[2])
        code = _call(list(words))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _call(words: list[str]) -> int:
    if words[0] == "!python":
        sys.argv = ["-c", *words[2:]]
        exec(words[1], {"__name__": "__main__"})
        return 0
    if words[0] == PREPARE:
        from published.command import prepare_command, run_tool
        from published.sets import PASCAL

        return run_tool(prepare_command(PASCAL, ""), words[1:])
    from duet.cli.main import main

    sys.argv = ["duet", *words]
    main()
    return 0


def _no_network(log: Path) -> None:
    import socket

    def refuse(*arguments: object, **_: object) -> Any:
        with log.open("a") as stream:
            stream.write(f"{arguments[-1]!r}\n")
        raise OSError(101, "the network is off here")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.getaddrinfo = socket.create_connection = refuse
