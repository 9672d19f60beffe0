"""Recordings of every kind are read to their end, at their times; cut ones are told from whole."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from click.testing import CliRunner
from factories_detectors import make_detector

from duet.cli.main import cli
from duet.errors import DataError
from duet.inference.ending import decodes, is_whole
from duet.inference.frames import Picture
from duet.inference.places import find_place
from duet.inference.video import VideoCapture

WIDTH, HEIGHT = 64, 48
RATE = Fraction(1, 25)
STEADY = [number * RATE for number in range(30)]
STANDING = [*STEADY[:15], *(time + 4 for time in STEADY[15:])]
"""The picture in the middle stands for four seconds."""
SLIDES = [Fraction(time) for time in (0, 4, 9)]


def picture(number: int) -> av.VideoFrame:
    noise = np.random.default_rng(number).integers(0, 255, (HEIGHT // 4, WIDTH // 4, 3), np.uint8)
    return av.VideoFrame.from_ndarray(noise.repeat(4, 0).repeat(4, 1), format="bgr24")


def write(
    path: Path, codec: str, times: list[Fraction], *, tick: Fraction = RATE, last: int = 0,
    form: str | None = None, before: Fraction = Fraction(0), b_frames: int = 0,
    sound: float = 0.0, **options: str,
) -> Path:  # fmt: skip
    """Write pictures at ``times``, in seconds; the last one may state how long it stands."""
    with av.open(str(path), "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=1 / tick)
        stream.width, stream.height = WIDTH, HEIGHT
        known = [kind.name for kind in stream.codec.video_formats or ()]
        usual = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.pix_fmt = usual if usual in known or not known else known[0]
        stream.time_base = stream.codec_context.time_base = tick
        stream.codec_context.gop_size = 40 if before else 12
        if codec not in ("mjpeg", "gif"):
            stream.codec_context.max_b_frames = b_frames
        audio = container.add_stream("mp2", rate=16000) if sound else None
        packets: list[Any] = []
        for number, time in enumerate(times):
            frame = picture(number)
            frame.pts, frame.time_base = round(time / tick), tick
            packets += stream.encode(frame)
        packets += stream.encode()
        if last:
            packets[-1].duration = round(last / packets[-1].time_base)
        for packet in packets:
            packet.pts -= round(before / packet.time_base)
            packet.dts -= round(before / packet.time_base)
            container.mux(packet)
        if audio is not None:
            silence = np.zeros((1, round(16000 * sound)), np.int16)
            tone = av.AudioFrame.from_ndarray(silence, format="s16", layout="mono")
            tone.sample_rate, tone.pts = 16000, 0
            container.mux([*audio.encode(tone), *audio.encode()])
    return path


def read(path: Path) -> list[float]:
    """Return the times of all pictures; every one is decoded."""
    capture = VideoCapture(find_place(path))
    try:
        found = list(capture.pictures())
    finally:
        capture.close()
    assert all(one.image().shape == (HEIGHT, WIDTH, 3) for one in found)
    return [-1.0 if one.time is None else one.time for one in found]


TRIMMED = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}

SOUND: dict[str, Callable[[Path], tuple[Path, list[Fraction]]]] = {
    "plain.mp4": lambda p: (write(p, "libx264", STEADY), STEADY),
    "front.mp4": lambda p: (write(p, "libx264", STEADY, movflags="faststart"), STEADY),
    "fragments.mp4": lambda p: (write(p, "libx264", STEADY, **FRAGMENTS), STEADY),
    "b-frames.mp4": lambda p: (write(p, "libx264", STEADY, b_frames=2), STEADY),
    "edit-list.mp4": lambda p: (
        write(p, "libx264", STEADY, before=10 * RATE, **TRIMMED), STEADY[:20],
    ),
    "long-sound.mp4": lambda p: (write(p, "libx264", STEADY, sound=6.0), STEADY),
    "rates.mov": lambda p: (
        write(p, "libx264", [*STANDING, Fraction(7)], last=9), [*STANDING, Fraction(7)],
    ),
    "phone.3gp": lambda p: (write(p, "mpeg4", STEADY), STEADY),
    "nulls.avi": lambda p: (write(p, "mpeg4", STANDING), STANDING),
    "plain.avi": lambda p: (write(p, "mjpeg", STEADY), STEADY),
    "slides.mkv": lambda p: (write(p, "libx264", SLIDES, last=6), SLIDES),
    "slides.webm": lambda p: (write(p, "libvpx", SLIDES, last=6), SLIDES),
    "slow.webm": lambda p: (
        write(p, "libvpx", [Fraction(5 * n) for n in range(3)], tick=Fraction(5)),
        [Fraction(5 * n) for n in range(3)],
    ),
    "timelapse.mkv": lambda p: (
        write(p, "mpeg4", [Fraction(n) for n in range(8)], tick=Fraction(1)),
        [Fraction(n) for n in range(8)],
    ),
    "live.mkv": lambda p: (write(p, "mpeg4", STEADY, live="1"), STEADY),
    "plain.ts": lambda p: (write(p, "libx264", STEADY, form="mpegts", b_frames=2), STEADY),
    "disc.m2ts": lambda p: (
        write(p, "libx264", STEADY, form="mpegts", mpegts_m2ts_mode="1"), STEADY,
    ),
    "disc.vob": lambda p: (write(p, "mpeg2video", STEADY, form="vob"), STEADY),
    "old.mpg": lambda p: (write(p, "mpeg1video", STEADY, form="mpeg"), STEADY),
    "web.flv": lambda p: (write(p, "flv", STEADY), STEADY),
    "windows.asf": lambda p: (write(p, "wmv2", STEADY), STEADY),
    "free.ogv": lambda p: (write(p, "libvpx", STEADY, form="ogg"), STEADY),
    "raw.h264": lambda p: (write(p, "libx264", STEADY), STEADY),
    "plain.y4m": lambda p: (write(p, "wrapped_avframe", STEADY), STEADY),
    "raw.y4m": lambda p: (write(p, "rawvideo", STEADY), STEADY),
    "real.rm": lambda p: (write(p, "rv10", STEADY), STEADY),
    "reals.rm": lambda p: (write(p, "rv20", STEADY), STEADY),
    "moving.gif": lambda p: (write(p, "gif", STEADY), STEADY),
}  # fmt: skip


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[float]]]:
    folder = tmp_path_factory.mktemp("recordings")
    made = {name: make(folder / name) for name, make in SOUND.items()}
    return {name: (path, [float(time) for time in times]) for name, (path, times) in made.items()}


Recordings = dict[str, tuple[Path, list[float]]]


@pytest.mark.parametrize("name", SOUND)
def test_a_whole_recording_gives_every_picture_at_its_time(
    name: str, recordings: Recordings
) -> None:
    path, times = recordings[name]
    found = read(path)
    if name == "raw.h264":  # has no times of its own
        assert found == [-1.0] * len(times)
    else:
        # A GIF counts hundredths of a second; a program stream gives times to some pictures only.
        slack = {"moving.gif": 0.011, "old.mpg": 0.041}.get(name, 0.001)
        np.testing.assert_allclose(found, times, atol=slack)


CODECS = (
    "ffv1", "ffvhuff", "flashsv", "huffyuv", "jpeg2000", "libx264", "magicyuv", "mjpeg", "mpeg4",
    "png", "rawvideo", "utvideo", "wmv2", "zlib",
)  # fmt: skip


@pytest.mark.parametrize("codec", CODECS)
def test_a_decoder_gets_what_stands_in_the_container(codec: str, tmp_path: Path) -> None:
    """NUT holds any codec and states no end: whether the last picture decodes has to tell."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    path = write(tmp_path / "a.nut", codec, STEADY[:12])
    assert len(read(path)) == 12


def test_a_decoder_that_does_not_open_tells_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nut", "rawvideo", STEADY[:3])
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    bare = types.SimpleNamespace(codec_context=av.CodecContext.create("rawvideo", "r"))
    assert decodes(bare, packets)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "size"),
    [("yuv420p", (63, 47)), ("yuv422p", (63, 47)), ("yuv444p", (64, 48)), ("yuv411p", (63, 47)),
     ("gray", (64, 48)), ("gray16le", (63, 47)), ("yuv420p10le", (63, 47)), ("yuva444p", (64, 48))],
)  # fmt: skip
def test_pictures_of_all_kinds_in_a_y4m(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "a.y4m"
    options = {"strict": "-1"}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("rawvideo", rate=25, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = kind
        for _ in range(3):
            blank = np.zeros((size[1], size[0], 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(blank, format="bgr24")))
    assert is_whole(path, "yuv4mpegpipe")
    content = path.read_bytes()
    for keep in (len(content) - 1, len(content) // 2, len(content) // 3):
        path.write_bytes(content[:keep])
        assert is_whole(path, "yuv4mpegpipe") is False


CUT = (
    "front.mp4", "fragments.mp4", "nulls.avi", "plain.avi", "timelapse.mkv", "live.mkv",
    "slides.mkv", "slides.webm", "slow.webm", "plain.ts", "disc.m2ts", "disc.vob", "old.mpg",
    "web.flv", "windows.asf", "free.ogv", "raw.h264", "moving.gif", "plain.y4m", "real.rm",
    "reals.rm",
)  # fmt: skip


@pytest.mark.parametrize("share", [0.5, 0.83, 0.95])
@pytest.mark.parametrize("name", CUT)
def test_a_recording_that_was_cut_off_says_so(
    name: str, share: float, recordings: Recordings, tmp_path: Path
) -> None:
    path, times = recordings[name]
    content = path.read_bytes()
    keep = round(share * len(content))
    if path.suffix in (".ts", ".m2ts"):  # inside a picture, where a copy that stopped would end
        keep = keep // 188 * 188 - 30
    cut = tmp_path / name
    cut.write_bytes(content[:keep])
    capture = VideoCapture(find_place(cut))
    shown: list[Picture] = []
    with pytest.raises(DataError, match=r"cut off or damaged|no frame can be decoded") as caught:
        shown.extend(capture.pictures())
    capture.close()
    assert len(shown) < len(times) or share > 0.9  # what is missing may be the index alone
    assert f"after {len(shown)} frames" in caught.value.what or not shown


@pytest.mark.parametrize("name", ["plain.mp4", "phone.3gp"])
def test_a_recording_whose_index_is_cut_cannot_be_opened(
    name: str, recordings: Recordings, tmp_path: Path
) -> None:
    content = recordings[name][0].read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot open it"):
        VideoCapture(find_place(tmp_path / name))


def test_a_picture_cut_at_a_packet_of_a_transport_stream_is_told(
    recordings: Recordings, tmp_path: Path
) -> None:
    content = recordings["plain.ts"][0].read_bytes()
    packets = [content[at : at + 188] for at in range(0, len(content), 188)]
    picture_starts = [p[1] & 0x40 and p[1] & 0x1F == 1 and p[2] == 0 for p in packets]
    told = []
    for count in range(len(packets) // 2, len(packets) // 2 + 12):
        (tmp_path / "x.ts").write_bytes(b"".join(packets[:count]))
        whole = picture_starts[count] or packets[count][1] & 0x1F != 1
        try:
            read(tmp_path / "x.ts")
            told.append((whole, True))
        except DataError:
            told.append((whole, False))
    assert all(accepted for whole, accepted in told if whole)
    refused = [not accepted for whole, accepted in told if not whole]
    assert sum(refused) >= 0.7 * len(refused) > 3  # of some, only a few bits are missing


def test_bytes_of_other_programs_behind_the_end_are_no_damage(
    recordings: Recordings, tmp_path: Path
) -> None:
    for name in ("plain.mp4", "plain.avi", "slides.mkv", "web.flv", "free.ogv"):
        path, times = recordings[name]
        (tmp_path / name).write_bytes(path.read_bytes() + bytes(4096))
        assert len(read(tmp_path / name)) == len(times)


@pytest.mark.slow
def test_results_hold_one_line_per_picture(recordings: Recordings, tmp_path: Path) -> None:
    model = make_detector(tmp_path / "detector")
    for name in ("nulls.avi", "edit-list.mp4", "slides.webm", "raw.h264"):
        path, times = recordings[name]
        out = tmp_path / name
        done = CliRunner().invoke(
            cli,
            ["predict", str(model), str(path), "--save", "jsonl", "--out", str(out), "--json"],
        )
        assert done.exit_code == 0, done.output
        lines = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
        np.testing.assert_allclose([line["time"] for line in lines], times, atol=0.001)


@pytest.mark.parametrize(
    "suffix", [".3gp", ".asf", ".h264", ".ogv", ".vob", ".hevc", ".mts", ".m2ts", ".wmv", ".MP4"]
)
def test_videos_are_known_by_their_suffix(suffix: str) -> None:
    assert find_place(f"clip{suffix}").kind == "file"
