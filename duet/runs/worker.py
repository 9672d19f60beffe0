"""One training job in a process of its own.

A fresh process per stage keeps the engine's process-wide state (seeds, threads, patched modules)
from leaking between stages, frees its memory, and lets independent stages use the other cores.
`duet.runs.forks` has such processes begin with everything imported, where a system can do that.
Progress goes to stdout as JSON lines; the process knows its parent from the start and ends when
that is gone, so that a killed run leaves nobody writing.

Python puts the working folder first on the path of what is started with ``-m`` or ``-c``, and so
would run a ``json.py`` that lies beside somebody's images. The worker and all that it starts (the
engine's launcher for several GPUs, loading processes) therefore work in an empty folder of the job
and look for modules where this process found duet, and where Python itself looks.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol, TextIO

from duet.errors import DataError, DuetError, write_remedy
from duet.files import vacated

if TYPE_CHECKING:
    from duet.training.job import Progress

_SAFE = "import sys; sys.path[:] = [place for place in sys.path if place] + [sys.argv[2]]; "
_BEGIN = "from duet.runs.worker import main; sys.exit(main(sys.argv[1], int(sys.argv[3])))"
ENGINE = "engine"
"""Sub-folder of a job for what the engine writes; nothing in it outlives the process."""
_SEARCHED = ("PYTHONPATH", "LD_LIBRARY_PATH")  # an empty entry is the working folder
PARENT_POLL = 0.5  # seconds between looks at the parent
STOP_POLL = 0.2  # seconds between looks at a child


class Child(Protocol):
    """What is asked of the process of a job; `subprocess.Popen` has it all.

    Attributes:
        stdout: Where its progress records come from.
    """

    stdout: IO[str] | None

    def poll(self) -> int | None:
        """Return the exit code, of a signal as a negative number; None while it runs."""

    def wait(self) -> int:
        """Wait for the end; return the exit code."""

    def kill(self) -> None:
        """End it at once; nothing happens if it has ended."""

    def __enter__(self) -> Child: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...  # fmt: skip


def alone(folder: Path, errors: TextIO) -> Child:
    """Start the job in ``folder`` in a fresh process, whose stderr is ``errors``."""
    return subprocess.Popen(
        command(folder), stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL,
        text=True, env=environment(), cwd=folder / ENGINE,
    )  # fmt: skip


def run_worker(
    folder: Path,
    progress: Callable[[dict[str, Any]], None],
    stop: threading.Event,
    begin: Callable[[Path, TextIO], Child] = alone,
) -> None:
    """Run the job in ``folder`` in a child process and wait for it.

    Args:
        folder: A job folder (`duet.training.job`).
        progress: Called with each progress record, from the calling thread.
        stop: When set, the child is killed.
        begin: Starts the process of a job; its working folder is the sub-folder `ENGINE`.

    Raises:
        DuetError: Of the class, and with the words, that the child reported.
    """
    if stop.is_set():
        raise DuetError("stopped", remedy="the same command resumes")
    folder = folder.resolve()  # the engine puts relative folders somewhere of its own
    log = folder / "stderr.log"
    _empty(folder / ENGINE)
    with vacated(log).open("x") as errors, begin(folder, errors) as child:
        threading.Thread(target=_kill_when, args=(stop, child), daemon=True).start()
        try:
            failure = _follow(child, progress)
            code = child.wait()
        finally:
            child.kill()
    if stop.is_set() and code:
        raise DuetError("stopped", remedy="the same command resumes")
    if failure is not None:
        raise DuetError.from_dict(failure)
    if code < 0 and not log.read_bytes().strip():  # nobody else tells of a process that was killed
        raise DuetError(
            f"the training process was killed by signal {-code}",
            where=str(folder),
            remedy="if it was the system, for want of memory: a smaller batch or fewer --jobs; the "
            "same command resumes",
        )
    if code:
        tail = " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
        raise DuetError(
            f"the training process ended with code {code}: {tail}",
            where=str(folder),
            remedy=f"the whole message is in {log}; the same command resumes",
        )


def command(folder: Path) -> list[str]:
    """Return the command line of a worker that ends with this process.

    Args:
        folder: The job, absolute.
    """
    return python(_BEGIN, folder, os.getpid())


def python(code: str, folder: Path, *more: int) -> list[str]:
    """Return the command line of a Python that finds duet and nothing in its working folder.

    Args:
        code: What it does. ``sys.argv[1]`` is ``folder``; ``more`` begins at ``sys.argv[3]``.
        folder: What it is about, for whoever lists processes, too.
        more: Numbers.
    """
    place = Path(__file__).resolve().parents[2]
    return [sys.executable, "-c", _SAFE + code, str(folder), str(place), *map(str, more)]


def environment() -> dict[str, str]:
    """Return this process's environment, without a word for the working folder in it."""
    searched = {name: os.environ.get(name, "").split(os.pathsep) for name in _SEARCHED}
    return {
        **os.environ,
        **{name: os.pathsep.join(os.path.abspath(place) for place in places if place)
           for name, places in searched.items()},
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "PYTHONSAFEPATH": "1",  # from Python 3.11 on; before, the working folder is empty
    }  # fmt: skip


def _empty(folder: Path) -> None:
    """Make ``folder`` anew, whatever a killed process, or somebody else, left in its place."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()


def _kill_when(stop: threading.Event, child: Child) -> None:
    """Kill ``child`` as soon as ``stop`` is set; it may be silent for long (imports, caching)."""
    while child.poll() is None:
        if stop.wait(STOP_POLL):
            child.kill()


def _follow(child: Child, progress: Callable[[dict[str, Any]], None]) -> Any:
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
    """End this process as soon as the process ``parent`` is gone; at once if it is already."""
    alive = _alive_on_windows(parent) if os.name == "nt" else lambda: os.getppid() == parent

    def watch() -> None:
        while alive():
            time.sleep(PARENT_POLL)
        os._exit(130)

    if not alive():
        os._exit(130)
    threading.Thread(target=watch, daemon=True).start()


def _alive_on_windows(parent: int) -> Callable[[], bool]:
    """Return whether a process still runs, told from a later one with the same number."""
    import psutil  # there, an orphan keeps the number of its parent

    try:
        process = psutil.Process(parent)
    except psutil.NoSuchProcess:
        return lambda: False
    return lambda: bool(process.is_running())


def main(job: str, parent: int) -> int:
    """Run the job in the folder ``job`` for the process ``parent``; return the exit code."""
    _die_with(parent)
    folder = Path(job)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends us
    out = sys.stdout
    sys.stdout = sys.stderr  # whatever the engine prints must not mix with the records

    def send(record: dict[str, Any]) -> None:
        out.write(json.dumps(record) + "\n")
        out.flush()

    try:
        train_job(folder, send)
        return 0
    except DuetError as error:
        failure = _without_traceback(error)
    except OSError as error:
        failure = _explained(error, folder)
    send(failure.as_dict())
    return failure.exit_code


def train_job(folder: Path, progress: Progress) -> None:
    """Run the job in ``folder`` in this process: by its family's trainer, or if it mends, by ours.

    Raises:
        DuetError: The training failed.
    """
    from duet.families.table import resolve_family
    from duet.mending.learner import mend
    from duet.training.job import read_job

    job = read_job(folder)
    train = mend if job.phase == "mend" else resolve_family(job.family).train
    train(folder, progress)


def _without_traceback(error: DuetError) -> DuetError:
    """Return an error that torch hands over from a loading process, without where it was raised."""
    found = re.match(
        r"Caught \w+ in DataLoader worker process.*\n[\w.]+Error: (.*)", error.what, re.S
    )
    return type(error)(found[1].strip(), where=error.where) if found else error


def _explained(error: OSError, folder: Path) -> DuetError:
    """Tell an image that is gone from a file system that refuses to write."""
    place = Path(error.filename) if isinstance(error.filename, str) else folder
    if isinstance(error, FileNotFoundError) and not place.is_relative_to(folder):
        return DataError(
            "the file is gone", where=str(place), remedy="put it back; the same command resumes"
        )
    return DuetError(
        f"the file system refuses: {error.strerror or error}",
        where=str(place),
        remedy=f"{write_remedy(error)}; the same command resumes",
    )
