"""The font that comes with matplotlib, found without loading matplotlib, which is slow to load."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def font_file(*, bold: bool = False) -> Path:
    """Return the file of DejaVu Sans: Latin, Greek and Cyrillic letters, signs such as ✓ and ✗.

    Raises:
        FileNotFoundError: matplotlib, which duet requires, is not installed.
    """
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("matplotlib is missing, whose font labels are written in")
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / name
