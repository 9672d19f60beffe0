"""Small results that a repeated command reads back: checked, and computed again if damaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from duet.errors import DuetError
from duet.files import read_json
from duet.sealed import unsealed, write_sealed

Tell = Callable[[str], None]
"""Told in one line what was damaged and what becomes of it."""


def remember(path: Path, key: str, value: Mapping[str, Any]) -> None:
    """Keep ``value`` as the answer to ``key``."""
    write_sealed(path, {"key": key, **value})


def recall(path: Path, key: str, tell: Tell) -> dict[str, Any] | None:
    """Return what was kept as the answer to ``key``; None if it must be computed (again).

    Args:
        path: What `remember` wrote.
        key: The question.
        tell: See `Tell`.
    """
    if not path.exists():
        return None
    try:
        found = unsealed(read_json(path))
        if found.pop("key", None) != key:
            raise ValueError("it answers another question")
    except (DuetError, ValueError) as error:
        why = error.what if isinstance(error, DuetError) else error
        tell(f"{path}: {why}; computed again")
        return None
    return found
