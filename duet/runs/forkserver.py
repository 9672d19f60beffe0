"""The server that forks the processes of trainings; `duet.runs.forks` starts it and tells it jobs.

Forking copies one thread and no driver. So the server has neither: it touches no device, and a
child of a server that is not as it must be starts a Python of its own in its place.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from duet.runs.worker import ENGINE, PARENT_POLL, command, main

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # read at import


@dataclass(frozen=True)
class _Request:
    """A job that somebody asked for: what a process of its own would have been started with."""

    folder: Path
    environment: dict[str, str]
    out: int
    errors: int


def serve(first: str, control: int, parent: int) -> int:
    """Fork for each job that comes, until the run ends; return the exit code, also of a job.

    Args:
        first: A job; what trainings of its family import is imported beforehand.
        control: Descriptor of the socket that brings jobs.
        parent: Number of the run's process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the run, which ends us
    server = _Server(socket.socket(fileno=control), parent, Path(first))
    request = server.run()
    if request is None:
        return 0
    return main(str(request.folder), server.number)


class _Server:
    """Waits for jobs, for their ends, and for that of the run.

    Attributes:
        number: Its process number, which is that of a job's parent.
    """

    def __init__(self, control: socket.socket, parent: int, first: Path) -> None:
        self.number = os.getpid()
        self._control, self._parent = control, parent
        self._began = dict(os.environ)
        self._whole = _imported(first) and len(os.listdir("/proc/self/task")) == 1
        self._made = {k: v for k, v in os.environ.items() if self._began.get(k) != v}
        # Never looked through again, so that memory stays shared with the jobs.
        gc.collect()
        gc.freeze()
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._jobs: dict[int, tuple[int, socket.socket]] = {}

    def run(self) -> _Request | None:
        """Serve. Returns more than once: None at the end, and in each child what it has to do."""
        with contextlib.suppress(OSError):  # the run is gone, which is seen below
            self._control.sendall(b"ready")
        while os.getppid() == self._parent:
            for key, _ in self._selector.select(PARENT_POLL):
                if key.fileobj is self._control:
                    link = _received(self._control)
                    if link is None:
                        self._end()
                        return None
                    if request := self._fork(link):
                        return request
                elif isinstance(key.fileobj, socket.socket):  # its run has closed it, or is gone
                    self._selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)
                elif key.data in self._jobs:
                    self._reap(key.data)
        self._end()
        return None

    def _fork(self, link: socket.socket) -> _Request | None:
        """Fork for a job; return it in the child alone."""
        request = _read(link)
        if request is None:
            link.close()
            return None
        child = os.fork()
        if not child:
            self._become(request, link)
            return request
        os.close(request.out)
        os.close(request.errors)
        ended = os.pidfd_open(child)
        self._selector.register(link, selectors.EVENT_READ, child)
        self._selector.register(ended, selectors.EVENT_READ, child)
        self._jobs[child] = ended, link
        return None

    def _become(self, request: _Request, link: socket.socket) -> None:
        """Turn this process, a child, into what `duet.runs.worker.alone` would have started."""
        self._selector.close()
        self._control.close()
        link.close()
        for ended, other in self._jobs.values():
            os.close(ended)
            other.close()
        for source, target in ((request.out, 1), (request.errors, 2)):
            os.dup2(source, target)
            os.close(source)
        os.chdir(request.folder / ENGINE)
        words = command(request.folder)
        words[-1] = str(self.number)
        if not self._fits(request.environment):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execve(words[0], words, request.environment)
        os.environ.clear()
        os.environ.update(request.environment | self._made)
        sys.argv[:] = ["-c", *words[3:]]
        _draw_anew()

    def _fits(self, environment: dict[str, str]) -> bool:
        """Tell whether this child can be the process of a job."""
        import torch

        bad: Callable[[], bool] = getattr(torch._C, "_cuda_isInBadFork", lambda: False)
        same = all(environment.get(name) == self._began.get(name) for name in _THREADS)
        return self._whole and same and not bad()

    def _reap(self, child: int) -> None:
        """Tell a job's exit code, and forget it."""
        ended, link = self._jobs.pop(child)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(KeyError):
            self._selector.unregister(link)
        self._selector.unregister(ended)
        os.close(ended)
        with contextlib.suppress(OSError):  # nobody may be there to hear it
            link.sendall(str(code).encode())
        link.close()

    def _end(self) -> None:
        """Let no job outlive the run."""
        for child in list(self._jobs):
            os.kill(child, signal.SIGKILL)
            self._reap(child)


def _draw_anew() -> None:
    """Give this process chance of its own; Python's `random` does so by itself."""
    import numpy as np
    import torch

    np.random.seed()
    torch.default_generator.seed()


def _imported(first: Path) -> bool:
    """Import what trainings like a job's do; False if something fails, which is the job's to tell.

    Half of a package is not what the job would have found in a process of its own.
    """
    from duet.families.table import row_of
    from duet.training.job import read_job

    try:
        row = row_of(read_job(first).family)
        for module in (row.module, *row.trains_with):
            importlib.import_module(module)
    except Exception:
        return False
    return True


def _received(control: socket.socket) -> socket.socket | None:
    """Return the socket of the next job; None if none will come."""
    try:
        _, found, _, _ = socket.recv_fds(control, 1, 1)
    except OSError:
        return None
    return socket.socket(fileno=found[0]) if found else None


def _read(link: socket.socket) -> _Request | None:
    """Read what a job is; None if the run ended before it had said that."""
    said, found, _, _ = socket.recv_fds(link, 65536, 2)
    while said and not said.endswith(b"\n"):
        more = link.recv(65536)
        if not more:
            said = b""
        said += more
    if not said or len(found) != 2:
        for descriptor in found:
            os.close(descriptor)
        return None
    about = json.loads(said)
    return _Request(Path(about["folder"]), about["environment"], *found)
