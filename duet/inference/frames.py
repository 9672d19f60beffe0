"""`Frame`, and the channel through which a reader thread hands frames over."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from duet.images import Image


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a video.

    Attributes:
        image: ``(H, W, 3)`` uint8, BGR, upright.
        index: Number of the frame in its source, from 0; frames that were dropped count too.
        time: Seconds since the first frame: by the file's own clock, or by arrival if live.
        captured: `time.monotonic` at which it was read or received.
        dropped: Frames of the source between the frame that was handed over before and this one.
    """

    image: Image
    index: int
    time: float
    captured: float
    dropped: int


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame as a source gives it, before anyone asked for its pixels.

    Attributes:
        image: Makes the ``(H, W, 3)`` uint8 BGR array: converting frames nobody looks at is waste.
        time: Seconds since the first frame by the source's clock; None if it has none.
        captured: `time.monotonic` at which it was received.
    """

    image: Callable[[], Image]
    time: float | None
    captured: float


class Capture(Protocol):
    """An opened source."""

    finite: bool
    """Whether it has an end of its own: then the end is no failure."""
    fps: float | None
    """Frames per second that the source declares."""
    damaged: int
    """Packets that could not be decoded."""

    def pictures(self) -> Iterator[Picture]:
        """Yield pictures as they come; blocks."""
        ...

    def close(self) -> None:
        """Release it. Called by the thread that reads."""
        ...


class Channel:
    """Pictures from the reader thread to the caller's.

    Args:
        newest: Keep only the newest picture (nobody waits for the reader, the reader for nobody).
            Otherwise two are kept, and the reader waits: nothing is lost.
    """

    def __init__(self, *, newest: bool) -> None:
        self._newest = newest
        self._items: deque[tuple[int, Picture]] = deque(maxlen=1 if newest else None)
        self._changed = threading.Condition()
        self.received = 0  # pictures put in so far
        self._closed, self._error = False, None  # type: tuple[bool, BaseException | None]

    def put(self, picture: Picture) -> bool:
        """Add a picture; returns False once the channel is closed."""
        with self._changed:
            if not self._newest:
                self._changed.wait_for(lambda: self._closed or len(self._items) < _AHEAD)
            if self._closed:
                return False
            self._items.append((self.received, picture))
            self.received += 1
            self._changed.notify_all()
            return True

    def take(self, until: float | None = None) -> tuple[int, Picture] | None:
        """Return the next picture and its number; None at the end, or at the time ``until``.

        Raises:
            BaseException: What the reader ended with, once all its pictures are taken.
        """
        with self._changed:
            while not self._items and not self._closed:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return None
                # A wait without limit would hold back Ctrl-C on Windows.
                self._changed.wait(0.5 if left is None else min(left, 0.5))
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            return None

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes; pictures not yet taken stay."""
        with self._changed:
            self._closed = True
            self._error = self._error or error
            self._changed.notify_all()

    def drop(self) -> None:
        """Say that nobody takes pictures any more."""
        with self._changed:
            self._items.clear()
            self.end()


_AHEAD = 2  # pictures decoded ahead of the caller
