"""`duet predict`: detect objects in images, videos, webcams and network streams."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, get_args

import click

from duet.cli.common import (
    PATH,
    device_option,
    emit,
    hint,
    json_option,
    tell_leftovers_in,
    trust_option,
)
from duet.defaults import AGNOSTIC, CONFIDENCE, IOU, Agnostic, Runtime
from duet.errors import ConfigError
from duet.inference.savers.table import SAVERS
from duet.progress import PLAIN_EVERY, counted, note
from duet.text import printable

if TYPE_CHECKING:
    from duet.inference.detector import LoadedDetector
    from duet.inference.places import Place
    from duet.inference.predict import ImageResult
    from duet.inference.watch import Tally

EPILOG = """\b
Examples:
  duet predict runs/demo/models/duet-plus/2-comic photo.jpg
  duet predict MODEL photos/ --out found/ --conf 0.4
  duet predict MODEL 'shop/*/*.png' --json | jq '.images[].detections'
  duet predict MODEL shop.mp4 --save video --save jsonl --out found/ --track
  duet predict MODEL rtsp://USER:PASSWORD@camera/1 --save jsonl --out - | jq .detections
  duet predict MODEL 0 --show
  duet predict best.pt photos/
"""

_LISTED = 20  # images that the summary names one by one
_MOVING_ONLY = ("track", "show", "frames", "seconds")


@dataclass(frozen=True)
class Job:
    """The options of one call."""

    conf: float | None
    iou: float
    agnostic_nms: Agnostic
    out: Path | None
    save: tuple[str, ...]
    device: str
    runtime: Runtime | None
    track: bool
    newest: bool | None
    show: bool
    tell: bool | None
    frames: int | None
    seconds: float | None
    timeout: float
    max_retries: int | None
    give_up_after: float | None
    dry_run: bool
    trust: bool
    as_json: bool

    @property
    def to_stdout(self) -> bool:
        """Whether stdout gets one JSON line per frame."""
        return self.out == Path("-") or (self.out is None and self.save == ("jsonl",))

    @property
    def folder(self) -> Path | None:
        """Folder for results."""
        return None if self.to_stdout else self.out

    @property
    def lines(self) -> IO[str] | None:
        """Where JSON lines go if not into a file."""
        return sys.stdout if self.to_stdout else None

    def opener(self, model: Path) -> Callable[[], LoadedDetector]:
        """Return what opens the detector once all else is checked; a dry run exports nothing."""
        from duet.fastest.load import load

        runtime = None if self.dry_run else self.runtime
        return lambda: load(model, self.device, runtime=runtime, trust=self.trust, notify=note)


@click.command("predict", epilog=EPILOG)
@click.argument("model", type=PATH, metavar="MODEL")
@click.argument("source", metavar="SOURCE")
@click.option(
    "--conf",
    type=click.FloatRange(0, 1),
    help=f"Lowest score that counts [the detector's own of each class, else {CONFIDENCE}].",
)
@click.option(
    "--iou",
    type=click.FloatRange(0, 1),
    default=IOU,
    show_default=True,
    help="Boxes of one class that overlap more are one object.",
)
@click.option(
    "--agnostic-nms",
    type=click.Choice(get_args(Agnostic)),
    default=AGNOSTIC,
    show_default=True,
    help="Keep one box per object: the best of all classes; or of different increments, where both "
    "are calibrated and one is clearly surer.",
)
@click.option("--out", type=PATH, help="Folder for results; - is stdout.")
@click.option(
    "--save", multiple=True, type=click.Choice(tuple(SAVERS)), help="What to keep; repeatable."
)
@click.option("--track", is_flag=True, help="Give objects track ids [extra: track].")
@click.option(
    "--every-frame/--newest-frame",
    "every",
    default=None,
    help="Look at all frames, or skip those that came meanwhile [files: every; live: newest].",
)
@click.option("--show", is_flag=True, help="Show a window.")
@click.option(
    "--show-increments/--no-show-increments",
    "tell",
    default=None,
    help="Write the increment of its class at each box [videos with several].",
)
@click.option("--frames", type=click.IntRange(1), help="Stop after so many frames.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Stop after so long.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds of silence after which a network source is lost.",
)
@click.option("--max-retries", type=click.IntRange(0), help="Tries in a row to rejoin [no limit].")
@click.option(
    "--give-up-after", type=click.FloatRange(0), help="Seconds of trying to rejoin [no limit]."
)
@device_option
@click.option(
    "--runtime",
    type=click.Choice(get_args(Runtime)),
    help="Program that runs a detector folder: onnx and openvino export it on first use, auto "
    "takes the fastest here [torch; an exported file has its own].",
)
@trust_option
@click.option("--dry-run", is_flag=True, help="Check everything, detect nothing.")
@json_option
def predict(model: Path, source: str, every: bool | None, **options: Any) -> None:
    """Detect objects in images (file, folder, glob), a video, a webcam (0) or a stream (URL).

    MODEL is a detector folder, an exported file, or a model of another program as `duet import`
    takes it.

    With --out, annotated copies and predictions.json of images are written there; of a video or
    stream what --save names, and summary.json. Originals are never changed. Boxes are left, top,
    right, bottom in pixels of the original.

    Live sources are looked at newest frame first and rejoined when they are lost; of a video file
    every frame is looked at.
    """
    from duet.inference.places import find_place

    job = Job(newest=None if every is None else not every, **options)
    place = find_place(source)
    _check(job, place)
    if place.moving:
        _predict_stream(model, place, job)
    else:
        _predict_images(model, source, job)


def _check(job: Job, place: Place) -> None:
    """Refuse options that do not fit together or the source."""
    if not place.moving:
        given = [f"--{key}" for key in _MOVING_ONLY if getattr(job, key) not in (None, False)]
        given += ["--every-frame/--newest-frame"] if job.newest is not None else []
        given += ["--save video"] if "video" in job.save else []
        if given:
            raise ConfigError(
                "only for videos, webcams and streams",
                where=", ".join(given),
                remedy=f"{place.shown} is taken for images: leave the option away",
            )
    if job.to_stdout and set(job.save) != {"jsonl"}:
        raise ConfigError("stdout takes one format only", where="--out -", remedy="--save jsonl")
    if job.to_stdout and job.as_json:
        raise ConfigError(
            "stdout can hold either the frames or the summary", where="--json",
            remedy="give --out DIR for the frames",
        )  # fmt: skip
    if job.save and job.out is None and not job.to_stdout:
        raise ConfigError("--save needs a folder", where="--save", remedy="add --out DIR")


def _predict_images(model: Path, source: str, job: Job) -> None:
    from duet.inference.predict import plan_source, predict_source

    out = job.folder
    if out is not None:
        tell_leftovers_in(out)
    if job.dry_run:
        detector, images = plan_source(
            job.opener(model), source, out=out, formats=job.save, notify=note
        )
        plan = _plan(detector, out) | {"images": [str(path) for path in images.paths]}
        text = f"would look at {_number(len(images.paths), 'image')}; nothing was done"
        emit(plan, job.as_json, lambda _: text)
        return
    with counted("detecting") as step:
        found = predict_source(
            job.opener(model), source, confidence=job.conf, iou=job.iou, agnostic=job.agnostic_nms,
            out=out, formats=job.save, lines=job.lines, tell=bool(job.tell), progress=step,
            notify=note,
        )  # fmt: skip
    if not job.to_stdout:
        document = {"schema": 1, **found.as_dict()}
        emit(document, job.as_json, lambda _: _text(document, found.detector, found.results))
    if out is None:
        note("next: add --out DIR for annotated images")
    else:
        note(f"written: {out} (annotated images, predictions.json)")
        hint("duet", "export", model, "--to", "onnx")
    found.require_all()


def _predict_stream(model: Path, place: Place, job: Job) -> None:
    from duet.inference.options import Options, Retry
    from duet.inference.watch import Watch

    out, formats = job.folder, job.save or ("video",)
    if out is not None:
        tell_leftovers_in(out)
    options = Options(
        job.conf, job.iou, job.agnostic_nms, job.track, job.newest, job.frames, job.seconds,
        job.timeout, Retry(attempts=job.max_retries, give_up_after=job.give_up_after), note,
    )  # fmt: skip
    watch = Watch(
        options, out=out, formats=formats, lines=job.lines, show=job.show, tell=job.tell,
        progress=_now_and_then(), ended=lambda tally, summary: _sum_up(tally, summary, job),
    )  # fmt: skip
    if job.dry_run:
        detector, stream = watch.open(job.opener(model), place)
        stream.close()
        plan = _plan(detector, out) | {"source": place.shown, "live": not stream.finite}
        emit(plan, job.as_json, lambda _: f"would look at {place.shown}; nothing was done")
        return
    watch(job.opener(model), place)
    if out is None:
        note("next: add --save video --out DIR to keep what was found")
    else:
        note(f"written: {out} ({', '.join(dict.fromkeys(formats))}, summary.json)")


def _now_and_then() -> Callable[[Tally], None]:
    """Return what tells people the state of a stream every few seconds."""
    last: float | None = None

    def progress(tally: Tally) -> None:
        nonlocal last
        last = time.monotonic() if last is None else last  # the first frame
        if time.monotonic() - last >= PLAIN_EVERY:
            last = time.monotonic()
            note(tally.line())

    return progress


def _sum_up(tally: Tally, summary: dict[str, Any], job: Job) -> None:
    """Print the summary, also of a source that ended badly."""
    if job.to_stdout:
        note(_summary_text(tally, summary))
    else:
        emit({"schema": 1, **summary}, job.as_json, lambda _: _summary_text(tally, summary))
    if summary["damaged"]:
        note(f"warning: {_number(summary['damaged'], 'packet')} could not be decoded")


def _summary_text(tally: Tally, summary: dict[str, Any]) -> str:
    stream, total = tally.stream, sum(tally.counts.values())
    dropped = f", {stream.dropped} dropped" if stream.newest else ""
    head = f"{_number(total, 'object')} in {_number(stream.looked_at, 'frame')}{dropped}"
    owners = [(one["name"], one["classes"]) for one in summary["increments"]]
    lines = [f"{head}, {tally.fps:.1f} frames per second", *_counted(owners, tally.counts)]
    if tally.tracks:
        tracks = sorted(tally.tracks.items())
        found = ", ".join(f"{len(ids)} {printable(name)}" for name, ids in tracks)
        lines.append(f"tracks: {found}")
    lines += _own_thresholds(summary)
    if stream.looked_at:
        lines.append(stream.latency.table())
    return "\n".join(lines)


def _plan(detector: LoadedDetector, out: Path | None) -> dict[str, Any]:
    return {
        "schema": 1,
        "dry_run": True,
        "model": detector.facts.fingerprint,
        "out": None if out is None else str(out),
    }


def _text(
    document: dict[str, Any], detector: LoadedDetector, results: Sequence[ImageResult]
) -> str:
    """Return one line per image (of a few) and one per class found."""
    lines = [f"{printable(str(r.image))}: {_found(r)}" for r in results[:_LISTED]]
    if len(results) > _LISTED:
        lines.append(f"... and {len(results) - _LISTED} more images (--json lists all)")
    counts = Counter(name for result in results for name in result.detections.names)
    total = sum(counts.values())
    lines.append(f"{_number(total, 'object')} in {_number(len(results), 'image')}")
    found = _counted(detector.facts.increments, counts)
    return "\n".join([*lines, *found, *_own_thresholds(document)])


def _own_thresholds(document: dict[str, Any]) -> list[str]:
    """Return a line where not all classes count from the same score."""
    pairs = document["thresholds"].items()
    shown = ", ".join(f"{printable(name)} {value:.2f}" for name, value in [*pairs][:_LISTED])
    more = f", and {len(pairs) - _LISTED} more" if len(pairs) > _LISTED else ""
    return [f"counted from: {shown}{more}"] if len(set(document["thresholds"].values())) > 1 else []


def _counted(increments: Sequence[tuple[str, Sequence[str]]], counts: Counter[str]) -> list[str]:
    """Return one line per increment of which something was found."""
    lines = []
    for increment, classes in increments:
        found = [f"{counts[name]} {printable(name)}" for name in classes if counts[name]]
        if found:
            lines.append(f"  {printable(increment)}: {', '.join(found)}")
    return lines


def _found(result: ImageResult) -> str:
    pairs: list[Any] = list(zip(result.detections.names, result.detections.scores, strict=True))
    shown = ", ".join(f"{printable(name)} {score:.2f}" for name, score in pairs[:5])
    rest = f", and {len(pairs) - 5} more" if len(pairs) > 5 else ""
    return (shown or "nothing found") + rest


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
