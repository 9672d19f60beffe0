"""What went into a detector, as far as its manifest and the folders that are found can tell.

Of each increment, and of each detector that was merged as a whole; None where it is not known:

- ``kind``: ``base``, ``increment``, ``refinement``, ``independent``, ``detector`` or ``foreign``;
  ``domain``, ``images`` and ``licence`` of its training
- ``classes``: its classes that the detector has; ``adapts``: those that were known before it
- ``method``, ``params`` and ``batchnorm``: how it was joined; None for the first one
- ``scale``, ``alias`` and ``drop``: as the recipe says
- ``path``: where it is, or was; ``found``: whether it is there; ``intact``: whether its files are
  as they were written; ``problem``: what is wrong
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from duet.errors import DuetError
from duet.families.foreign import is_foreign
from duet.increments.manifest import (
    DetectorManifest,
    IncrementManifest,
    Lineage,
    read_any_manifest,
)
from duet.increments.store import load_detector, load_increment, load_traces
from duet.merging.trace import MergeTrace
from duet.recipes.edits import kept_recipe
from duet.recipes.find import Finder, find_start
from duet.recipes.model import Model, manifest_and_folder
from duet.recipes.recipe import Entry, Recipe
from duet.recipes.sources import FOREIGN
from duet.recipes.words import entry_name


def read_history(detector: Path | Model, roots: Sequence[Path] = ()) -> dict[str, Any]:
    """Return what went into a detector; nothing but its manifest need exist.

    Args:
        detector: In a folder or in memory.
        roots: Folders to search for increments that were moved.

    Returns:
        JSON-ready data: facts of its manifest, what is wrong with its own files (``problems``),
        its recipe's method and geometry, and θ_0 (``weights``); a summary of each merge
        (``merges``); the ``increments``, oldest first; and whole ``models`` that were merged, whose
        increments are among these.

    Raises:
        ModelError: It is no detector folder, or its manifest is damaged.
        ConfigError: A root is no folder.
    """
    manifest, folder = manifest_and_folder(detector)
    finder, problems, recipe = Finder(folder, roots), list[str](), None
    traces = detector.traces if isinstance(detector, Model) else _traces(detector, problems)
    if manifest.recipe is not None:
        try:
            recipe = kept_recipe(manifest, folder)
        except DuetError as error:
            problems.append(error.what)
    entries = recipe.increments if recipe is not None else ()
    by_mark = {entry.fingerprint: entry for entry in entries if entry.fingerprint}
    marks = {line.manifest for line in manifest.lineage}
    steps = [
        _step(manifest, traces, finder, line, by_mark.get(line.manifest))
        for line in manifest.lineage
    ]
    found = [Path(step["path"]) for step in steps if step["found"]]
    start = find_start(recipe, folder, found) if recipe is not None else None
    whole = [entry for entry in entries if entry.fingerprint not in marks]
    return {
        "schema": 1,
        "detector": detector.place if isinstance(detector, Model) else str(detector),
        **_about(manifest, problems),
        **_merging(recipe, start),
        "increments": steps,
        "models": [_step(manifest, traces, finder, None, entry) for entry in whole],
        "merges": [_merge(trace) for trace in traces],
    }


def _about(manifest: DetectorManifest, problems: list[str]) -> dict[str, Any]:
    return {
        "fingerprint": manifest.fingerprint,
        "intact": not problems,
        "problems": problems,
        "family": manifest.family,
        "architecture": manifest.architecture,
        "head": manifest.head,
        "image_size": manifest.image_size,
        "licence": manifest.licence,
        "classes": [name for part in manifest.parts for name in part.classes],
        "scores": {
            n: one.model_dump() for part in manifest.parts for n, one in part.scores.items()
        },
    }


def _merging(recipe: Recipe | None, start: Path | None) -> dict[str, Any]:
    method, geometry, named = (
        (recipe.method, recipe.geometry, recipe.weights) if recipe is not None else (None,) * 3
    )
    weights = {"path": str(start) if start is not None else named, "found": start is not None}
    return {
        "recipe": recipe is not None, "method": method, "geometry": geometry, "weights": weights,
    }  # fmt: skip


def _merge(trace: MergeTrace) -> dict[str, Any]:
    return {
        "method": trace.method,
        "stages": list(trace.stages),
        "part": trace.part,
        "batchnorm": dict(trace.batchnorm),
        "summary": asdict(trace.summary()),
    }


def _traces(detector: Path, problems: list[str]) -> tuple[MergeTrace, ...]:
    """Return the traces of a folder, and note what is wrong with its files."""
    try:
        load_detector(detector)
    except DuetError as error:
        problems.append(error.what)
    try:
        return load_traces(detector)
    except DuetError as error:
        if error.what not in problems:
            problems.append(error.what)
        return ()


def _step(
    manifest: DetectorManifest, traces: Sequence[MergeTrace], finder: Finder,
    line: Lineage | None, entry: Entry | None,
) -> dict[str, Any]:  # fmt: skip
    """Return what is known of an increment or of a whole model."""
    if entry is not None:
        name, mark = entry_name(entry), line.manifest if line is not None else entry.fingerprint
        path, old = finder.entry(entry), finder.path(entry)
    else:
        assert line is not None
        name, mark, path, old = line.increment, line.manifest, finder.manifest(line.manifest), None
    facts, merge = _facts(path, old), (line.merge if line is not None else None) or {}
    joined: Any = merge.get("merge", {})
    statistics: Any = merge.get("batchnorm", {})
    owners, how, where = {name, *facts.get("inside", ())}, entry or Entry(path="."), path or old
    return {
        "name": name, "kind": facts.get("kind"), "domain": facts.get("domain"),
        "images": facts.get("images"), "licence": facts.get("licence"),
        "classes": _classes(manifest, traces, name, owners), "adapts": facts.get("adapts", ()),
        "method": joined.get("method"), "params": joined.get("params") or {},
        "batchnorm": statistics.get("rule"), "scale": how.scale, "alias": how.alias,
        "drop": how.drop, "fingerprint": mark, "path": str(where) if where is not None else None,
        "found": path is not None, "intact": facts.get("intact"), "problem": facts.get("problem"),
    }  # fmt: skip


def _classes(
    manifest: DetectorManifest, traces: Sequence[MergeTrace], name: str, owners: Collection[str]
) -> tuple[str, ...]:
    """Return the detector's classes that a model brought, alone or together with others."""
    shared = {trace.part: trace.classes for trace in traces if trace.part is not None}
    found: list[str] = []
    for part in manifest.parts:
        if part.increment in shared:
            brought: Collection[str] = shared[part.increment].get(name, ())
        else:
            brought = part.classes if part.increment in owners else ()
        found += [label for label in part.classes if label in brought]
    return tuple(found)


def _facts(path: Path | None, old: Path | None) -> dict[str, Any]:
    """Return what a source says of its training, and whether its files are as they were written."""
    if path is None:
        other = old is not None and old.exists()
        here = "another one is there now, with another fingerprint"
        return {"problem": here if other else "not found"}
    if is_foreign(path):  # found by its hash
        return {"kind": FOREIGN, "intact": True}
    kept, facts = read_any_manifest(path), dict[str, Any](intact=True)
    try:
        load_increment(path) if isinstance(kept, IncrementManifest) else load_detector(path)
    except DuetError as error:
        facts = {"intact": False, "problem": error.what}
    if isinstance(kept, IncrementManifest):
        return facts | kept.model_dump(include={"kind", "domain", "images", "licence", "adapts"})
    inside = tuple(part.increment for part in kept.parts)
    return facts | {"kind": "detector", "licence": kept.licence, "inside": inside}
