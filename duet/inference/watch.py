"""Work through a stream: draw, save, show, count."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from duet.detections import Detections
from duet.inference.annotate import annotate, write_status
from duet.inference.frames import Frame
from duet.inference.saving import Saver, Shot
from duet.inference.stream import Stream
from duet.inference.tracking import NO_TRACK, TrackedDetections

FORMAT = "duet-stream"
SCHEMA_VERSION = 1


@dataclass
class Tally:
    """Counts of a stream while it runs.

    Attributes:
        stream: Where the frames come from.
        counts: Detections of each class.
        tracks: Track ids of each class.
    """

    stream: Stream
    counts: Counter[str] = field(default_factory=Counter)
    tracks: dict[str, set[int]] = field(default_factory=dict)
    began: float | None = None
    ended: float | None = None

    def add(self, detections: Detections) -> None:
        """Count one frame's detections."""
        self.ended = time.monotonic()
        self.began = self.ended if self.began is None else self.began
        self.counts.update(detections.names)
        if isinstance(detections, TrackedDetections):
            for name, track in zip(detections.names, detections.track_ids, strict=True):
                if track != NO_TRACK:
                    self.tracks.setdefault(name, set()).add(int(track))

    @property
    def seconds(self) -> float:
        """Seconds between the first frame and the last, of real time."""
        return 0.0 if self.began is None or self.ended is None else self.ended - self.began

    @property
    def fps(self) -> float:
        """Frames looked at per second of real time."""
        return (self.stream.looked_at - 1) / self.seconds if self.seconds > 0 else 0.0

    def line(self) -> str:
        """Return the state in one line for people."""
        spent = self.stream.latency.last("end to end")
        late = "" if spent is None else f", {1000 * spent:.0f} ms"
        dropped = f", {self.stream.dropped} dropped" if self.stream.newest else ""
        return f"{self.stream.looked_at} frames, {self.fps:.1f} per second{late}{dropped}"

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data: the summary."""
        stream = self.stream
        summary: dict[str, Any] = {
            "frames": stream.looked_at,
            "dropped": stream.dropped,
            "damaged": stream.damaged,
            "rejoined": stream.rejoined,
            "live": not stream.finite,
            "every_frame": not stream.newest,
            "seconds": round(self.seconds, 3),
            "fps": round(self.fps, 3),
            "source_fps": stream.fps,
            "latency": stream.latency.as_dict(),
            "counts": dict(self.counts),
        }
        if self.tracks:
            summary["tracks"] = {name: len(ids) for name, ids in self.tracks.items()}
        return summary


def watch(
    stream: Stream,
    tally: Tally,
    savers: Sequence[Saver],
    increments: Sequence[str],
    *,
    draw: bool,
    tell: bool,
    show: Callable[[Any], bool] | None = None,
    progress: Callable[[], None] | None = None,
) -> None:
    """Look at every frame that the stream gives; savers are closed whatever happens.

    Args:
        stream: Where frames and detections come from; closed at the end.
        tally: Counts along.
        savers: Get every frame.
        increments: Increment of each class.
        draw: Draw the detections; savers of pictures need it.
        tell: Write the increment of its class at each box.
        show: Gets every drawn frame; returns False to stop.
        progress: Called after each frame.

    Raises:
        DataError: The source ended in a failure.
        DuetError: Results cannot be written.
    """
    with contextlib.ExitStack() as stack:
        for saver in savers:
            stack.callback(saver.close)
        stack.enter_context(stream)
        for frame, detections in stream:
            tally.add(detections)
            began = time.monotonic()
            drawn = None
            if draw:
                drawn = annotate(frame.image, detections, increments, tell=tell)
                if stream.newest:
                    write_status(drawn, tally.line())
            shot = _shot(frame, detections, drawn)
            for saver in savers:
                saver.add(shot)
            going = show is None or drawn is None or show(drawn)
            stream.latency.add("draw", time.monotonic() - began)
            if progress is not None:
                progress()
            if not going:
                return


def _shot(frame: Frame, detections: Detections, drawn: Any) -> Shot:
    height, width = frame.image.shape[:2]
    return Shot(
        f"{frame.index:06d}", width, height, detections, drawn, frame.index, frame.time,
        frame.dropped,
    )  # fmt: skip
