"""Work through a video, webcam or stream: draw, save, show, count, sum up."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from duet.detections import Detections
from duet.files import refuse_occupied, write_json
from duet.inference.annotate import annotate, write_status
from duet.inference.detector import LoadedDetector, Model, opened
from duet.inference.frames import Frame
from duet.inference.options import Options
from duet.inference.outputs import SUMMARY, make_out
from duet.inference.places import Place
from duet.inference.savers.base import Saver, Shot
from duet.inference.savers.table import SAVERS, open_savers
from duet.inference.stream import Stream, open_stream
from duet.inference.tracking import NO_TRACK, TrackedDetections
from duet.inference.window import Window

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


@dataclass(frozen=True)
class Watch:
    """How a moving source is looked at, and where what is found goes.

    Attributes:
        options: How the detector looks, and who is told when a source is lost, back or stopped.
        out: Folder for results, new or empty; None keeps none.
        formats: Of `duet.inference.savers.table.SAVERS`.
        lines: Where ``jsonl`` goes in place of a file.
        show: Open a window.
        tell: Write the increment of its class at each box; None: if there are several.
        progress: Called after each frame.
        ended: Called at the end, a bad one too, with the counts and the content of `summary.json`.
    """

    options: Options
    out: Path | None = None
    formats: tuple[str, ...] = ()
    lines: IO[str] | None = None
    show: bool = False
    tell: bool | None = None
    progress: Callable[[Tally], None] | None = None
    ended: Callable[[Tally, dict[str, Any]], None] | None = None

    def open(self, model: Model, place: Place) -> tuple[LoadedDetector, Stream]:
        """Check everything and open detector and source; nothing is written.

        Args:
            model: What `duet.load` returned, or what opens it once ``out`` is checked.
            place: What to look at.

        Raises:
            ConfigError: An option does not fit the source.
            DataError: The source cannot be opened.
            DuetError: ``out`` holds something.
        """
        if self.out is not None:
            refuse_occupied(self.out)  # what a camera saw cannot be recorded again
        detector = opened(model)
        least, side = detector.least(self.options.confidence), detector.facts.image_size
        return detector, open_stream(detector.detector, side, place, self.options, least)

    def __call__(self, model: Model, place: Place) -> Tally:
        """Look until the source ends, a limit is reached, or its window is closed.

        A live source may also be stopped by Ctrl-C.

        Raises:
            ConfigError: As `open`, or there is no screen.
            DataError: The source cannot be opened, or ended in a failure.
            DuetError: Results cannot be written.
            KeyboardInterrupt: Somebody stopped a recording.
        """
        with contextlib.ExitStack() as stack:
            detector, stream = self.open(model, place)
            stack.enter_context(stream)
            window = Window(f"duet: {place.shown}") if self.show else None
            if window is not None:
                stack.callback(window.close)
            if self.out is not None:
                make_out(self.out)
            savers = open_savers(self.formats, self.out, detector, lines=self.lines)
            tally = Tally(stream)
            try:
                self._run(tally, savers, detector, window)
            except KeyboardInterrupt:
                if stream.finite:
                    raise
                if self.options.notify is not None:
                    self.options.notify("stopped")  # the way to end a camera
            finally:
                summary = _summary(tally, detector, place, self.options)
                if self.out is not None:
                    write_json(self.out / SUMMARY, summary)
                if self.ended is not None:
                    self.ended(tally, summary)
        return tally

    def _run(
        self, tally: Tally, savers: Sequence[Saver], detector: LoadedDetector, window: Window | None
    ) -> None:
        """Look at every frame that the stream gives; savers are closed whatever happens."""
        stream, increments = tally.stream, detector.increments
        tell = len(detector.facts.increments) > 1 if self.tell is None else self.tell
        kept = self.out is not None and any(SAVERS.find(name).drawn for name in self.formats)
        with contextlib.ExitStack() as stack:
            for saver in savers:
                stack.callback(saver.close)
            stack.enter_context(stream)
            for frame, detections in stream:
                tally.add(detections)
                began = time.monotonic()
                drawn = None
                if kept or window is not None:
                    drawn = annotate(frame.image, detections, increments, tell=tell)
                    if stream.newest:
                        write_status(drawn, tally.line())
                shot = _shot(frame, detections, drawn)
                for saver in savers:
                    saver.add(shot)
                going = window is None or drawn is None or window.show(drawn)
                stream.latency.add("draw", time.monotonic() - began)
                if self.progress is not None:
                    self.progress(tally)
                if not going:
                    return


def _summary(
    tally: Tally, detector: LoadedDetector, place: Place, options: Options
) -> dict[str, Any]:
    """Return the content of `summary.json`."""
    facts, thresholds = detector.facts, detector.thresholds(options.confidence)
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "source": place.shown,
        "model": facts.fingerprint,
        "licence": facts.licence,
        "increments": [{"name": name, "classes": list(names)} for name, names in facts.increments],
        "confidence": min(thresholds.values()),
        "thresholds": thresholds,
        "iou": options.iou,
        "agnostic_nms": options.agnostic,
        "runtime": detector.runtime,
        **tally.as_dict(),
    }


def _shot(frame: Frame, detections: Detections, drawn: Any) -> Shot:
    height, width = frame.image.shape[:2]
    return Shot(
        f"{frame.index:06d}", width, height, detections, drawn, frame.index, frame.time,
        frame.dropped,
    )  # fmt: skip
