"""One training by several processes of a cluster: they begin together, and begin anew together.

Each is a task in a placement group: all get what they need, or none does. The first tells the
others where it waits for them; what they then do is the engine's own DDP.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from duet.errors import DuetError
from duet.runs.engines.cluster import Cluster, LostError, Need

PATIENCE = 60.0  # seconds in which the other ranks tell why one of them broke off
GRACE = 15.0  # seconds in which a task ends by itself that is asked to
POLL = 0.2  # seconds between looks at the tasks

Begin = Callable[[Any, int, int], Any]
"""``begin(place, begun, rank)`` begins a rank where it has room; ``begun`` counts losses."""


def trained_together(
    cluster: Cluster, need: Need, begin: Begin, where: str, stop: threading.Event, *, retries: int
) -> Any:
    """Return what the first rank returned; all begin anew if the machine of one is lost.

    Args:
        cluster: Where.
        need: Of one rank, and how many there are.
        begin: See `Begin`.
        where: Of the job, for messages.
        stop: Ends all when set.
        retries: How often they begin anew.

    Raises:
        DuetError: One could not do its part; or ``stop`` was set.
    """
    begun = 0
    while True:
        with cluster.room(need, stop) as places:
            tasks = [begin(place, begun, rank) for rank, place in enumerate(places)]
            try:
                return _first_of(cluster, tasks, where, stop)
            except LostError:
                begun += 1
                if begun > retries:
                    raise
            finally:
                for task in tasks:
                    cluster.cancel(task, GRACE)


def _first_of(cluster: Cluster, tasks: Sequence[Any], where: str, stop: threading.Event) -> Any:
    """Wait for all ranks; return what the first returned.

    One that breaks off leaves the others without it: they break off, too, or wait for ever. So
    after the first to do so all have a while to tell why, and the best reason counts: a lost
    machine, then what duet itself has words for.
    """
    found, failed, left = dict[int, Any](), list[DuetError](), dict(enumerate(tasks))
    until = math.inf
    while left and time.monotonic() < until:
        if stop.wait(POLL):
            raise DuetError("stopped", remedy="the same command resumes")
        for rank in [rank for rank, task in left.items() if cluster.is_done(task, 0)]:
            try:
                found[rank] = cluster.result(left.pop(rank), where)
            except LostError:
                raise
            except DuetError as error:
                failed.append(error)
                until = min(until, time.monotonic() + PATIENCE)
    if failed:
        raise min(failed, key=lambda error: type(error) is DuetError)
    return found[0]
