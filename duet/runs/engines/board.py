"""Progress of tasks: an actor beside the command, which asks it now and then.

It is pinned to the machine of the command: on another one it would be lost with that.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from duet.runs.engines.cluster import Cluster
from duet.training.job import Progress

ASK_EVERY = 0.5  # seconds between questions of the command
TELL_EVERY = 1.0  # seconds between steps that a task tells

Record = dict[str, Any]
Place = tuple[int, int]
"""Where ranks meet: the number of a training, and how often it was begun before."""


class Notes:
    """What tasks told and nobody has asked for yet: every note, and the last step of each."""

    def __init__(self) -> None:
        self._notes: list[tuple[int, Record]] = []
        self._steps: dict[int, Record] = {}
        self._begun: dict[int, int] = defaultdict(int)
        self._places: dict[Place, dict[int, Any]] = {}

    def begin(self, number: int, machine: str) -> None:
        """A task begins; the second time because its machine was lost."""
        self._begun[number] += 1
        if self._begun[number] > 1:
            self._notes.append((number, {"note": f"its machine was lost; again on {machine}"}))

    def tell(self, number: int, record: Record) -> None:
        """A task tells something."""
        if "done" in record:
            self._steps[number] = record
        else:
            self._notes.append((number, record))

    def meet(self, place: Place, rank: int, ranks: int, proposed: Any) -> Any:
        """Note that a rank of a training is there; return what the first brought, if all are."""
        here = self._places.setdefault(place, {})
        here[rank] = proposed
        return here[0] if len(here) == ranks else None

    def take(self) -> list[tuple[int, Record]]:
        """Return what is new."""
        found = [*self._notes, *self._steps.items()]
        self._notes, self._steps = [], {}
        return found


def watched(actor: Any, number: int) -> Progress:
    """Return what takes the progress of a task and tells the actor: of steps not every one."""
    last = [0.0]

    def tell(record: Record) -> None:
        now = time.monotonic()
        step = "done" in record
        if step and now - last[0] < TELL_EVERY and record["done"] != record["total"]:
            return
        if step:
            last[0] = now
        actor.tell.remote(number, record)

    return tell


class Board:
    """The command's end: hands on what tasks tell.

    Attributes:
        actor: What tasks tell it to.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._numbers = cluster, itertools.count()
        self.actor = cluster.actor_here(Notes)
        self._listeners: dict[int, Callable[[Record], None]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def listening(self, progress: Callable[[Record], None]) -> Iterator[int]:
        """Yield a number; what a task tells under it goes to ``progress``."""
        number = next(self._numbers)
        self._listeners[number] = progress
        try:
            yield number
        finally:
            del self._listeners[number]

    def close(self) -> None:
        """Ask no more."""
        self._ended.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._ended.wait(ASK_EVERY):
            for number, record in self._cluster.asked(self.actor.take):
                listener = self._listeners.get(number)
                if listener is not None:
                    listener(record)
