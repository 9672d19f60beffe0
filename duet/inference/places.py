"""What a user may name as a source: images, a recording, a webcam, a stream."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from duet.errors import DataError, did_you_mean
from duet.text import is_address, masked

Kind = Literal["images", "file", "webcam", "url"]

VIDEO_SUFFIXES = (
    ".264", ".265", ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif",
    ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg",
    ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogg",
    ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "srt", "udp")

_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


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
        DataError: A URL of a scheme that is not known, or what looks like a misspelled one.
    """
    text = str(source)
    # Before anything else, and so before anything could be printed: it may hold a password.
    if is_address(text) and not os.path.lexists(text):
        return Place("url", _checked(text), masked(text))
    if isinstance(source, int) or (text.isdecimal() and not Path(text).exists()):
        return Place("webcam", text, f"webcam {text}")
    if Path(text).suffix.lower() in VIDEO_SUFFIXES and not any(sign in text for sign in "*?"):
        return Place("file", text, text)
    return Place("images", text, text)


def _checked(text: str) -> str:
    """Return an address that can be opened."""
    address = text.strip()
    found = _URL.match(address)
    known = f"expected one of {', '.join(SCHEMES)}, a path, or the number of a webcam"
    if found is None:
        raise DataError(
            "looks like an address, but has no scheme and two slashes",
            where=masked(text),
            remedy=f"write rtsp://USER:PASSWORD@HOST/...; {known}",
        )
    scheme = found[1].lower()
    if scheme not in SCHEMES:
        hint = did_you_mean(scheme, SCHEMES)
        named = scheme if hint or masked(text) != "***" else "such"  # else it may be a user's name
        raise DataError(f"cannot open {named}:// sources{hint}", where=masked(text), remedy=known)
    return address
