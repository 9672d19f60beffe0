"""Progress for people, on stderr: bars in a terminal or a notebook, else a line now and then."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from duet.text import printable

PLAIN_EVERY = 5.0
"""Seconds between progress lines where there are no bars: a log of an hour stays readable."""


def note(text: str) -> None:
    """Tell people something on stderr."""
    click.echo(printable(text, lines=True), err=True)


Listener = Callable[[str, dict[str, Any]], None]
"""``listen(title, record)``: a state, a note, or steps done of a total, of one stage of several."""

Progress = bool | Listener
"""What a caller wants to see: bars, nothing, or every record: ``progress(title, record)``."""


class _Plain:
    def __init__(self, in_bytes: bool) -> None:
        self.lock, self.in_bytes = threading.Lock(), in_bytes
        self.last: dict[str, float] = {}
        self.began: dict[str, tuple[float, int]] = {}

    def __call__(self, title: str, record: dict[str, Any]) -> None:
        now, title = time.monotonic(), printable(title)
        with self.lock:
            if "state" in record or "note" in record:
                note(f"{title}: {record.get('state') or record['note']}")
                return
            began, first = self.began.setdefault(title, (now, record["done"]))
            if now - self.last.get(title, began) < PLAIN_EVERY:
                return
            self.last[title] = now
            done, total = record["done"], record["total"]
            rate = (done - first) / max(now - began, 1e-9)
            left = f", {(total - done) / rate:.0f} s left" if total and rate > 0 else ""
            told = f"step {done} of {total}"
            if self.in_bytes:
                told = f"{megabytes(done)} of {megabytes(total)}"
            loss = f", loss {record['loss']}" if "loss" in record else ""
            note(f"{title}: {told}{loss}{left}")


class _Bars:
    def __init__(self, progress: Any) -> None:
        self.progress, self.lock = progress, threading.Lock()
        self.tasks: dict[str, Any] = {}

    def __call__(self, title: str, record: dict[str, Any]) -> None:
        title = printable(title)
        with self.lock:
            if "note" in record:
                text = f"{title}: {record['note']}"
                self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
                return
            if title not in self.tasks:
                self.tasks[title] = self.progress.add_task(title, total=None)
            task = self.tasks[title]
            if "state" not in record:
                self.progress.update(
                    task, completed=record["done"], total=record["total"],
                    description=f"{title} (loss {record['loss']})" if "loss" in record else title,
                )  # fmt: skip
            elif record["state"] != "started":
                self.progress.update(
                    task, description=f"{title}: {record['state']}", total=1, completed=1
                )


def _has_bars() -> bool:
    """Tell whether bars can be drawn: on a terminal, or in a notebook that has widgets."""
    if "ipykernel" in sys.modules:
        return importlib.util.find_spec("ipywidgets") is not None
    return sys.stderr.isatty()


def megabytes(size: int | None) -> str:
    """Return a number of bytes for people; a dash if nobody knows it."""
    return "-" if size is None else f"{size / 1e6:.1f} MB"


@contextmanager
def stages(*, in_bytes: bool = False) -> Iterator[Listener]:
    """Yield a progress display for long work: bars with ETA where they can be drawn, else lines.

    Args:
        in_bytes: What is done are bytes, not steps; their total may be None.
    """
    if not _has_bars():
        yield _Plain(in_bytes)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(),
        DownloadColumn() if in_bytes else TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bars(progress)


@contextmanager
def downloading(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yield ``step(done, total)`` for the bytes of a file; nobody may know the total."""
    with stages(in_bytes=True) as show:
        yield lambda done, total: show(title, {"done": done, "total": total})


@contextmanager
def shown(progress: Progress) -> Iterator[Listener]:
    """Yield what takes the records of long work: a display, nobody, or the caller's function."""
    if progress is True:
        with stages() as show:
            yield show
    else:
        yield progress or (lambda title, record: None)


@contextmanager
def counted(title: str, progress: Progress = True) -> Iterator[Callable[[int, int], None]]:
    """Yield ``step(done, total)`` for one countable piece of work, told as ``progress`` asks."""
    with shown(progress) as show:
        yield lambda done, total: show(title, {"done": done, "total": total})
