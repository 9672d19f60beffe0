"""Write drawn frames as an MP4 whose frames keep their times."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from duet.errors import DuetError, write_remedy
from duet.files import vacated
from duet.images import Image
from duet.inference.detector import LoadedDetector
from duet.inference.savers.base import Shot

TICK = Fraction(1, 60_000)
"""Unit of time in seconds: 24, 25, 30, 60 and 29.97 frames per second fall on whole ticks, and
MPEG-4 Part 2 allows no finer unit than 1/65535."""

_CONTAINER = {
    # Pieces of a second, each playable; a proper index takes their place when the file is closed.
    "movflags": "hybrid_fragmented",
    "frag_duration": "1000000",
    "flush_packets": "1",
}
_H264 = {"preset": "veryfast", "tune": "zerolatency", "crf": "23"}
_KEY_FRAMES = 60  # frames from one to the next: where a player can jump to


class Movie:
    """The MP4 ``video.mp4`` in the making; H.264 if PyAV has the encoder, else MPEG-4 Part 2.

    A process that is killed leaves a playable file without its last second or so.

    Args:
        out: Folder that it is made in.
    """

    def __init__(self, out: Path, _detector: LoadedDetector) -> None:
        self._target = out / "video.mp4"
        self._container: Any = None
        self._stream: Any = None
        self._ticks = -1

    def add(self, shot: Shot) -> None:
        """Encode one drawn frame at its time; a frame of another size is fitted to the first.

        Raises:
            DuetError: It cannot be written.
        """
        import av

        if shot.drawn is None or shot.time is None:
            return
        try:
            if self._container is None:
                self._open(*shot.drawn.shape[1::-1])
            frame = av.VideoFrame.from_ndarray(self._fitted(shot.drawn), format="bgr24")
            self._ticks = max(self._ticks + 1, round(shot.time / TICK))
            frame.pts, frame.time_base = self._ticks, TICK
            self._container.mux(self._stream.encode(frame))
        except (av.error.FFmpegError, OSError) as error:
            raise self._refused(error) from error

    def _open(self, width: int, height: int) -> None:
        import av

        self._container = av.open(str(vacated(self._target)), "w", options=dict(_CONTAINER))
        modern = "libx264" in av.codecs_available
        stream = self._container.add_stream(
            "libx264" if modern else "mpeg4", options=dict(_H264) if modern else {}
        )
        # Chroma has half the resolution, so that an odd last row or column has none.
        stream.width, stream.height = max(2, width // 2 * 2), max(2, height // 2 * 2)
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = TICK
        stream.codec_context.gop_size = _KEY_FRAMES
        self._stream = stream

    def _fitted(self, image: Image) -> Image:
        import cv2

        width, height = self._stream.width, self._stream.height
        rows, columns = image.shape[:2]
        if 0 <= rows - height <= 1 and 0 <= columns - width <= 1:
            return np.ascontiguousarray(image[:height, :width])
        return np.asarray(cv2.resize(image, (width, height)), dtype=np.uint8)

    def close(self) -> None:
        """Write what the encoder still holds, and the index.

        Raises:
            DuetError: It cannot be written.
        """
        import av

        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            container.mux(self._stream.encode())
            container.close()
        except (av.error.FFmpegError, OSError) as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> DuetError:
        return DuetError(
            f"cannot write the video: {getattr(error, 'strerror', None) or error}",
            where=str(self._target),
            remedy=write_remedy(error, "another folder for --out"),
        )
