"""What a user may name as a source: images, a recording, a webcam, a stream."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from duet.errors import DataError, did_you_mean

Kind = Literal["images", "file", "webcam", "url"]

VIDEO_SUFFIXES = (
    ".264", ".265", ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif",
    ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg",
    ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogg",
    ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "srt", "udp")

_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRET = re.compile(
    r"([?&;][^=&;]*(?:pass|pwd|token|key|secret|auth|user|login|sig)[^=&;]*=)[^&;#]*", re.IGNORECASE
)


@dataclass(frozen=True)
class Place:
    """Where frames come from.

    Attributes:
        kind: ``"images"`` (image, folder, glob), ``"file"`` (recording), ``"webcam"`` or ``"url"``.
        target: Path, number of the webcam, or URL **with its password**: never print it.
        shown: The same for people, files and errors, without secrets.
    """

    kind: Kind
    target: str
    shown: str

    def __repr__(self) -> str:
        return f"Place({self.kind}, {self.shown})"

    @property
    def moving(self) -> bool:
        """Whether it gives frames one after the other, not a set of images."""
        return self.kind != "images"


def find_place(source: str | Path | int) -> Place:
    """Tell what a source is; nothing is opened.

    Args:
        source: A path, a quoted glob, the number of a webcam (``0`` or ``"0"``), or a URL.

    Raises:
        DataError: A URL of a scheme that is not known.
    """
    text = str(source)
    scheme = _URL.match(text)
    if scheme is not None and not isinstance(source, Path):
        if scheme[1].lower() not in SCHEMES:
            raise DataError(
                f"cannot open {scheme[1]}:// sources{did_you_mean(scheme[1].lower(), SCHEMES)}",
                where=masked(text),
                remedy=f"expected one of {', '.join(SCHEMES)}, a path, or the number of a webcam",
            )
        return Place("url", text, masked(text))
    if isinstance(source, int) or (text.isdecimal() and not Path(text).exists()):
        return Place("webcam", text, f"webcam {text}")
    if Path(text).suffix.lower() in VIDEO_SUFFIXES and not any(sign in text for sign in "*?"):
        return Place("file", text, text)
    return Place("images", text, text)


def masked(url: str) -> str:
    """Return a URL without user name, password and values of secret-looking parameters."""
    try:
        netloc = urlsplit(url).netloc
    except ValueError:
        netloc = ""
    if not netloc:  # malformed: everything up to the last @ may be a password
        netloc = url.partition("://")[2].rpartition("/")[0] or url.partition("://")[2]
    if "@" in netloc:
        url = url.replace(netloc, "***@" + netloc.rpartition("@")[2], 1)
    return _SECRET.sub(r"\1***", url)
