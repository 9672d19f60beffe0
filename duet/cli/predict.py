"""`duet predict`: detect objects in images, videos, webcams and network streams."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import PATH, emit, hint, json_option, tell_leftovers_in, trust_option
from duet.errors import ConfigError
from duet.progress import PLAIN_EVERY, counting, note
from duet.text import printable

if TYPE_CHECKING:
    from duet.inference.detector import LoadedDetector
    from duet.inference.places import Place
    from duet.inference.predict import ImageResult
    from duet.inference.saving import Saver
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

SAVE = ("video", "frames", "txt", "coco", "jsonl")
_LISTED = 20  # images that the summary names one by one
_MOVING_ONLY = {
    "track": "--track", "show": "--show", "frames": "--frames", "seconds": "--seconds",
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """The options of one call."""

    conf: float
    iou: float
    out: Path | None
    save: tuple[str, ...]
    device: str
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


@click.command("predict", epilog=EPILOG)
@click.argument("model", type=PATH, metavar="MODEL")
@click.argument("source", metavar="SOURCE")
@click.option(
    "--conf",
    type=click.FloatRange(0, 1),
    default=0.25,
    show_default=True,
    help="Lowest score that counts.",
)
@click.option(
    "--iou",
    type=click.FloatRange(0, 1),
    default=0.7,
    show_default=True,
    help="Boxes of one class that overlap more are one object.",
)
@click.option("--out", type=PATH, help="Folder for results; - is stdout.")
@click.option("--save", multiple=True, type=click.Choice(SAVE), help="What to keep; repeatable.")
@click.option("--track", is_flag=True, help="Give objects track ids [extra: track].")
@click.option(
    "--every-frame/--newest-frame",
    "every",
    default=None,
    help="Look at all frames, or skip those that came meanwhile [files: every; live: newest].",
)
@click.option("--show", is_flag=True, help="Show a window.")
@click.option(
    "--increments/--no-increments",
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
@click.option(
    "--device", default="cpu", show_default=True, help="cpu, mps, cuda, or a GPU: 1 or cuda:1."
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
        given = [
            flag for key, flag in _MOVING_ONLY.items() if getattr(job, key) not in (None, False)
        ]
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
    from duet.inference.load import load
    from duet.inference.predict import check_out, predict_source, predictions, save_results
    from duet.inference.sources import find_images

    images, out = find_images(source), job.folder
    if omission := images.omission():
        note(omission)
    if out is not None:
        check_out(out, images, job.save)
        tell_leftovers_in(out)
    detector = load(model, job.device, trust=job.trust, notify=note)
    if job.dry_run:
        plan = _plan(detector, out) | {"images": [str(path) for path in images.paths]}
        count = len(images.paths)
        text = f"would look at {_number(count, 'image')}; nothing was done"
        emit(plan, job.as_json, lambda _: text)
        return
    with counting("detecting") as step:
        results = predict_source(
            detector, images, confidence=job.conf, iou=job.iou, out=out, tell=bool(job.tell),
            progress=step,
        )  # fmt: skip
    save_results(results, detector, job.save, out, lines=sys.stdout if job.to_stdout else None)
    if not job.to_stdout:
        document = predictions(detector, results, confidence=job.conf, iou=job.iou)
        emit({"schema": 1, **document}, job.as_json, lambda _: _text(detector, results))
    if out is None:
        note("next: add --out DIR for annotated images")
    else:
        note(f"written: {out} (annotated images, predictions.json)")
        hint("duet", "export", model, "--to", "onnx")


def _predict_stream(model: Path, place: Place, job: Job) -> None:
    from duet.inference.load import load
    from duet.inference.predict import make_out
    from duet.inference.reader import Retry
    from duet.inference.saving import check_new, open_savers
    from duet.inference.stream import Options, open_stream
    from duet.inference.watch import Tally
    from duet.inference.window import Window

    out = job.folder
    if out is not None:
        check_new(out)
        tell_leftovers_in(out)
    options = Options(job.conf, job.iou, job.track, job.newest, job.frames, job.seconds)
    retry = Retry(attempts=job.max_retries, give_up_after=job.give_up_after)
    detector = load(model, job.device, trust=job.trust, notify=note)
    with ExitStack() as stack:
        window = Window(f"duet: {place.shown}") if job.show and not job.dry_run else None
        if window is not None:
            stack.callback(window.close)
        stream = stack.enter_context(
            open_stream(detector, place, options, timeout=job.timeout, retry=retry, notify=note)
        )
        if job.dry_run:
            plan = _plan(detector, out) | {"source": place.shown, "live": not stream.finite}
            emit(plan, job.as_json, lambda _: f"would look at {place.shown}; nothing was done")
            return
        if out is not None:
            make_out(out)
        formats = job.save or ("video",)
        lines = sys.stdout if job.to_stdout else None
        savers = open_savers(formats, out, detector, lines=lines)
        tally = Tally(stream)
        try:
            _watch(tally, savers, detector, job, None if window is None else window.show)
        finally:
            _sum_up(tally, detector, place, job)
    if out is None:
        note("next: add --save video --out DIR to keep what was found")
    else:
        note(f"written: {out} ({', '.join(dict.fromkeys(formats))}, summary.json)")


def _watch(
    tally: Tally,
    savers: Sequence[Saver],
    detector: LoadedDetector,
    job: Job,
    show: Callable[[Any], bool] | None,
) -> None:
    """Run until the source ends, a limit is reached, or somebody stops a live source."""
    from duet.inference.saving import DRAWN
    from duet.inference.watch import watch

    draws = job.folder is not None and bool(set(job.save or ("video",)) & set(DRAWN))
    several = len(detector.facts.increments) > 1
    last = time.monotonic()

    def progress() -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_EVERY:
            last = time.monotonic()
            note(tally.line())

    try:
        watch(
            tally.stream, tally, savers, detector.increments, draw=draws or show is not None,
            tell=several if job.tell is None else job.tell, show=show, progress=progress,
        )  # fmt: skip
    except KeyboardInterrupt:
        if tally.stream.finite:
            raise
        note("stopped")  # the way to end a camera


def _sum_up(tally: Tally, detector: LoadedDetector, place: Place, job: Job) -> None:
    """Write and print the summary, also of a source that ended badly."""
    from duet.files import write_json
    from duet.inference.watch import FORMAT, SCHEMA_VERSION

    facts = detector.facts
    counted = tally.as_dict()
    document = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "source": place.shown,
        "model": facts.fingerprint,
        "licence": facts.licence,
        "increments": [{"name": name, "classes": list(names)} for name, names in facts.increments],
        "confidence": job.conf,
        "iou": job.iou,
        **counted,
    }
    if job.folder is not None:
        write_json(job.folder / "summary.json", document)
    if job.to_stdout:
        note(_summary_text(tally, detector))
    else:
        emit({"schema": 1, **document}, job.as_json, lambda _: _summary_text(tally, detector))
    if counted["damaged"]:
        note(f"warning: {_number(counted['damaged'], 'packet')} could not be decoded")


def _summary_text(tally: Tally, detector: LoadedDetector) -> str:
    stream, total = tally.stream, sum(tally.counts.values())
    dropped = f", {stream.dropped} dropped" if stream.newest else ""
    head = f"{_number(total, 'object')} in {_number(stream.looked_at, 'frame')}{dropped}"
    lines = [f"{head}, {tally.fps:.1f} frames per second", *_counted(detector, tally.counts)]
    if tally.tracks:
        tracks = sorted(tally.tracks.items())
        found = ", ".join(f"{len(ids)} {printable(name)}" for name, ids in tracks)
        lines.append(f"tracks: {found}")
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


def _text(detector: LoadedDetector, results: Sequence[ImageResult]) -> str:
    """Return one line per image (of a few) and one per class found."""
    lines = [f"{printable(str(r.image))}: {_found(r)}" for r in results[:_LISTED]]
    if len(results) > _LISTED:
        lines.append(f"... and {len(results) - _LISTED} more images (--json lists all)")
    counts = Counter(name for result in results for name in result.detections.names)
    total = sum(counts.values())
    lines.append(f"{_number(total, 'object')} in {_number(len(results), 'image')}")
    return "\n".join([*lines, *_counted(detector, counts)])


def _counted(detector: LoadedDetector, counts: Counter[str]) -> list[str]:
    """Return one line per increment of which something was found."""
    lines = []
    for increment, classes in detector.facts.increments:
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
