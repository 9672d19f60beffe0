"""Show frames in a window, where OpenCV was built with one."""

from __future__ import annotations

import os
import re
import sys

from duet.errors import ConfigError
from duet.images import Image

_ESCAPE = 27


class Window:
    """A window of the desktop; ``q``, Escape or its cross close it.

    Raises:
        ConfigError: OpenCV has no windows, or there is no screen.
    """

    def __init__(self, title: str) -> None:
        import cv2

        toolkit = re.search(r"GUI:\s*(\S+)", cv2.getBuildInformation())
        if toolkit is None or toolkit[1] == "NONE":
            raise ConfigError(
                "the installed OpenCV cannot open windows",
                where="--show",
                remedy="pip uninstall opencv-python-headless, then pip install --force-reinstall "
                "opencv-python; or use --save video",
            )
        # Qt ends the whole process where it finds no screen: ask first.
        if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
            raise ConfigError("there is no screen", where="--show", remedy="use --save video")
        self._title = title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL)

    def show(self, image_BGR: Image) -> bool:
        """Show an image; returns False once the user closed the window."""
        import cv2

        cv2.imshow(self._title, image_BGR)
        key = cv2.waitKey(1) & 0xFF
        closed = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        return key not in (ord("q"), _ESCAPE) and not closed

    def close(self) -> None:
        """Close the window."""
        import cv2

        cv2.destroyWindow(self._title)
