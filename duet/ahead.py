"""What is needed next is made ahead in threads: in order, and no more of it than memory allows."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Condition
from typing import Generic, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")

_WORKERS = min(4, os.cpu_count() or 1)


class Ahead(Generic[Given, Made]):
    """Makes results of items in threads while earlier ones are used.

    Args:
        make: Called in threads; must let others run (OpenCV and file reads do).
        size: Bytes of a result.
        most: Results that are made ahead.
        most_bytes: Bytes of results made ahead above which no other is begun, but the one that is
            needed next.
    """

    def __init__(
        self, make: Callable[[Given], Made], size: Callable[[Made], int], *, most: int,
        most_bytes: int,
    ) -> None:  # fmt: skip
        self._make, self._size, self._most, self._most_bytes = make, size, most, most_bytes
        self._held, self._next, self._stopped = 0, 0, False
        self._changed = Condition()

    def __call__(self, items: Iterable[Given]) -> Iterator[Callable[[], Made]]:
        """Yield for each item in order a function that returns its result, or raises its error."""
        waiting: deque[Future[Made]] = deque()
        numbered = enumerate(items)
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="duet-ahead") as pool:
            try:
                while True:
                    for number, item in numbered:
                        waiting.append(pool.submit(self._work, number, item))
                        if len(waiting) >= self._most:
                            break
                    if not waiting:
                        return
                    yield self._taken(waiting.popleft())
            finally:
                self._stop()
                pool.shutdown(wait=False, cancel_futures=True)

    def _work(self, number: int, item: Given) -> Made:
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or self._held < self._most_bytes or number <= self._next
            )
        made = self._make(item)
        with self._changed:
            self._held += self._size(made)
        return made

    def _taken(self, future: Future[Made]) -> Callable[[], Made]:
        failure = future.exception()  # waits for it
        with self._changed:
            self._next += 1
            if failure is None:
                self._held -= self._size(future.result())
            self._changed.notify_all()
        return future.result

    def _stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
