"""`Stream`: frames and detections of a moving source, newest first where it is live."""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from duet.defaults import Confidence
from duet.detections import Detections
from duet.errors import ConfigError, DataError
from duet.inference.frames import Capture, Frame
from duet.inference.latency import Latency
from duet.inference.options import Look, Options, Retry
from duet.inference.places import Place, find_place
from duet.inference.reader import Reader
from duet.inference.tracking import Tracker, low
from duet.inference.video import TIMEOUT, VideoCapture
from duet.inference.webcam import WebcamCapture


class Stream:
    """An open source that a detector looks at: iterate over it once.

    ``for frame, detections in stream`` closes the source when the loop ends or is left. So do
    `close` and a ``with`` block.

    Attributes:
        latency: Durations so far; add a ``"draw"`` of your own if you draw.
        looked_at: Frames that the detector has seen.
        finite: Whether the source is a recording.
        newest: Whether frames are skipped that came while the detector was busy.
        fps: Frames per second that the source declares, or None.
    """

    def __init__(
        self, look: Look, image_size: int, reader: Reader, options: Options, least: Confidence
    ) -> None:
        self._image_size, self._reader, self._options = image_size, reader, options
        self._tracker = Tracker(confidence=least, fps=reader.fps) if options.track else None
        self._detect = functools.partial(
            look, confidence=low(least) if options.track else least, iou=options.iou,
            agnostic=options.agnostic,
        )  # fmt: skip
        self.latency = Latency()
        self.looked_at = 0
        self.finite, self.newest, self.fps = reader.finite, reader.newest, reader.fps
        self._finalise = weakref.finalize(self, reader.close)  # also when it is forgotten

    @property
    def dropped(self) -> int:
        """Frames of the source that the detector has not seen."""
        return self._reader.received - self.looked_at if self.newest else 0

    @property
    def damaged(self) -> int:
        """Packets that could not be decoded."""
        return self._reader.damaged

    @property
    def rejoined(self) -> int:
        """How often a lost source came back."""
        return self._reader.rejoined

    def __iter__(self) -> Iterator[tuple[Frame, Detections]]:
        options, latency = self._options, self.latency
        deadline = None
        try:
            if self.newest:
                self._warm_up()
            while options.frames is None or self.looked_at < options.frames:
                asked = time.monotonic()
                frame = self._reader.read(deadline)
                if frame is None:
                    return
                if options.seconds is not None and frame.time >= options.seconds:
                    return
                if options.seconds is not None and not self.finite and deadline is None:
                    deadline = frame.captured + options.seconds
                began = frame.captured if self.newest else asked
                taken = time.monotonic()
                latency.add("capture", taken - began)
                detections = self._look(frame, taken)
                self.looked_at += 1
                try:
                    yield frame, detections
                finally:  # the body is done with this frame, also if it leaves the loop here
                    latency.add("end to end", time.monotonic() - began)
        finally:
            self.close()

    def _warm_up(self) -> None:
        """Look at nothing once: a network's first call takes longer than a hundred others."""
        self._detect([np.zeros((self._image_size, self._image_size, 3), np.uint8)])

    def _look(self, frame: Frame, taken: float) -> Detections:
        (found,) = self._detect([frame.image])
        done = time.monotonic()
        self.latency.add("inference", done - taken)
        if self._tracker is not None:
            found = self._tracker.update(found, frame.time)
            self.latency.add("track", time.monotonic() - done)
        return found

    def close(self) -> None:
        """Stop reading and close the source; doing so twice does no harm."""
        self._finalise()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_stream(
    look: Look,
    image_size: int,
    source: str | Path | int | Place,
    options: Options,
    least: Confidence,
) -> Stream:
    """Open a moving source for a detector; see `LoadedDetector.stream`.

    Args:
        look: The detector.
        image_size: Side of its input in pixels: what it is warmed up with.
        source: What to look at.
        options: How; ``least`` is said in place of their confidence.
        least: Lowest score that counts.
    """
    place = source if isinstance(source, Place) else find_place(source)
    if not place.moving:
        raise DataError(
            "not a video, webcam or stream",
            where=place.shown,
            remedy="for images use detector(image), or `duet predict` on the folder",
        )
    if options.newest is False and place.kind == "webcam":
        raise _cannot_keep_all(place)
    reader = Reader(
        place, lambda: _connect(place, options.timeout), newest=options.newest,
        retry=options.retry or Retry(), notify=options.notify or (lambda line: None),
    )  # fmt: skip
    try:
        if options.newest is False and not reader.finite:
            raise _cannot_keep_all(place)
        return Stream(look, image_size, reader, options, least)
    except BaseException:  # Ctrl-C too must let go of the camera
        reader.close()
        raise


def _connect(place: Place, timeout: float | None) -> Capture:
    if place.kind == "webcam":
        return WebcamCapture(int(place.target))
    return VideoCapture(place, timeout=TIMEOUT if timeout is None else timeout)


def _cannot_keep_all(place: Place) -> ConfigError:
    return ConfigError(
        "a live source has no 'every frame': what the detector cannot keep up with would pile up",
        where=place.shown,
        remedy="leave the option away, or record the stream first and look at the file",
    )
