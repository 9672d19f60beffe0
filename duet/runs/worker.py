"""One training job in a process of its own: `python -m duet.runs.worker FOLDER`.

A fresh process per stage keeps the engine's process-wide state (seeds, threads, patched modules)
from leaking between stages, frees its memory, and lets independent stages use the other cores.
Progress goes to stdout as JSON lines; the process ends itself when its parent is gone, so that a
killed run leaves nobody writing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from duet.errors import DuetError

_ERRORS = {cls.exit_code: cls for cls in DuetError.__subclasses__()}
PARENT_POLL = 0.5  # seconds between looks at the parent
STOP_POLL = 0.2  # seconds between looks at a child


def run_worker(
    folder: Path, progress: Callable[[dict[str, Any]], None], stop: threading.Event
) -> None:
    """Run the job in ``folder`` in a child process and wait for it.

    Args:
        folder: A job folder (`duet.training.job`).
        progress: Called with each progress record, from the calling thread.
        stop: When set, the child is killed.

    Raises:
        DuetError: Of the class, and with the words, that the child reported.
    """
    if stop.is_set():
        raise DuetError("stopped", remedy="the same command resumes")
    folder = folder.resolve()  # the engine puts relative folders somewhere of its own
    command = [sys.executable, "-m", "duet.runs.worker", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    log = folder / "stderr.log"
    with log.open("w") as errors:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL,
            text=True, env=environment,
        )  # fmt: skip
        threading.Thread(target=_kill_when, args=(stop, child), daemon=True).start()
        try:
            failure = _follow(child, progress)
            code = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    if stop.is_set() and code:
        raise DuetError("stopped", remedy="the same command resumes")
    if failure is not None:
        raise _ERRORS.get(failure["exit_code"], DuetError)(
            failure["message"], where=failure["where"], remedy=failure["suggestion"]
        )
    if code:
        tail = " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
        raise DuetError(
            f"the training process ended with code {code}: {tail}",
            where=str(folder),
            remedy=f"the whole message is in {log}; the same command resumes",
        )


def _kill_when(stop: threading.Event, child: subprocess.Popen[str]) -> None:
    """Kill ``child`` as soon as ``stop`` is set; it may be silent for long (imports, caching)."""
    while child.poll() is None:
        if stop.wait(STOP_POLL):
            child.kill()


def _follow(child: subprocess.Popen[str], progress: Callable[[dict[str, Any]], None]) -> Any:
    """Hand on progress records; return the child's error record, if it sent one."""
    failure = None
    assert child.stdout is not None
    for line in child.stdout:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # a print of the engine's
        if "error" in record:
            failure = record
        else:
            progress(record)
    return failure


def _die_with(parent: int) -> None:
    """End this process as soon as ``parent`` is no longer its parent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL)
        os._exit(130)

    threading.Thread(target=watch, daemon=True).start()


def main(folder: Path) -> int:
    """Run the job; return the exit code."""
    _die_with(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends us
    out = sys.stdout
    sys.stdout = sys.stderr  # whatever the engine prints must not mix with the records

    def send(record: dict[str, Any]) -> None:
        out.write(json.dumps(record) + "\n")
        out.flush()

    from duet.families.table import resolve_family
    from duet.training.job import read_job

    try:
        resolve_family(read_job(folder).family).train(folder, send)
    except DuetError as error:
        send(error.as_dict())
        return error.exit_code
    except OSError as error:
        what, where = f"the file system refuses: {error.strerror or error}", str(folder)
        remedy = "free some disk space or choose another folder; the same command resumes"
        send(DuetError(what, where=error.filename or where, remedy=remedy).as_dict())
        return DuetError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
