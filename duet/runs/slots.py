"""So much of a run at a time: what everything else waits for goes first."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHAIN, REFERENCE, LOOK = range(3)
"""Ranks: a chain is one training after the other, so nothing can make up for its waiting. What is
looked at is short, and so fills the end."""

_LOCKS: dict[Path, threading.Lock] = defaultdict(threading.Lock)
_GUARD = threading.Lock()


def one_at_a_time(place: Path) -> threading.Lock:
    """Return the lock of a file or folder: runs of this process, side by side, may share some."""
    with _GUARD:
        return _LOCKS[place]


class Slots:
    """Lets in at most so many; those who wait by rank, then in the order of asking."""

    def __init__(self, number: int) -> None:
        """Begin with nobody in.

        Args:
            number: How many may be in at a time.
        """
        self._free = number
        self._turn = threading.Condition()
        self._waiting: list[tuple[int, int]] = []
        self._order = itertools.count()

    @contextmanager
    def taken(self, rank: int) -> Iterator[None]:
        """Wait for a place, and hold it."""
        with self._turn:
            mine = (rank, next(self._order))
            heapq.heappush(self._waiting, mine)
            self._turn.wait_for(lambda: self._free > 0 and self._waiting[0] == mine)
            heapq.heappop(self._waiting)
            self._free -= 1
            self._turn.notify_all()  # there may be another free one for the next
        try:
            yield
        finally:
            with self._turn:
                self._free += 1
                self._turn.notify_all()
