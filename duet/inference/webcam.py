"""A webcam of this machine, read with OpenCV."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from duet.errors import DataError
from duet.inference.frames import Picture


class WebcamCapture:
    """An opened webcam.

    Args:
        index: Number of the device: 0 is the first.

    Raises:
        DataError: There is none, or another program holds it.
    """

    finite = False
    damaged = 0

    def __init__(self, index: int) -> None:
        import cv2

        log: Any = cv2.utils.logging
        level = log.setLogLevel(log.LOG_LEVEL_SILENT)  # the error below says it better
        try:
            self._device = cv2.VideoCapture(index)
        finally:
            log.setLogLevel(level)
        if not self._device.isOpened():
            raise DataError(
                "there is no such webcam, or another program uses it",
                where=f"webcam {index}",
                remedy="0 is the first one; on Linux `ls /dev/video*` lists them",
            )
        self._device.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # some drivers queue old frames
        self.fps: float | None = self._device.get(cv2.CAP_PROP_FPS) or None

    def pictures(self) -> Iterator[Picture]:
        """Yield pictures until the webcam fails.

        Raises:
            OSError: It gives no more frames.
        """
        while True:
            done, image = self._device.read()
            if not done:
                raise OSError("the webcam gives no more frames")
            taken = np.asarray(image, dtype=np.uint8)
            yield Picture(lambda taken=taken: taken, None, time.monotonic())  # type: ignore[misc]

    def close(self) -> None:
        """Release the device."""
        self._device.release()
