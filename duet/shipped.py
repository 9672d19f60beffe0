"""What comes with duet: configurations and weights, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

DEFAULT_STRATEGIES, ONTO_STRATEGIES = ("duet-plus", "seq-ft"), ("frozen-long", "seq-ft")
"""What a series is learned with that trains its first increment, and one that goes on from a
detector: there nothing may move, as nobody can measure what an unknown detector forgets
(docs/log.md). The second of each stands beside the first, to compare with."""

_PACKAGE = Path(__file__).resolve().parent


def shipped(*parts: str) -> Path:
    """Return the path of a shipped file, such as ``shipped("configs", "strategy")``."""
    installed = _PACKAGE / "_shipped"
    root = installed if installed.is_dir() else _PACKAGE.parent
    return root.joinpath(*parts)
