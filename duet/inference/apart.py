"""A foreign program in a thread of its own, so that the main one hears Ctrl-C and a clock.

Python hands a signal to nobody while the main thread is inside a library, and a graph may hold a
loop without end.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

_STEP = 0.2  # seconds: on Windows a thread that waits without end hears no Ctrl-C either
_GRACE = 2.0  # seconds that the work has to end in

Jobs: TypeAlias = SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]


class Apart:
    """One thread, which does one piece of work after the other; it ends with the object.

    If the work cannot be ended, it goes on until the process ends, which waits for no such thread.
    """

    def __init__(self) -> None:
        self._jobs: Jobs = SimpleQueue()
        threading.Thread(target=_serve, args=(self._jobs,), name="duet-apart", daemon=True).start()
        weakref.finalize(self, self._jobs.put, None)

    def __call__(
        self,
        work: Callable[[], T],
        *,
        stop: Callable[[], object] = lambda: None,
        seconds: float | None = None,
    ) -> T:
        """Return what ``work`` returns, or raise what it raises.

        Args:
            work: Done in the thread.
            stop: Called when nobody waits any more, to end the work.
            seconds: How long to wait; None for without end.

        Raises:
            TimeoutError: They are over.
        """
        done: Future[T] = Future()
        self._jobs.put((work, done))
        end = None if seconds is None else time.monotonic() + seconds
        try:
            while not done.done():
                if end is not None and time.monotonic() > end:
                    raise TimeoutError
                wait((done,), _STEP)
        except BaseException:
            stop()
            wait((done,), _GRACE)  # a library that ends together with Python aborts the process
            raise
        return done.result()


def _serve(jobs: Jobs) -> None:
    while (job := jobs.get()) is not None:
        work, done = job
        try:
            done.set_result(work())
        except BaseException as error:  # shown to the caller: work never dies in silence
            done.set_exception(error)
        del job, work, done  # which hold pictures until the next one
