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
    read_manifest,
)
from duet.recipes.recipe import Entry, Recipe
from duet.shipped import shipped
from duet.trees import resolved
from duet.weights.manifest import SUFFIXES
from duet.weights.start import Start
from duet.weights.store import cache_folder


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
    """Return the file with θ_0: at the recipe's path, or where `start_of` finds it.

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
    return start_of(known.family, known.head, known.base, sources) if known else None


def start_of(family: str, head: str, base: str, folders: Sequence[Path] = ()) -> Path | None:
    """Return the start weights whose shared tensors have the fingerprint ``base``.

    Looked at are those that the detectors of the increments' run folders name, those that come with
    duet, and downloaded ones.

    Args:
        family: Of the increments.
        head: Their head form.
        base: The fingerprint that they note.
        folders: Increment folders.
    """
    near = (path for folder in folders for path in _run_starts(folder))
    known = (
        path for root in (shipped("weights"), cache_folder()) for path in sorted(root.glob("*"))
    )
    for path in dict.fromkeys((*near, *known)):
        if not path.is_dir() and not (path.is_file() and path.suffix in SUFFIXES):
            continue  # whatever a stranger's recipe names: a pipe would be waited for
        try:
            found = Start(path, family).fingerprint(head)
        except DuetError:  # weights of another family, or a damaged file
            continue
        if found == base:
            return path
    return None


def _run_starts(increment: Path) -> Iterator[Path]:
    """Yield the start weights that detectors at `RUN/models` name, for one of its increments."""
    above = resolved(increment).parents
    run = above[2] if len(above) > 2 and above[1].name == "increments" else None
    for manifest in sorted(run.glob(f"models/*/*/{MANIFEST}")) if run is not None else ():
        try:
            recipe = read_manifest(manifest.parent, DetectorManifest).recipe or {}
        except DuetError:  # another one may tell
            continue
        if isinstance(named := recipe.get("weights"), str):
            path = resolved(manifest.parent / named)
            if path.exists():
                yield path


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
