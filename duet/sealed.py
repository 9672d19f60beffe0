"""JSON that carries its own SHA-256, so that a flipped bit is found when it is read back.

It guards against damage and careless edits. Who edits on purpose can write the hash anew: what
must hold against them is bound to other files as well, see `duet.increments.manifest`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from duet.files import sha256_json, write_json

SEAL = "sha256"


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``value`` with the hash of all its other entries under the key `SEAL`."""
    return {**value, SEAL: sha256_json(value)}


def unsealed(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was sealed.

    Raises:
        ValueError: There is no seal, or it is that of something else.
    """
    content = {key: value for key, value in found.items() if key != SEAL}
    if SEAL not in found:
        raise ValueError(f"its own hash ('{SEAL}') is missing")
    if found[SEAL] != sha256_json(content):
        raise ValueError("its content is not the one that was written")
    return content


def write_sealed(target: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` and its hash as JSON, atomically."""
    write_json(target, sealed(value))
