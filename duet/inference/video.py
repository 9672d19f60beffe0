"""Recordings and network streams, opened with PyAV (FFmpeg)."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from duet.errors import DataError
from duet.images import Image
from duet.inference.ending import decodes, is_whole
from duet.inference.frames import Picture
from duet.inference.places import Place
from duet.trees import resolved

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

TIMEOUT = 5.0
"""Seconds of silence after which a network source counts as lost."""

_LIVE = {
    # Enough to find a key frame's header; FFmpeg's own five seconds would be the first latency.
    # Not "nobuffer": it throws away what was read till then, and with it the only key frame.
    "analyzeduration": "1000000",
    "fpsprobesize": "0",
    # Files named by a remote playlist are none of its business.
    "protocol_whitelist": "crypto,data,http,https,httpproxy,rtmp,rtmps,rtp,rtsp,rtsps,srt,srtp,"
    "tcp,tls,udp",
}
_FILE = {"protocol_whitelist": "file,crypto,data"}
_LONGEST_GROUP = 600  # packets from a key frame on that are remembered to ask about the last one


class VideoCapture:
    """An opened recording or stream.

    Args:
        place: A ``file`` or ``url``.
        timeout: Seconds without data after which opening or reading a URL fails.

    Raises:
        DataError: It cannot be opened, or holds no video.
    """

    def __init__(self, place: Place, *, timeout: float = TIMEOUT) -> None:
        self._place = place
        self._container = _open(place, timeout)
        try:
            self._stream = _video_stream(self._container, place)
        except DataError:
            self._container.close()
            raise
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps: float | None = float(rate) if rate else None
        # What has a length is a recording, also behind a URL; a live stream has none.
        name = self._container.format.name
        self.finite = (
            place.kind == "file" or bool(self._container.duration) or name.endswith("_pipe")
        )
        self.damaged = 0
        if self.finite:
            self._stream.thread_type = "AUTO"
        else:
            # Threads that decode frames side by side would each add a frame of latency.
            from av.codec.context import Flags

            self._stream.thread_type = "SLICE"
            self._stream.codec_context.flags |= Flags.low_delay

    def pictures(self) -> Iterator[Picture]:
        """Yield pictures; packets that cannot be decoded are counted in ``damaged``.

        Raises:
            DataError: A recording is cut off or holds nothing that can be decoded.
            OSError: A network stream broke.
        """
        import av

        shown, seconds, cut = 0, None, False
        first: float | None = None
        broken = None
        group: list[Packet[Any]] = []
        # The other streams of a recording tell where it ends; those of a camera are not even read.
        streams = () if self.finite else (self._stream,)
        try:
            for packet in itertools.chain(self._container.demux(*streams), (None,)):
                received = time.monotonic()
                if packet is not None:
                    # Empty ones repeat a picture (and would be taken for the end by the decoder).
                    if not packet.size:
                        continue
                    cut = packet.is_corrupt
                    if packet.stream_index != self._stream.index:
                        continue
                    group = _grown(group, packet) if self.finite else []
                for frame in self._decoded(packet):
                    seconds = None
                    if frame.pts is not None and self._stream.time_base is not None:
                        seconds = float(frame.pts * self._stream.time_base)
                        first = seconds if first is None else first
                        seconds -= first
                    shown += 1
                    yield Picture(lambda frame=frame: to_image(frame), seconds, received)  # type: ignore[misc]
        except av.error.FFmpegError as error:
            if not self.finite:
                raise OSError(reason(error)) from None
            broken = reason(error)
        if self.finite:
            self._check_end(shown, seconds, broken, cut or not self._ends_whole(group))

    def _decoded(self, packet: Packet[Any] | None) -> list[av.VideoFrame]:
        """Decode a packet; None asks for what the decoder still holds."""
        import av

        try:
            return self._stream.decode(packet)
        except av.error.EOFError:  # nothing is held
            return []
        except av.error.FFmpegError:  # one bad packet must not end a stream
            self.damaged += 1
            return []

    def _ends_whole(self, group: list[Packet[Any]]) -> bool:
        """Tell whether the data end where the file says, or with a whole picture."""
        if self._place.kind != "file":
            return True  # a transfer that ends early is an error of the network's
        whole = is_whole(Path(self._place.target), self._container.format.name)
        if whole is None and group:
            with _open(self._place, TIMEOUT) as anew:
                return decodes(_video_stream(anew, self._place), group)
        return whole is not False

    def _check_end(self, shown: int, seconds: float | None, broken: str | None, cut: bool) -> None:
        if not shown:
            local = self._place.kind == "file"
            raise DataError(
                "no frame can be decoded" + (f": {broken}" if broken else ""),
                where=self._place.shown,
                remedy="take the file from its source again"
                + ("" if local else "; if its server cannot seek, copy it to this machine first"),
            )
        if broken is None and not cut:
            return
        at = "" if seconds is None else f", at {seconds:.2f} s"
        raise DataError(
            f"the file is cut off or damaged: it ends after {shown} frames{at}"
            + (f" ({broken})" if broken else ""),
            where=self._place.shown,
            remedy="results up to there are kept; take the file from its source again",
        )

    def close(self) -> None:
        """Close the container."""
        self._container.close()


def _grown(group: list[Packet[Any]], packet: Packet[Any]) -> list[Packet[Any]]:
    """Return the packets since the last key frame; none where key frames are too rare."""
    if packet.is_keyframe:
        return [packet]
    return [*group, packet] if group and len(group) < _LONGEST_GROUP else []


def to_image(frame: av.VideoFrame) -> Image:
    """Return a decoded frame as upright ``(H, W, 3)`` uint8 BGR."""
    image: Any = frame.to_ndarray(format="bgr24")
    turns = round(frame.rotation / 90) % 4  # phones store the picture lying on its side
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _open(place: Place, timeout: float) -> InputContainer:
    import av

    live = place.kind == "url"
    target = place.target if live else str(resolved(Path(place.target)))
    if not live:
        _check_file(Path(place.target))
    options = dict(_LIVE if live else _FILE)
    if place.target.lower().startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # UDP loses packets without a word
    try:
        limits = (timeout, timeout) if live else None
        return cast("InputContainer", av.open(target, options=options, timeout=limits))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        # From None: the cause holds the URL, and with it the password.
        raise DataError(
            f"cannot open it: {reason(error)}", where=place.shown, remedy=_remedy(error, live)
        ) from None


def _check_file(path: Path) -> None:
    if not path.exists():
        raise DataError("no such file", where=str(path), remedy="check the path with ls")
    if not path.is_file():
        raise DataError("not a file", where=str(path), remedy="give the path of a video file")
    if not path.stat().st_size:
        raise DataError(
            "the file is empty", where=str(path), remedy="take it from its source again"
        )


def _video_stream(container: InputContainer, place: Place) -> VideoStream:
    from av.stream import Disposition

    for stream in container.streams.video:
        with contextlib.suppress(AttributeError):
            if stream.disposition & Disposition.attached_pic:  # the cover of a music file
                continue
        if stream.codec_context is not None:
            return stream
    kinds = sorted({stream.type for stream in container.streams})
    raise DataError(
        "holds no video that can be decoded" + (f", only {' and '.join(kinds)}" if kinds else ""),
        where=place.shown,
        remedy="give a video file or a stream with a picture",
    )


def reason(error: Exception) -> str:
    """Return what went wrong in words that hold no URL."""
    import av

    table = (
        (av.error.ExitError, "no answer in time"),
        (av.error.TimeoutError, "no answer in time"),
        (av.error.ConnectionRefusedError, "nothing listens there (connection refused)"),
        (av.error.HTTPUnauthorizedError, "user name or password is missing or wrong (401)"),
        (av.error.HTTPForbiddenError, "access is forbidden (403)"),
        (av.error.HTTPNotFoundError, "the server has no such stream (404)"),
        (av.error.EOFError, "the stream ended"),
        (av.error.InvalidDataError, "its content is no video that FFmpeg knows, or is damaged"),
    )
    for kind, words in table:
        if isinstance(error, kind):
            return words
    return str(getattr(error, "strerror", None) or type(error).__name__)


def _remedy(error: Exception, live: bool) -> str:
    import av

    if not live:
        return "check that it plays elsewhere, e.g. with ffprobe; take it from its source again"
    if isinstance(error, av.error.HTTPUnauthorizedError):
        return "give both in the URL: rtsp://USER:PASSWORD@HOST/PATH; they are never printed"
    return "check address, port and path, and that this machine reaches it; --timeout waits longer"
