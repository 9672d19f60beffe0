"""What went into a detector, as far as its manifest and the folders that are found can tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
from duet.recipes.recipe import Entry
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
        increments are among these. Of each of them, None where it is not known:

        - ``kind``: ``base``, ``increment``, ``refinement``, ``independent``, ``detector`` or
          ``foreign``; ``domain``, ``images`` and ``licence`` of its training
        - ``classes``: Its classes that the detector has; ``adapts``: those known before it
        - ``method``, ``params`` and ``batchnorm``: How it was joined; None for the first one
        - ``scale``, ``alias`` and ``drop``: As the recipe says
        - ``path``: Where it is, or was; ``found``: whether it is there; ``intact``: whether its
          files are as they were written; ``problem``: what is wrong

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
    named = recipe.weights if recipe is not None else None
    return {
        "schema": 1,
        "detector": detector.place if isinstance(detector, Model) else str(detector),
        "fingerprint": manifest.fingerprint,
        "intact": not problems,
        "problems": problems,
        "family": manifest.family,
        "architecture": manifest.architecture,
        "head": manifest.head,
        "image_size": manifest.image_size,
        "licence": manifest.licence,
        "classes": [name for part in manifest.parts for name in part.classes],
        "recipe": recipe is not None,
        "method": recipe.method if recipe is not None else None,
        "geometry": recipe.geometry if recipe is not None else None,
        "weights": {"path": str(start) if start is not None else named, "found": start is not None},
        "increments": steps,
        "models": [
            _step(manifest, traces, finder, None, entry)
            for entry in entries
            if entry.fingerprint not in marks
        ],
        "merges": [
            {
                "method": trace.method,
                "stages": list(trace.stages),
                "part": trace.part,
                "batchnorm": dict(trace.batchnorm),
                "summary": asdict(trace.summary()),
            }
            for trace in traces
        ],
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
    mark = line.manifest if line is not None else entry.fingerprint if entry is not None else None
    name = entry_name(entry) if entry is not None else line.increment if line is not None else ""
    if entry is not None:
        path, old = finder.entry(entry), finder.path(entry)
    else:
        path, old = finder.manifest(mark) if mark is not None else None, None
    facts = _facts(path)
    merge, batchnorm = _how(line)
    intact, problem = _check(path, old)
    classes = _classes(manifest, traces, name, {name, *_inside(path)})
    where = path if path is not None else old
    return {
        "name": name, "kind": facts.get("kind"), "domain": facts.get("domain"),
        "images": facts.get("images"), "licence": facts.get("licence"), "classes": classes,
        "adapts": facts.get("adapts", ()), "method": merge.get("method"),
        "params": merge.get("params") or {}, "batchnorm": batchnorm,
        "scale": entry.scale if entry is not None else 1.0,
        "alias": entry.alias if entry is not None else {},
        "drop": entry.drop if entry is not None else (),
        "fingerprint": mark, "path": str(where) if where is not None else None,
        "found": path is not None, "intact": intact, "problem": problem,
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


def _how(line: Lineage | None) -> tuple[dict[str, Any], str | None]:
    """Return method and parameters, and the BatchNorm rule, of what joined an increment."""
    config: Mapping[str, Any] = (line.merge if line is not None else None) or {}
    merge, batchnorm = config.get("merge"), config.get("batchnorm")
    rule = batchnorm.get("rule") if isinstance(batchnorm, dict) else None
    return (merge if isinstance(merge, dict) else {}), rule


def _facts(path: Path | None) -> dict[str, Any]:
    """Return what a folder's manifest says about its training; empty if there is none."""
    if path is None:
        return {}
    if is_foreign(path):
        return {"kind": FOREIGN}
    found = read_any_manifest(path)
    if isinstance(found, IncrementManifest):
        return found.model_dump(include={"kind", "domain", "images", "licence", "adapts"})
    return {"kind": "detector", "licence": found.licence}


def _inside(path: Path | None) -> tuple[str, ...]:
    """Return the increments that a detector folder holds; none for other sources."""
    found = read_any_manifest(path) if path is not None and path.is_dir() else None
    return tuple(p.increment for p in found.parts) if isinstance(found, DetectorManifest) else ()


def _check(path: Path | None, old: Path | None) -> tuple[bool | None, str | None]:
    """Tell whether the files of a source are as they were written, and what is wrong."""
    if path is None:
        if old is not None and old.exists():
            return None, "another one is there now, with another fingerprint"
        return None, "not found"
    if path.is_file():  # found by its hash
        return True, None
    try:
        detector = isinstance(read_any_manifest(path), DetectorManifest)
        load_detector(path) if detector else load_increment(path)
    except DuetError as error:
        return False, error.what
    return True, None
