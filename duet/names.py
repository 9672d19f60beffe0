"""Names that become names of files and folders, on any system."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator

LONGEST = 120
"""Bytes of UTF-8; file systems take 255, and numbers, splits and suffixes are added."""

_NOT_IN_FILES = re.compile(r'[/\\:*?"<>|]')
_OF_WINDOWS = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)", re.I)


def problem_with(name: str) -> str | None:
    """Return why a name cannot be the name of a file on every system; None if it can."""
    if not name.strip():
        return "is empty"
    if found := _NOT_IN_FILES.search(name):
        return f"contains {found[0]}"
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in name):
        return "contains a character that cannot be seen"
    if name != name.strip() or name[0] == "." or name[-1] == ".":
        return "begins or ends with a blank or a dot"
    if _OF_WINDOWS.fullmatch(name.partition(".")[0].rstrip()):
        return "is the name of a device on Windows"
    if len(name.encode()) > LONGEST:
        return f"is longer than {LONGEST} bytes"
    return None


def key(name: str) -> str:
    """Return what two names have in common that are one file name on some system."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def as_name(text: str) -> str:
    """Return a text as a name: itself if it is one, else without what is wrong, and a hash.

    The hash keeps apart what would be equal without it.
    """
    if problem_with(text) is None:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    plain = re.sub(r"[^\w-]+", "_", text).strip("_")[: LONGEST // 4]  # a letter has 4 bytes
    return f"{plain or 'name'}-{digest}"


def _checked(name: str) -> str:
    problem = problem_with(name)
    if problem:
        raise ValueError(f"it becomes the name of a folder, and {problem}")
    return name


Name = Annotated[str, AfterValidator(_checked)]
"""A name that becomes the name of a file or folder: see `problem_with`."""
