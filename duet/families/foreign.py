"""Models that duet did not write: which paths are such models, and which family reads them."""

from __future__ import annotations

from pathlib import Path

from duet.errors import ModelError
from duet.families.table import FamilyRow, families, resolve_family
from duet.files import sha256_file, sha256_json


def is_foreign(path: Path) -> bool:
    """Tell whether a path looks like a model of some engine, without opening it."""
    return any(_reads(row, path) for row in families().values())


def family_of_file(path: Path, *, trust: bool = False) -> str:
    """Return the family that reads a foreign model.

    Args:
        path: A file such as `best.pt`, or a folder such as transformers writes.
        trust: **Dangerous**, see `duet.increments.guard.load_pt`.

    Raises:
        ModelError: No family reads it, or the file is damaged or refused.
    """
    names = [name for name, row in families().items() if _reads(row, path)]
    if len(names) > 1:  # several families of one engine share a suffix: ask what is inside
        names = [name for name in names if resolve_family(name).recognises(path, trust=trust)]
    if len(names) != 1:
        told = f"{' and '.join(names)} claim it" if names else "no detector family knows it"
        raise ModelError(
            f"cannot tell whose model this is: {told}",
            where=str(path),
            remedy="give a detection model that Ultralytics or transformers saved",
        )
    return names[0]


def foreign_fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, or one over the names and contents of a folder's files."""
    if path.is_file():
        return sha256_file(path)
    files = sorted(entry for entry in path.iterdir() if entry.is_file())
    return sha256_json({entry.name: sha256_file(entry) for entry in files})


def _reads(row: FamilyRow, path: Path) -> bool:
    return any(
        path.suffix == known if known.startswith(".") else (path / known).is_file()
        for known in row.files
    )
