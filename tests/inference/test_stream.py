"""Live detection: flat latency, lost cameras come back, every frame of a file, files that last."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result
from factories_detectors import make_detector
from places import REPO

import duet
from duet.cli.main import cli
from duet.detections import Detections
from duet.errors import ConfigError, DataError, DuetError, MissingExtraError, ModelError
from duet.inference.annotate import annotate, labels_of
from duet.inference.detector import DetectorFacts, LoadedDetector
from duet.inference.frames import Channel, Picture
from duet.inference.load import load
from duet.inference.options import Retry
from duet.inference.places import find_place, masked
from duet.inference.reader import Reader
from duet.inference.savers.base import Shot
from duet.inference.savers.movie import Movie
from duet.inference.tracking import NO_TRACK, TrackedDetections, Tracker
from duet.labels import LabelSpace

SERVER = REPO / "tools" / "stream_servers.py"
LABELS = LabelSpace(("cat", "dog", "bus"))
WIDTH, HEIGHT, FPS, COUNT = 192, 108, 25, 30

spec = importlib.util.spec_from_file_location("stream_servers", SERVER)
assert spec is not None
assert spec.loader is not None
servers = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = servers
spec.loader.exec_module(servers)


class Camera:
    """A server process, killed like a camera that lost its power."""

    def __init__(self, kind: str, *options: object) -> None:
        self.command = [sys.executable, str(SERVER), kind, "--size", "320x180", *map(str, options)]
        self.process = self._start()
        self.url = self.process.stdout.readline().strip()  # type: ignore[union-attr]

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]

    def restart(self) -> None:
        port = self.url.rpartition(":")[2].partition("/")[0]
        self.command += ["--port", port]
        self.process = self._start()


@pytest.fixture
def camera() -> Iterator[Callable[..., Camera]]:
    started: list[Camera] = []

    def start(*arguments: Any) -> Camera:
        started.append(Camera(*arguments))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_detector(tmp_path_factory.mktemp("stream") / "detector")


@pytest.fixture(scope="module")
def detector(folder: Path) -> LoadedDetector:
    return load(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def slow(detector: LoadedDetector, seconds: float) -> LoadedDetector:
    """Return the same detector, slower."""

    def look(images: Sequence[Any], **options: Any) -> list[Detections]:
        time.sleep(seconds)
        return detector.detector(images, **options)

    return LoadedDetector(look, detector.facts)


def pictures(count: int = COUNT) -> list[np.ndarray]:
    """Return images that carry their number, and noise enough for frames of equal size."""
    generator, images = np.random.default_rng(0), []
    for number in range(count):
        noise = generator.integers(60, 120, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
        image = noise.repeat(4, axis=0).repeat(4, axis=1)
        servers.write_stamp(image, number)
        images.append(image)
    return images


def write_clip(path: Path, *, codec: str = "libx264", **options: str) -> Path:
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for image in pictures():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), "f4"), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def half(path: Path) -> Path:
    os.truncate(path, path.stat().st_size // 2)
    return path


def after(stream: Any, count: int, act: Callable[[], None]) -> None:
    """Iterate to the end, and act at frame number ``count``."""
    for number, _ in enumerate(stream):
        if number == count:
            act()


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "duet-reader"]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["predict", *map(str, arguments)], standalone_mode=False)


def failure(result: Result) -> DuetError:
    assert isinstance(result.exception, DuetError), result.exception
    return result.exception


# Sources


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (0, "webcam"), ("2", "webcam"), ("clip.MP4", "file"), (Path("a/b.mkv"), "file"),
        ("rtsp://camera/1", "url"), ("HTTP://camera/x.jpg", "url"), ("photos", "images"),
        ("*.mp4", "images"), ("a.png", "images"),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_source_is(source: str | int | Path, kind: str) -> None:
    assert find_place(source).kind == kind


def test_a_file_with_the_name_of_a_number_is_no_webcam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_place("0").kind == "images"


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://admin:s3cret@camera:554/1",
        "rtsp://admin:s3cret@x@camera/1",
        "rtsp://s3cret@camera/1",
        "http://camera/video?user=a&password=s3cret&size=1",
        "http://camera/video?access_token=s3cret",
        "rtsp://admin:s3cret@[bad/1",
    ],
)
def test_passwords_are_masked(url: str) -> None:
    place = find_place(url)
    assert place.target == url
    for text in (masked(url), place.shown, repr(place)):
        assert "s3cret" not in text
        assert "***" in text


def test_an_unknown_scheme_names_the_nearest(detector: LoadedDetector) -> None:
    with pytest.raises(DataError, match="did you mean 'rtsps'"):
        detector.stream("rtps://user:s3cret@camera/1")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda at: at / "no.mp4", "no such file"),
        (lambda at: (at / "d.mp4").mkdir() or at / "d.mp4", "not a file"),
        (lambda at: (at / "z.mp4").touch() or at / "z.mp4", "the file is empty"),
        (lambda at: (at / "t.mp4").write_text("x" * 500) and at / "t.mp4", "is no video"),
        (lambda at: half(write_clip(at / "cut.mp4")), "is no video"),
        (lambda at: write_sound(at / "sound.mp4"), "no video .*only audio"),
        (lambda at: at / "photos", "not a video"),
        (lambda at: 63, "no such webcam"),
        (lambda at: "rtsp://u:s3cret@127.0.0.1:9/cam", "connection refused"),
        (lambda at: "http://u:s3cret@127.0.0.1:9/cam", "connection refused"),
    ],
    ids=[
        "missing", "folder", "empty", "text", "no-index", "sound", "images", "webcam", "rtsp-port",
        "http-port",
    ],
)  # fmt: skip
def test_unusable_sources(
    make: Callable[[Path], Any], words: str, detector: LoadedDetector, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        detector.stream(make(tmp_path))
    assert caught.value.exit_code == 3
    assert caught.value.remedy
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None  # it would show the URL in a traceback
    assert not readers()


def test_a_wrong_path_on_a_server(detector: LoadedDetector, camera: Callable[..., Camera]) -> None:
    url = camera("mjpeg").url
    with pytest.raises(DataError, match="404"):
        detector.stream(url.replace("/cam", "/other"))


# Recordings


def test_every_frame_of_a_file_in_order(detector: LoadedDetector, clip: Path) -> None:
    with detector.stream(clip) as stream:
        seen = [(frame, found) for frame, found in stream]
    assert [servers.read_stamp(frame.image) for frame, _ in seen] == list(range(COUNT))
    assert [frame.index for frame, _ in seen] == list(range(COUNT))
    np.testing.assert_allclose([f.time for f, _ in seen], np.arange(COUNT) / FPS, atol=1e-6)
    assert (stream.looked_at, stream.dropped, stream.finite) == (COUNT, 0, True)
    assert not readers()
    frame, found = seen[7]
    alone = detector(frame.image)  # the stream adds nothing and takes nothing away
    np.testing.assert_array_equal(found.xyxy, alone.xyxy)
    np.testing.assert_array_equal(found.scores, alone.scores)


@pytest.mark.slow
def test_a_file_played_as_if_live_drops_frames(detector: LoadedDetector, clip: Path) -> None:
    seen = [frame for frame, _ in slow(detector, 0.15).stream(clip, newest=True)]
    assert 3 <= len(seen) < COUNT
    assert sum(frame.dropped for frame in seen) == seen[-1].index + 1 - len(seen)
    assert seen[-1].index == COUNT - 1
    stamps = [servers.read_stamp(frame.image) for frame in seen]
    assert stamps == [frame.index for frame in seen]


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("faststart.mp4", {"movflags": "faststart"}), ("mkv", {}), ("avi", {"codec": "mpeg4"})],
    ids=["mp4", "mkv", "avi"],
)
def test_a_file_that_was_cut_off_says_so_after_its_good_frames(
    suffix: str, options: dict[str, str], detector: LoadedDetector, tmp_path: Path
) -> None:
    path = half(write_clip(tmp_path / f"x.{suffix}", **options))
    seen = []
    with pytest.raises(DataError, match="cut off or damaged"):
        seen.extend(detector.stream(path))
    assert 1 <= len(seen) < COUNT
    assert not readers()


def test_damaged_packets_inside_a_file_are_counted(
    detector: LoadedDetector, clip: Path, tmp_path: Path
) -> None:
    content = bytearray(clip.read_bytes())
    start = content.index(b"mdat") + 4
    length = content.index(b"moov") - start
    noise = np.random.default_rng(0).bytes(length // 8)
    content[start + length // 2 : start + length // 2 + len(noise)] = noise
    (tmp_path / "bad.mp4").write_bytes(bytes(content))
    with detector.stream(tmp_path / "bad.mp4") as stream:
        seen = [frame.index for frame, _ in stream]
    assert stream.damaged >= 1
    assert COUNT // 2 < len(seen) < COUNT


def test_leaving_the_loop_stops_the_thread(detector: LoadedDetector, clip: Path) -> None:
    for _ in detector.stream(clip):
        break
    assert not readers()
    detector.stream(clip)  # opened and forgotten
    assert not readers()
    stream = detector.stream(clip)
    stream.close()
    stream.close()
    assert not readers()


def test_limits(detector: LoadedDetector, clip: Path) -> None:
    assert len(list(detector.stream(clip, frames=4))) == 4
    assert len(list(detector.stream(clip, seconds=0.4))) == 10
    with pytest.raises(ConfigError, match="frames must be above 0"):
        detector.stream(clip, frames=0)
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        detector.stream(clip, confidence=2)
    with pytest.raises(ConfigError, match="first must not be negative"):
        Retry(first=-1)


def test_an_error_in_the_detector_reaches_the_caller(clip: Path, detector: LoadedDetector) -> None:
    def broken(images: Sequence[Any], **_: Any) -> list[Detections]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        list(LoadedDetector(broken, detector.facts).stream(clip))
    assert not readers()


def test_a_portrait_video_is_upright(detector: LoadedDetector, clip: Path, tmp_path: Path) -> None:
    turned = tmp_path / "turned.mp4"
    with av.open(str(clip)) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = bytearray(turned.read_bytes())
    identity = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    quarter = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    place = data.index(identity, data.index(b"tkhd"))
    data[place : place + len(quarter)] = quarter
    turned.write_bytes(bytes(data))
    frame, _ = next(iter(detector.stream(turned)))
    assert frame.image.shape == (WIDTH, HEIGHT, 3)
    # The stamp was in the upper left corner; a quarter turn clockwise brings it to the right.
    assert servers.read_stamp(np.ascontiguousarray(np.rot90(frame.image, 1))) == 0


# Live sources


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rtsp", "mjpeg"])
def test_latency_stays_flat_where_the_detector_is_slower(
    kind: str, detector: LoadedDetector, camera: Callable[..., Camera]
) -> None:
    url, ages = camera(kind).url, []
    with slow(detector, 0.1).stream(url, seconds=5) as stream:
        for frame, _ in stream:
            ages.append(servers.age_ms(frame.image, time.monotonic()))
    known = [age for age in ages if age is not None]
    assert len(known) >= 3
    # Read in order, the last frame would be this old: those behind it were not looked at yet.
    backlog = 1000 * frame.time - 1000 * len(ages) / 30
    assert np.median(known[-5:]) < backlog / 2
    assert stream.dropped > len(ages)
    assert stream.latency.as_dict()["inference"]["p50_ms"] >= 100
    assert not readers()


@pytest.mark.parametrize("kind", ["rtsp", "mjpeg"])
@pytest.mark.slow
def test_a_killed_camera_is_rejoined(
    kind: str, detector: LoadedDetector, camera: Callable[..., Camera]
) -> None:
    one, lines = camera(kind), []
    seen_before = seen_after = 0
    retry = Retry(first=0.2, longest=0.4, give_up_after=30)
    url = one.url.replace("://", "://user:s3cret@")
    with detector.stream(url, retry=retry, notify=lines.append, seconds=60) as stream:
        for frame, _ in stream:  # noqa: B007
            if stream.rejoined:
                seen_after += 1
            elif not lines:
                seen_before += 1
            if seen_before == 5 and not lines:
                one.kill()
                one.restart()
            if seen_after == 10:
                break
    assert (stream.rejoined, seen_after) == (1, 10)
    assert frame.index >= 10
    assert [line.split(": ")[1].split(" ")[0] for line in lines] == ["lost", "rejoined"]
    assert not any("s3cret" in line for line in lines)
    assert not readers()


@pytest.mark.slow
def test_a_camera_that_falls_silent_is_lost(
    detector: LoadedDetector, camera: Callable[..., Camera]
) -> None:
    one, lines = camera("mjpeg"), []
    stream = detector.stream(
        one.url, timeout=0.5, notify=lines.append, retry=Retry(first=0.1, attempts=2)
    )
    with pytest.raises(DataError, match="not back after 2 tries") as caught:
        after(stream, 3, lambda: one.process.send_signal(signal.SIGSTOP))
    assert "no answer in time" in lines[0]
    assert caught.value.exit_code == 3
    assert not readers()


@pytest.mark.slow
def test_a_stream_that_ends_again_and_again_is_given_up(
    detector: LoadedDetector, camera: Callable[..., Camera]
) -> None:
    one = camera("mjpeg", "--limit", 5)
    lines: list[str] = []
    stream = detector.stream(one.url, retry=Retry(first=0.05, attempts=3), notify=lines.append)
    with pytest.raises(DataError, match="not back"):
        after(stream, 12, one.kill)
    assert stream.rejoined >= 1


def test_closing_does_not_wait_for_a_silent_camera(
    detector: LoadedDetector, camera: Callable[..., Camera]
) -> None:
    one = camera("mjpeg")
    stream = detector.stream(one.url, timeout=4)
    next(iter(stream))
    one.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 3.5
    limit = time.monotonic() + 10
    while readers() and time.monotonic() < limit:
        time.sleep(0.1)
    assert not readers()  # it ended by itself when its timeout was over


@pytest.mark.parametrize("kind", ["rtsp", "mjpeg"])
@pytest.mark.slow
def test_corrupt_packets_do_not_end_a_stream(
    kind: str, detector: LoadedDetector, camera: Callable[..., Camera]
) -> None:
    url = camera(kind, "--corrupt", 0.2).url
    stream = detector.stream(url, seconds=20, frames=30, retry=Retry(first=0.1))
    assert len([1 for _ in stream]) == 30


def test_live_sources_refuse_every_frame(
    detector: LoadedDetector, camera: Callable[..., Camera]
) -> None:
    with pytest.raises(ConfigError, match="no 'every frame'"):
        detector.stream(camera("mjpeg").url, newest=False)
    with pytest.raises(ConfigError, match="no 'every frame'"):
        detector.stream(0, newest=False)
    assert not readers()


def test_a_recording_behind_http_is_read_whole(detector: LoadedDetector, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", movflags="faststart")  # this server cannot seek
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=clip.parent, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            port = server.stdout.readline().split(" port ")[1].split()[0]
            with detector.stream(f"http://127.0.0.1:{port}/{clip.name}") as stream:
                seen = [servers.read_stamp(frame.image) for frame, _ in stream]
        finally:
            server.kill()
    assert seen == list(range(COUNT))
    assert stream.finite


def test_an_unexpected_error_of_the_reader_is_shown() -> None:
    class Broken:
        finite, fps, damaged = False, 30.0, 0

        def pictures(self) -> Iterator[Picture]:
            yield Picture(lambda: np.zeros((2, 2, 3), np.uint8), None, time.monotonic())
            raise ZeroDivisionError

        def close(self) -> None:
            pass

    place = find_place("rtsp://camera/1")
    reader = Reader(place, Broken, newest=None, retry=Retry(), notify=print)
    with pytest.raises(ZeroDivisionError):
        list(iter(reader.read, None))


def test_the_newest_picture_replaces_the_one_before() -> None:
    channel = Channel(newest=True)
    for number in range(3):
        assert channel.put(Picture(lambda: np.zeros((1, 1, 3), np.uint8), float(number), 0.0))
    item = channel.take()
    assert item is not None
    assert (item[0], item[1].time) == (2, 2.0)
    assert channel.take(until=time.monotonic() + 0.01) is None
    channel.end()
    assert channel.take() is None
    assert not channel.put(item[1])


def test_the_wait_before_a_retry_grows_up_to_its_limit() -> None:
    retry = Retry(first=1.0, longest=8.0)
    for attempt, expected in enumerate([1, 2, 4, 8, 8, 8]):
        assert expected / 2 <= retry.wait(attempt) <= expected
    assert retry.wait(10_000) <= 8


# Tracks


def moving(step: int, *, class_id: int = 0, score: float = 0.9) -> Detections:
    box = np.array([[10 + 3 * step, 20, 50 + 3 * step, 60]], np.float32)
    return Detections(box, np.array([score]), np.array([class_id]), LABELS)


def test_one_object_keeps_its_track() -> None:
    tracker = Tracker(confidence=0.5, fps=10)
    ids = [tracker.update(moving(step), step / 10).track_ids.tolist() for step in range(6)]
    assert ids == [[NO_TRACK], *[[1]] * 5]


def test_a_low_score_continues_a_track_but_begins_none() -> None:
    tracker = Tracker(confidence=0.5, fps=10)
    assert len(tracker.update(moving(0, score=0.2), 0.0)) == 0
    for step in range(1, 4):
        tracker.update(moving(step), step / 10)
    weak = tracker.update(moving(4, score=0.2), 0.4)
    assert weak.track_ids.tolist() == [1]


def test_a_track_never_changes_its_class() -> None:
    tracker = Tracker(confidence=0.5, fps=10)
    names: dict[int, set[str]] = {}
    for step in range(12):
        found = tracker.update(moving(step, class_id=step // 3 % 2), step / 10)
        for track, name in zip(found.track_ids.tolist(), found.names, strict=True):
            names.setdefault(track, set()).add(name)
    names.pop(NO_TRACK, None)
    assert len(names) >= 2
    assert all(len(of_one) == 1 for of_one in names.values())


def test_a_track_ends_after_a_second_without_its_object() -> None:
    tracker = Tracker(confidence=0.5, fps=10)
    for step in range(3):
        tracker.update(moving(step), step / 10)
    tracker.update(Detections.empty(LABELS), 0.3)
    later = [tracker.update(moving(3), 5 + step / 10).track_ids.tolist() for step in range(3)]
    assert later[-1] == [2]


def test_two_frames_of_one_instant_are_tracked() -> None:
    tracker = Tracker(confidence=0.5, fps=10)
    for _ in range(3):
        found = tracker.update(moving(0), 1.0)
    assert found.track_ids.tolist() == [1]


def test_tracked_detections() -> None:
    base = moving(0)
    found = TrackedDetections(base.xyxy, base.scores, base.class_ids, LABELS, np.array([7]))
    assert found.as_records()[0]["track"] == 7
    assert found.to_supervision().tracker_id.tolist() == [7]
    assert len(found.above(0.95)) == 0
    assert labels_of(found, ("flat", "flat", "comic")) == ["cat #7 0.90 (flat)"]
    assert labels_of(base, None) == ["cat 0.90"]
    assert annotate(np.zeros((80, 80, 3), np.uint8), found, ("a", "a", "b"), tell=True).any()
    with pytest.raises(DataError, match="track_ids"):
        TrackedDetections(base.xyxy, base.scores, base.class_ids, LABELS, np.array([1, 2]))


def test_tracking_without_its_package(
    detector: LoadedDetector, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(MissingExtraError, match="trackers") as caught:
        detector.stream(clip, track=True)
    assert caught.value.exit_code == 5
    assert "pip install" in str(caught.value.remedy)
    assert not readers()


# Opening detectors, single images


def test_the_package_opens_detectors(folder: Path) -> None:
    detector = duet.load(folder)
    assert isinstance(detector, duet.Detector)
    assert detector.facts.increments == (("flat", ("cat", "dog")), ("comic", ("bus",)))
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    found = detector(image, confidence=0.05)
    assert isinstance(found, duet.Detections)
    assert len(found) == len(found.to_supervision())
    with pytest.raises(AttributeError):
        _ = duet.nothing  # type: ignore[attr-defined]


def test_importing_the_package_is_light() -> None:
    code = (
        "import duet, sys; print([m for m in ('torch', 'cv2', 'av', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), None],
    ids=["grey", "float", "empty", "none"],
)
def test_a_wrong_image_is_refused(image: Any, detector: LoadedDetector) -> None:
    with pytest.raises(DataError, match=r"expected an image of shape \(H, W, 3\)"):
        detector(image)


def test_exported_files_are_known_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "no.onnx")


def test_facts_are_checked() -> None:
    with pytest.raises(ModelError, match="no classes"):
        DetectorFacts("0", "MIT", 64, ())
    with pytest.raises(DataError, match="twice"):
        DetectorFacts("0", "MIT", 64, (("a", ("cat",)), ("b", ("cat",))))


# Files


@pytest.mark.slow
def test_everything_that_can_be_saved(folder: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    saves = [
        word for name in ("video", "frames", "txt", "coco", "jsonl") for word in ("--save", name)
    ]
    done = invoke(folder, clip, "--conf", 0.5, "--track", "--out", out, *saves, "--json")
    assert done.exception is None, done.exception
    summary = json.loads(done.stdout)
    assert (summary["frames"], summary["dropped"], summary["live"]) == (COUNT, 0, False)
    assert set(summary["latency"]) == {"capture", "inference", "track", "draw", "end to end"}
    assert json.loads((out / "summary.json").read_text())["counts"] == summary["counts"]

    lines = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(COUNT))
    total = sum(len(line["detections"]) for line in lines)
    assert total == sum(summary["counts"].values()) > 0
    first = lines[5]["detections"][0]
    assert set(first) == {"name", "score", "xyxy", "track", "increment"}

    with av.open(str(out / "video.mp4")) as movie:
        stream = movie.streams.video[0]
        times = [frame.time for frame in movie.decode(stream)]
    np.testing.assert_allclose(times, np.arange(COUNT) / FPS, atol=1e-6)
    assert (stream.width, stream.height) == (WIDTH, HEIGHT)
    assert len(list((out / "frames").glob("*.jpg"))) == COUNT

    assert (out / "labels/classes.txt").read_text().split() == ["cat", "dog", "bus"]
    row = (out / "labels/000005.txt").read_text().splitlines()[0].split()
    cx, cy, w, h, score = map(float, row[1:6])
    left, top, right, bottom = first["xyxy"]
    expected = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    np.testing.assert_allclose(
        [cx * WIDTH, cy * HEIGHT, w * WIDTH, h * HEIGHT, score], [*expected, first["score"]],
        atol=1e-2,
    )  # fmt: skip
    assert (row[6:] == [str(first["track"])]) if first["track"] else len(row) == 6

    coco = json.loads((out / "coco.json").read_text())
    assert len(coco["images"]) == COUNT
    assert len(coco["annotations"]) == total
    assert {a["category_id"] for a in coco["annotations"]} <= {1, 2, 3}
    assert [c["supercategory"] for c in coco["categories"]] == ["flat", "flat", "comic"]


def test_results_of_images(folder: Path, tmp_path: Path) -> None:
    import cv2

    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), pictures(1)[0])
    out = tmp_path / "out"
    saves = ["--save", "txt", "--save", "coco", "--save", "jsonl", "--save", "frames"]
    done = invoke(folder, f"{tmp_path}/*.png", "--conf", 0.5, "--out", out, *saves)
    assert done.exception is None, done.exception
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert names == [
        "a.png", "b.png", "coco.json", "detections.jsonl", "labels/a.txt", "labels/b.txt",
        "labels/classes.txt", "predictions.json",
    ]  # fmt: skip
    cv2.imwrite(str(tmp_path / "a.jpg"), pictures(1)[0])
    twins = invoke(folder, f"{tmp_path}/a.*", "--out", tmp_path / "other", "--save", "txt")
    assert "would share the file 'a.txt'" in str(failure(twins))
    assert not (tmp_path / "other").exists()
    piped = invoke(folder, tmp_path / "a.png", "--save", "jsonl", "--out", "-")
    assert json.loads(piped.stdout)["image"] == "a.png"


def test_frames_go_to_stdout(folder: Path, clip: Path) -> None:
    done = invoke(folder, clip, "--save", "jsonl", "--out", "-", "--frames", 3)
    assert done.exception is None, done.exception
    assert [json.loads(line)["frame"] for line in done.stdout.splitlines()] == [0, 1, 2]
    assert "end to end" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--save", "txt"], 2, "needs a folder"),
        (["--save", "txt", "--out", "-"], 2, "one format only"),
        (["--save", "jsonl", "--out", "-", "--json"], 2, "either the frames or the summary"),
        (["--out", "FULL"], 1, "not empty"),
    ],
)
def test_commands_that_cannot_work(
    options: list[str], code: int, words: str, folder: Path, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    options = [str(tmp_path / "full") if word == "FULL" else word for word in options]
    error = failure(invoke(folder, clip, *options))
    assert error.exit_code == code
    assert words in str(error)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("option", ["--track", "--every-frame", "--show", "--frames=3"])
def test_images_refuse_what_needs_a_video(option: str, folder: Path, tmp_path: Path) -> None:
    error = failure(invoke(folder, tmp_path, option))
    assert error.exit_code == 2
    assert "only for videos" in error.what


@pytest.mark.slow
def test_a_damaged_file_keeps_what_was_found(folder: Path, tmp_path: Path) -> None:
    path = half(write_clip(tmp_path / "x.mkv"))
    done = invoke(
        folder, path, "--save", "jsonl", "--save", "video", "--out", tmp_path / "out", "--json"
    )
    assert failure(done).exit_code == 3
    kept = (tmp_path / "out/detections.jsonl").read_text().splitlines()
    assert len(kept) == json.loads(done.stdout)["frames"] > 0
    with av.open(str(tmp_path / "out/video.mp4")) as movie:
        assert len(list(movie.decode(video=0))) == len(kept)


def test_dry_run_of_a_video(folder: Path, clip: Path, tmp_path: Path) -> None:
    done = invoke(folder, clip, "--out", tmp_path / "out", "--dry-run", "--json")
    assert json.loads(done.stdout)["live"] is False
    assert not (tmp_path / "out").exists()


def test_a_movie_takes_odd_sizes_and_changing_ones(
    detector: LoadedDetector, tmp_path: Path
) -> None:
    movie = Movie(tmp_path, detector)
    for number, (height, width) in enumerate(((51, 33), (51, 33), (80, 60))):
        image = np.full((height, width, 3), 60 * number, np.uint8)
        found = Detections.empty(LABELS)
        movie.add(Shot(f"{number}", width, height, found, image, number, 0.0))
    movie.close()
    movie.close()
    with av.open(str(tmp_path / "video.mp4")) as container:
        shapes = [(frame.height, frame.width) for frame in container.decode(video=0)]
    assert shapes == [(50, 32)] * 3


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_recording_of_a_camera_is_playable(
    how: signal.Signals, folder: Path, camera: Callable[..., Camera], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    saves = ["--save", "video", "--save", "jsonl", "--save", "coco"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from duet.cli.main import main; main()", "predict", str(folder),
         camera("mjpeg").url, *saves, "--conf", "0.5", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell starts background jobs deaf to Ctrl-C, and what they start inherits it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    lines, limit = out / "detections.jsonl", time.monotonic() + 240
    while time.monotonic() < limit and process.poll() is None:
        written = lines.read_text().splitlines() if lines.exists() else []
        if len(written) >= 6 and json.loads(written[-2])["time"] > 3.5:
            break
        time.sleep(0.1)
    process.send_signal(how)
    stdout, _ = process.communicate(timeout=120)
    kept = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(kept) >= 5
    with av.open(str(out / "video.mp4")) as movie:
        times = [frame.time for frame in movie.decode(video=0)]
    assert len(times) >= 1
    # The last second or so is lost, and whatever came while the machine was busy elsewhere.
    assert times[-1] >= kept[len(kept) // 3]["time"] - 1.5
    if how is signal.SIGKILL:
        return
    assert process.returncode == 0
    assert "end to end" in stdout
    assert len(times) == len(kept) == len(json.loads((out / "coco.json").read_text())["images"])
