"""Large tensors in pieces that fit a core's cache, with scratch memory that is used again.

A merge is limited by memory: one pass over K vectors of 58 M scalars moves a gigabyte. Every kernel
therefore works on pieces of flat tensors, writes into memory that exists, and never allocates a
temporary of the size of a model.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

CHUNK = 1 << 17
"""Scalars per piece: half a megabyte, of which a few fit into the second-level cache."""
_WORTH_THREADS = 1 << 20

T = TypeVar("T")
Item = TypeVar("Item")
Listen = Callable[[int, int], None]


@dataclass(frozen=True)
class Span:
    """Scalars ``lo`` to ``hi`` of the flat tensor ``name``."""

    name: str
    lo: int
    hi: int

    def __len__(self) -> int:
        return self.hi - self.lo

    def of(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return a view of the piece, to read or to write; the tensor must be contiguous."""
        return tensors[self.name].detach().view(-1)[self.lo : self.hi]


def spans(sizes: Mapping[str, int], chunk: int = CHUNK) -> list[Span]:
    """Cut tensors into pieces.

    Args:
        sizes: Scalars by tensor name.
        chunk: Scalars per piece; the last one of a tensor may be smaller.
    """
    return [
        Span(name, lo, min(lo + chunk, size))
        for name, size in sizes.items()
        for lo in range(0, size, chunk)
    ]


class Scratch:
    """Named buffers of one worker; a buffer grows to the largest piece and is used again."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], torch.Tensor] = {}
        self._views: dict[tuple[str, int, torch.dtype], torch.Tensor] = {}

    def __call__(self, name: str, count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return ``count`` scalars of the buffer ``name``, with whatever they hold."""
        view = self._views.get((name, count, dtype))  # slicing costs as much as a small operation
        if view is None:
            buffer = self._buffers.get((name, dtype))
            if buffer is None or buffer.numel() < count:
                buffer = self._buffers[name, dtype] = torch.empty(count, dtype=dtype)
            view = self._views[name, count, dtype] = buffer[:count]
        return view


def each(
    items: Sequence[Item],
    work: Callable[[Item, Scratch], T],
    *,
    size: Callable[[Item], int],
    threads: int = 0,
    listen: Listen | None = None,
) -> list[T]:
    """Call ``work(item, scratch)`` for every item, on several threads where that pays.

    Args:
        items: What to work on.
        work: Must not touch what another item writes.
        size: Scalars of an item, for progress and for the choice of threads.
        threads: At most this many; 0 = one per core.
        listen: Called as ``listen(scalars done, scalars in all)``.

    Returns:
        The results in the order of ``items``, so that sums over them do not depend on timing.
    """
    total = sum(size(item) for item in items)
    workers = min(threads or os.cpu_count() or 1, len(items)) if total > _WORTH_THREADS else 1
    results: list[T | None] = [None] * len(items)
    waiting, lock, done = iter(range(len(items))), threading.Lock(), [0]

    def run() -> None:
        scratch = Scratch()
        while True:
            with lock:
                index = next(waiting, None)
            if index is None:
                return
            results[index] = work(items[index], scratch)
            if listen is not None:
                with lock:
                    done[0] += size(items[index])
                    listen(done[0], total)

    with _one_thread_per_call():
        if workers <= 1:
            run()
        else:
            with ThreadPoolExecutor(workers) as pool:
                for future in [pool.submit(run) for _ in range(workers)]:
                    future.result()
    return results  # type: ignore[return-value]


_guard = threading.Lock()
_inside = 0
_before = 1


@contextlib.contextmanager
def _one_thread_per_call() -> Iterator[None]:
    """Keep torch from splitting each small operation among threads.

    They are busy already, and a sum in two halves has other last bits than a sum in one.
    """
    global _inside, _before
    with _guard:
        if not _inside:
            _before = torch.get_num_threads()
            torch.set_num_threads(1)
        _inside += 1
    try:
        yield
    finally:
        with _guard:
            _inside -= 1
            if not _inside:
                torch.set_num_threads(_before)
