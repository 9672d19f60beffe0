"""Whether the numbers of a `results.json` are those that the run wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from duet.files import read_json, sha256_json
from duet.sealed import SEAL

_ASIDE = ("commands", "environment", SEAL)


def seal_of(document: Mapping[str, Any]) -> str:
    """Return the hash of what was measured: all but where, when and by which command."""
    return sha256_json({key: value for key, value in document.items() if key not in _ASIDE})


def was_changed(results_file: Path) -> bool:
    """Tell whether the numbers of a `results.json` are others than the run wrote.

    Raises:
        DataError: It cannot be read.
    """
    document = read_json(results_file)
    try:
        return bool(document.get(SEAL) != seal_of(document))
    except ValueError:  # NaN, which duet does not write
        return True
