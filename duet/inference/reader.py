"""A thread that reads a source, so that old frames never wait; it comes back when a source does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from duet.errors import DataError
from duet.inference.frames import Capture, Channel, Frame, Picture
from duet.inference.options import Notify, Retry
from duet.inference.places import Place

_GRACE = 2.0  # seconds that closing waits for a thread which is about to see the signal


class Reader:
    """Frames of one source, read ahead by a thread.

    Args:
        place: Shown in messages.
        connect: Opens the source; called here and again whenever a live source was lost.
        newest: Hand over only the newest frame; None does so for live sources.
        retry: How to come back.
        notify: Told about losses and returns, from the reader thread.

    Raises:
        DataError: The source cannot be opened.
    """

    def __init__(
        self, place: Place, connect: Callable[[], Capture], *, newest: bool | None, retry: Retry,
        notify: Notify,
    ) -> None:  # fmt: skip
        self.place, self.rejoined = place, 0
        self._connect, self._retry, self._notify = connect, retry, notify
        self._capture = connect()
        self.finite, self.fps = self._capture.finite, self._capture.fps
        self.newest = not self.finite if newest is None else newest
        self._channel = Channel(newest=self.newest)
        self._stop = threading.Event()
        self._last_index, self._began = -1, None  # type: tuple[int, float | None]
        self._tries, self._alive, self._damaged = 0, time.monotonic(), 0
        self._thread = threading.Thread(target=self._run, name="duet-reader", daemon=True)
        self._thread.start()

    @property
    def received(self) -> int:
        """Frames read so far, looked at or not."""
        return self._channel.received

    @property
    def damaged(self) -> int:
        """Packets that could not be decoded."""
        return self._damaged + self._capture.damaged

    def read(self, until: float | None = None) -> Frame | None:
        """Return the next frame, or None at the end (or at `time.monotonic` ``until``).

        Raises:
            DataError: A recording is cut off, or a lost source did not come back.
        """
        item = self._channel.take(until)
        if item is None:
            return None
        index, picture = item
        image = picture.image()
        dropped = index - self._last_index - 1
        self._last_index = index
        return Frame(image, index, self._seconds(index, picture), picture.captured, dropped)

    def _seconds(self, index: int, picture: Picture) -> float:
        if self.finite:
            return index / (self.fps or 25.0) if picture.time is None else picture.time
        self._began = picture.captured if self._began is None else self._began
        return picture.captured - self._began

    def close(self) -> None:
        """Stop the thread, which closes the source.

        A thread that waits for a silent network source ends by itself when its timeout is over.
        """
        self._stop.set()
        self._channel.drop()
        if self._thread is not threading.current_thread():
            self._thread.join(_GRACE)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            while True:
                lost = self._drain()
                if lost is None or not self._rejoin(lost):
                    break
        except BaseException as caught:  # shown to the caller: a reader never dies in silence
            error = caught
        finally:
            self._capture.close()
            self._channel.end(error)

    def _drain(self) -> str | None:
        """Hand over pictures; returns why a live source ended, None if that is all right."""
        pictures = self._capture.pictures()
        try:
            for picture in self._paced(pictures):
                if self._stop.is_set() or not self._channel.put(self._ready(picture)):
                    return None
                self._tries, self._alive = 0, time.monotonic()
        except OSError as error:
            return str(error.strerror or error)
        return None if self._capture.finite else "the stream ended"

    def _ready(self, picture: Picture) -> Picture:
        """Convert here what will surely be looked at: it runs beside the detector."""
        if self.newest:
            return picture
        image = picture.image()
        return Picture(lambda: image, picture.time, picture.captured)

    def _paced(self, pictures: Iterator[Picture]) -> Iterator[Picture]:
        """Play a recording at its own speed where only the newest frame counts."""
        if not (self.finite and self.newest):
            yield from pictures
            return
        start = time.monotonic()
        for number, picture in enumerate(pictures):
            seconds = number / (self.fps or 25.0) if picture.time is None else picture.time
            if self._stop.wait(max(0.0, start + seconds - time.monotonic())):
                return
            yield Picture(picture.image, picture.time, time.monotonic())

    def _rejoin(self, why: str) -> bool:
        """Connect again, however long it takes; False if stopped meanwhile."""
        self._capture.close()
        self._damaged += self._capture.damaged
        if not self._tries:  # a source that returns without a picture has been announced
            self._notify(f"{self.place.shown}: lost ({why}); trying to rejoin")
        while not self._retry.over(self._tries, time.monotonic() - self._alive):
            if self._stop.wait(self._retry.wait(self._tries)):
                return False
            self._tries += 1
            try:
                self._capture = self._connect()
            except DataError as error:
                why = error.what
                continue
            self.rejoined += 1
            gone = time.monotonic() - self._alive
            self._notify(f"{self.place.shown}: rejoined after {gone:.1f} s")
            return True
        gone = time.monotonic() - self._alive
        raise DataError(
            f"lost, and not back after {self._tries} tries in {gone:.0f} s: {why}",
            where=self.place.shown,
            remedy="results up to there are kept; check the source and start again",
        )
