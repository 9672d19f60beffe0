"""Work done ahead: in order, errors in their place, and memory bounded."""

from __future__ import annotations

import threading
import time

import pytest

from duet.ahead import Ahead


def test_results_come_in_order_and_errors_in_their_place() -> None:
    def make(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        if number == 5:
            raise ValueError("five")
        return 10 * number

    taken = []
    for made in Ahead(make, lambda _: 1, most=4, most_bytes=100)(range(9)):
        try:
            taken.append(made())
        except ValueError as error:
            taken.append(str(error))
    assert taken == [0, 10, 20, 30, 40, "five", 60, 70, 80]


def test_the_next_are_made_while_one_is_used() -> None:
    begun = [threading.Event() for _ in range(4)]

    def make(number: int) -> int:
        begun[number].set()
        return number

    results = Ahead(make, lambda _: 1, most=3, most_bytes=100)(range(4))
    assert next(results)() == 0
    assert begun[1].wait(10)
    assert begun[2].wait(10)
    assert not begun[3].is_set()
    assert [made() for made in results] == [1, 2, 3]


def test_large_results_wait_until_they_are_needed() -> None:
    made_now, lock, most = 0, threading.Lock(), 0

    def make(number: int) -> bytes:
        nonlocal made_now, most
        with lock:
            made_now += 1
            most = max(most, made_now)
        return bytes(100)

    for made in Ahead(make, len, most=16, most_bytes=1)(range(32)):
        time.sleep(0.005)
        assert len(made()) == 100
        with lock:
            made_now -= 1
    assert most <= 6, "as many as threads, one that is used, and one that is needed next"


def test_who_stops_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    results = Ahead(lambda number: number, lambda _: 10, most=4, most_bytes=1)(range(100))
    assert next(results)() == 0
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() <= before
    with pytest.raises(StopIteration):
        next(results)
