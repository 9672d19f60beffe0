"""Ranks of one training begin and end together, whatever becomes of one of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from duet.errors import DataError, DuetError
from duet.runs.engines import together
from duet.runs.engines.cluster import LostError, Need
from duet.runs.engines.together import trained_together

Ends = Callable[[], Any]
"""What a rank returns or raises; None as long as it works."""


@dataclass
class Machines:
    """A cluster whose tasks end as they are told; it gives no machine of its own.

    Attributes:
        room_taken: How often there was room.
        cancelled: The tasks that were ended.
    """

    room_taken: int = 0
    cancelled: list[Ends] = field(default_factory=list)

    @contextlib.contextmanager
    def room(self, need: Need, stop: threading.Event) -> Iterator[list[int]]:
        self.room_taken += 1
        yield list(range(need.ranks))

    def is_done(self, task: Ends, seconds: float) -> bool:
        try:
            return task() is not None
        except DuetError:
            return True

    def result(self, task: Ends, where: str) -> Any:
        return task()

    def cancel(self, task: Ends, grace: float) -> None:
        self.cancelled.append(task)


def train(machines: Machines, tries: list[tuple[Ends, Ends]], stop: threading.Event) -> Any:
    """Train by two ranks that end so at each try."""
    return trained_together(
        machines,  # type: ignore[arg-type]
        Need(1, ranks=2), lambda place, begun, rank: tries[begun][rank], "job", stop, retries=2,
    )  # fmt: skip


def ends(value: Any) -> Ends:
    return lambda: value


def fails(error: DuetError) -> Ends:
    def raises() -> Any:
        raise error

    return raises


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "PATIENCE", 0.2)
    monkeypatch.setattr(together, "POLL", 0.01)


BROKEN, LOST = DuetError("the training process ended with code 1"), LostError("gone")


def test_the_first_rank_has_the_result() -> None:
    machines = Machines()
    assert train(machines, [(ends("first"), ends("second"))], threading.Event()) == "first"
    assert machines.room_taken == 1


def test_all_begin_anew_when_a_machine_is_lost() -> None:
    """Also where the others break off before anybody knows that one is lost."""
    late = threading.Event()

    def lost() -> Any:
        if late.is_set():
            raise LOST
        late.set()

    tries = [(fails(BROKEN), lost), (ends(None), fails(LOST)), (ends("first"), ends("second"))]
    machines = Machines()
    assert train(machines, tries, threading.Event()) == "first"
    assert machines.room_taken == 3
    assert machines.cancelled == [task for pair in tries for task in pair]


def test_machines_that_are_always_lost_end_it() -> None:
    machines = Machines()
    with pytest.raises(LostError, match="gone"):
        train(machines, [(ends(None), fails(LOST))] * 3, threading.Event())
    assert machines.room_taken == 3


def test_what_went_wrong_is_told_not_what_came_of_it() -> None:
    damaged, machines = DataError("the image is damaged"), Machines()
    with pytest.raises(DataError, match="the image is damaged"):
        train(machines, [(fails(BROKEN), fails(damaged))], threading.Event())
    assert machines.room_taken == 1


def test_who_waits_for_a_rank_that_broke_off_is_ended() -> None:
    waiting, machines = ends(None), Machines()
    with pytest.raises(DuetError, match="code 1"):
        train(machines, [(waiting, fails(BROKEN))], threading.Event())
    assert waiting in machines.cancelled


def test_a_stop_ends_all() -> None:
    stop, tries, machines = threading.Event(), [(ends(None), ends(None))], Machines()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(DuetError, match="stopped"):
        train(machines, tries, stop)
    assert machines.cancelled == [*tries[0]]
