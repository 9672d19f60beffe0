"""Finding what a kept recipe names, also after folders were moved: identity is the fingerprint."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from duet.errors import ConfigError, DuetError
from duet.families.foreign import is_foreign
from duet.families.opened import foreign_fingerprint
from duet.increments.manifest import (
    MANIFEST,
    DetectorManifest,
    IncrementManifest,
    read_any_manifest,
)
from duet.recipes.recipe import Entry, Recipe
from duet.shipped import shipped
from duet.trees import resolved
from duet.weights.start import Start


class Finder:
    """Where the parts of a detector are now.

    Folders are searched once, and only if something is not where the recipe says.

    Args:
        detector: Detector folder; paths of its recipe are relative to it.
        roots: More folders to search. The increments of its run folder are always searched.

    Raises:
        ConfigError: A root is no folder.
    """

    def __init__(self, detector: Path, roots: Sequence[Path] = ()) -> None:
        for root in roots:
            if not root.is_dir():
                raise ConfigError(
                    "no such folder", where=f"--increments {root}", remedy="check the path"
                )
        self.detector = detector
        self._roots = (*roots, *_run_increments(detector))
        self._manifests: dict[str, Path] | None = None
        self._files: dict[str, list[Path]] = {}

    def path(self, entry: Entry) -> Path:
        """Return where the recipe says that a source is; absolute, without links."""
        return resolved(self.detector / entry.path)

    def entry(self, entry: Entry) -> Path | None:
        """Return where a source of the recipe is, or None."""
        path, wanted = self.path(entry), entry.fingerprint
        found = fingerprint_of(path)
        if found is not None and wanted in (None, found):
            return path
        if wanted is None:
            return None
        if is_foreign(path):
            self._index()
            named = self._files.get(path.name, ())
            return next((found for found in named if foreign_fingerprint(found) == wanted), None)
        return self.manifest(wanted)

    def manifest(self, fingerprint: str) -> Path | None:
        """Return the increment or detector folder with that fingerprint, or None."""
        return self._index().get(fingerprint)

    def _index(self) -> dict[str, Path]:
        if self._manifests is None:
            self._manifests = {}
            for root in self._roots:
                for path in _candidates(root):
                    if is_foreign(path):
                        self._files.setdefault(path.name, []).append(path)
                        continue
                    found = fingerprint_of(path)
                    if found is not None:
                        self._manifests.setdefault(found, path)
        return self._manifests


def fingerprint_of(path: Path) -> str | None:
    """Return the fingerprint of a folder's manifest or of a foreign model, or None."""
    if is_foreign(path):
        return foreign_fingerprint(path) if path.exists() else None
    try:
        manifest = read_any_manifest(path)
    except DuetError:
        return None
    if isinstance(manifest, DetectorManifest):
        return manifest.fingerprint
    return manifest.fingerprint()


def find_start(recipe: Recipe, folder: Path, sources: Sequence[Path]) -> Path | None:
    """Return the file with θ_0: at the recipe's path, or shipped with duet.

    Args:
        recipe: Names the file relative to ``folder``.
        folder: Detector folder.
        sources: Increment folders, whose manifests know θ_0's fingerprint.
    """
    if recipe.weights is not None:
        path = resolved(folder / recipe.weights)
        if path.is_file() or (path / MANIFEST).is_file():
            return path
    manifests = (read_any_manifest(path) for path in sources if (path / MANIFEST).is_file())
    known = next((m for m in manifests if isinstance(m, IncrementManifest)), None)
    return shipped_start(known.family, known.head, known.base) if known is not None else None


def shipped_start(family: str, head: str, base: str) -> Path | None:
    """Return the shipped weights whose shared tensors have the fingerprint ``base``, or None."""
    for path in sorted(shipped("weights").glob("*.safetensors")):
        try:
            found = Start(path, family).fingerprint(head)
        except DuetError:  # weights of another family, or a damaged file
            continue
        if found == base:
            return path
    return None


def _run_increments(detector: Path) -> tuple[Path, ...]:
    """Return `RUN/increments` for a detector at `RUN/models/METHOD/N-NAME`, if it is one."""
    above = resolved(detector).parents
    folder = above[2] / "increments" if len(above) > 2 else None
    return (folder,) if folder is not None and folder.is_dir() else ()


def _candidates(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(resolved(root)):
        below.sort()
        if MANIFEST in files or is_foreign(Path(folder)):
            yield Path(folder)
        yield from (Path(folder, name) for name in sorted(files) if is_foreign(Path(name)))
