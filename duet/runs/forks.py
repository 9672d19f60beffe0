"""Processes of trainings that begin with everything imported: one is made ready, the rest fork.

Four fifths of what a short job costs are imports. On Linux a run therefore keeps a server: a
process that imports what the family's trainings import, runs none of it, and forks for each job.
A job finds what it would find in a process of its own: it has that working folder, environment and
output, ends with the run, and sees nothing of jobs before it, because the server never works.

A job is a socket between the run and the server, by which it begins, is killed when the run closes
its end, whatever for, and tells its exit code. Nothing about it has a name that others could use.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TextIO

from duet.errors import DuetError
from duet.runs.lab import RunJob
from duet.runs.worker import (
    STOP_POLL,
    Child,
    alone,
    environment,
    python,
    run_worker,
)

_BEGIN = (
    "from duet.runs.forkserver import serve; "
    "sys.exit(serve(sys.argv[1], int(sys.argv[3]), int(sys.argv[4])))"
)
_GRACE = 10  # seconds in which a server ends that is asked to


@contextlib.contextmanager
def forking(run: RunJob) -> Iterator[RunJob]:
    """Give what trains jobs as ``run`` does, from the second on faster, until the end of the block.

    Args:
        run: Returned as it is, unless it is `run_worker` and the system is Linux.
    """
    if run is not run_worker or not _possible():
        yield run
        return
    forks = _Forks()
    try:
        yield forks
    finally:
        forks.close()


def _possible() -> bool:
    """Tell whether this system forks safely and lets a process be watched: Linux from 5.3 on."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


# ---- the side of the run -------------------------------------------------------------------------


def server_command(folder: Path, control: int) -> list[str]:
    """Return the command line of a server that ends with this process.

    Args:
        folder: The first job, absolute; it tells the family.
        control: Descriptor of the server's end of the socket that brings jobs.
    """
    return python(_BEGIN, folder, control, os.getpid())


class _Forks:
    """A `RunJob`; begins a server with the first job, and anew if that one was killed."""

    def __init__(self) -> None:
        self._guard, self._closed, self._unable = threading.Lock(), False, False
        self._server: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    def __call__(
        self, folder: Path, progress: Callable[[dict[str, Any]], None], stop: threading.Event
    ) -> None:
        run_worker(folder, progress, stop, functools.partial(self._begin, stop))

    def close(self) -> None:
        """End the server and whatever it still trains."""
        with self._guard:
            self._closed = True
            server, self._server = self._server, None
        if server is None:
            return
        process, control = server
        control.close()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _begin(self, stop: threading.Event, folder: Path, errors: TextIO) -> Child:
        """Have a process forked for a job; see `duet.runs.worker.alone`."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = self._send(theirs, folder, errors, stop)
        if process is None:
            ours.close()
            return alone(folder, errors)
        reader, writer = os.pipe()
        about = {"folder": str(folder), "environment": environment()}
        line = json.dumps(about).encode() + b"\n"
        with contextlib.suppress(OSError):  # the server is gone, which `wait` tells
            sent = socket.send_fds(ours, [line], [writer, errors.fileno()])
            ours.sendall(line[sent:])
        os.close(writer)
        return _Forked(ours, os.fdopen(reader), process)

    def _send(
        self, theirs: socket.socket, folder: Path, errors: TextIO, stop: threading.Event
    ) -> subprocess.Popen[bytes] | None:
        """Hand the server its end of a job; return the server's process, None if there is none."""
        with self._guard:
            if self._closed:
                raise DuetError("stopped", remedy="the same command resumes")
            if self._server is not None and self._server[0].poll() is not None:
                self._server[1].close()
                self._server = None
            if self._server is None and not self._unable:
                self._server = _start(folder, errors, stop)
                self._unable = self._server is None
            if self._server is None:
                return None
            process, control = self._server
            with contextlib.suppress(OSError):  # as above
                socket.send_fds(control, [b"j"], [theirs.fileno()])
            return process


def _start(
    folder: Path, errors: TextIO, stop: threading.Event
) -> tuple[subprocess.Popen[bytes], socket.socket] | None:
    """Start a server and wait until it is ready; None if it never is.

    What it has to say goes where the first job's errors go.

    Raises:
        DuetError: Stopped meanwhile.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            server_command(folder, theirs.fileno()), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=errors, env=environment(),
            cwd=sys.base_prefix,  # no stranger's, and it stays
            pass_fds=(theirs.fileno(),),
        )  # fmt: skip
    ready = None
    try:
        while ready is None and not stop.is_set():
            ready = _heard(ours, STOP_POLL)
    finally:
        if not ready:
            process.kill()
            process.wait()
            ours.close()
    if ready is None:
        raise DuetError("stopped", remedy="the same command resumes")
    return (process, ours) if ready else None


def _heard(link: socket.socket, seconds: float) -> bytes | None:
    """Return what comes within a time, nothing at the end of a connection; None if it is silent."""
    with selectors.DefaultSelector() as selector:
        selector.register(link, selectors.EVENT_READ)
        try:
            return link.recv(64) if selector.select(seconds) else None
        except OSError:
            return b""


class _Forked:
    """The process of a job, seen from the run: a `Child`."""

    def __init__(
        self, link: socket.socket, stdout: IO[str], server: subprocess.Popen[bytes]
    ) -> None:
        self.stdout: IO[str] | None = stdout
        self._link, self._server = link, server
        self._guard = threading.Lock()
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._told(0)

    def wait(self) -> int:
        while (code := self._told(STOP_POLL)) is None:
            pass
        return code

    def _told(self, seconds: float) -> int | None:
        """Return the code that the server tells; where it is gone, so is the job."""
        with self._guard:
            if self._code is None and (said := _heard(self._link, seconds)) is not None:
                self._code = int(said) if said else self._server.wait() or -signal.SIGKILL
            return self._code

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)

    def __enter__(self) -> _Forked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.wait()
        assert self.stdout is not None
        self.stdout.close()
        self._link.close()
