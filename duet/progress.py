"""Progress for people, on stderr: bars in a terminal or a notebook, else a line now and then."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import click

from duet.text import printable

PLAIN_EVERY = 5.0
"""Seconds between progress lines where there are no bars: a log of an hour stays readable."""


def note(text: str) -> None:
    """Tell people something on stderr."""
    click.echo(printable(text, lines=True), err=True)


class Stages(Protocol):
    """Progress of several stages at once, each known by its title."""

    def __call__(self, title: str, record: dict[str, Any]) -> None:
        """Take one record of `duet.runs.lab.Lab`: a state, a note, or steps done of a total."""
        ...


class _Plain(Stages):
    def __init__(self) -> None:
        self.lock = threading.Lock()
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
            left = f", {(total - done) / rate:.0f} s left" if rate > 0 else ""
            loss = f", loss {record['loss']}" if "loss" in record else ""
            note(f"{title}: step {done} of {total}{loss}{left}")


class _Bars(Stages):
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


@contextmanager
def stages() -> Iterator[Stages]:
    """Yield a progress display for long work: bars with ETA where they can be drawn, else lines."""
    if not _has_bars():
        yield _Plain()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(),
        TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bars(progress)


@contextmanager
def counting(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield ``step(done, total)`` for one countable piece of work."""
    with counted(title, True) as step:
        yield step


Progress = bool | Callable[[str, dict[str, Any]], None]
"""What a caller wants to see: bars, nothing, or every record: ``progress(title, record)``."""


@contextmanager
def shown(progress: Progress) -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """Yield what takes the records of long work: a display, nobody, or the caller's function."""
    if progress is True:
        with stages() as show:
            yield show
    else:
        yield progress or (lambda title, record: None)


@contextmanager
def counted(title: str, progress: Progress) -> Iterator[Callable[[int, int], None]]:
    """Yield ``step(done, total)`` for one countable piece of work, told as ``progress`` asks."""
    with shown(progress) as show:
        yield lambda done, total: show(title, {"done": done, "total": total})
