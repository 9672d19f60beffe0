"""Write what a chain produced as folders that can be moved."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from duet.errors import ModelError
from duet.families.table import resolve_family, resolve_roles
from duet.files import relative_path
from duet.increments.manifest import (
    DetectorManifest,
    IncrementManifest,
    Lineage,
    read_any_manifest,
)
from duet.increments.state import DetectorState
from duet.increments.store import IncrementFile, save_detector, save_increment
from duet.recipes.recipe import Entry, Recipe
from duet.runs.chain import Setting, StageResult
from duet.series import train_slice
from duet.training.config import Method
from duet.training.job import PLACES
from duet.vectors import TaskVector
from duet.vectors.tensors import fingerprint


@dataclass(frozen=True)
class Kept:
    """The folders of one stage.

    Attributes:
        increment: Task vector, head part and statistics of the stage alone.
        detector: The merged detector after it.
        lineage: What went into that detector.
    """

    increment: Path
    detector: Path
    lineage: tuple[Lineage, ...]


def keep_chain(
    folder: Path, setting: Setting, method: Method, results: Sequence[StageResult]
) -> None:
    """Write `increments/<method>/<name>` and `models/<method>/<n>-<name>` for every stage."""
    lineage: Sequence[Lineage] = ()
    previous: DetectorState | None = None
    for number, result in enumerate(results, start=1):
        lineage = keep_stage(folder, setting, method, result, lineage, previous, number).lineage
        previous = result.merged


def keep_stage(
    folder: Path,
    setting: Setting,
    method: Method,
    result: StageResult,
    lineage: Sequence[Lineage],
    previous: DetectorState | None,
    number: int,
) -> Kept:
    """Write the folders of one stage.

    A method that trains its old head rows (sequential fine-tuning, joint training) leaves no
    increment: its old rows are in no increment's file, so a merge could not rebuild the detector.

    Args:
        folder: Run folder.
        setting: See `Setting`.
        method: How the stage was learned.
        result: The stage.
        lineage: Of the detector before.
        previous: That detector; None at the base.
        number: Of the stage, 1 at the base.
    """  # fmt: skip
    increment = folder / "increments" / method.name / result.increment.name
    if method.old_part == "kept":
        kind: Literal["base", "increment"] = "increment" if previous else "base"
        item = _increment_file(setting, method, result, len(lineage), previous, kind)
        saved = save_increment(_vacate(setting, increment), item, overwrite=True)
        merge = _merge_config(method) if previous else None
        lineage = (
            *lineage, Lineage(increment=saved.name, manifest=saved.fingerprint(), merge=merge)
        )  # fmt: skip
    detector = folder / "models" / method.name / f"{number}-{result.increment.name}"
    manifest = DetectorManifest.for_state(
        result.merged,
        lineage=tuple(lineage),
        image_size=setting.schedule.image_size,
        licence=resolve_family(setting.family).licence,
        recipe=_recipe(setting, method, lineage, increment.parent, detector),
    )
    traces = (result.trace,) if result.trace is not None else ()
    save_detector(
        _vacate(setting, detector), result.merged, manifest, traces=traces, overwrite=True
    )
    return Kept(increment, detector, tuple(lineage))


def keep_independent(folder: Path, setting: Setting, method: Method, result: StageResult) -> Path:
    """Write `increments/<method>/<name>` of a stage that was trained from θ_0 alone."""
    target = folder / "increments" / method.name / result.increment.name
    item = _increment_file(setting, method, result, 0, None, "independent")
    save_increment(_vacate(setting, target), item, overwrite=True)
    return target


def _vacate(setting: Setting, folder: Path) -> Path:
    """Return ``folder``; if it has lost its manifest, what it holds is set aside, with a word."""
    if folder.is_dir() and any(folder.iterdir()):
        try:
            read_any_manifest(folder)
        except ModelError as error:
            aside = next(
                path
                for number in itertools.count(1)
                if not (path := folder.with_name(f"damaged-{number}-{folder.name}")).exists()
            )
            os.replace(folder, aside)
            note = f"{folder}: {error.what}; written anew, what was there is now {aside.name}"
            setting.lab.listen(folder.name, {"note": note})
    return folder


def _recipe(
    setting: Setting, method: Method, lineage: Sequence[Lineage], increments: Path, detector: Path
) -> dict[str, Any] | None:
    """Return how the detector can be merged again; None if no increment holds its old rows."""
    if not lineage:
        return None
    entries = tuple(
        Entry(
            path=relative_path(increments / item.increment, detector),
            name=item.increment,
            fingerprint=item.manifest,
        )
        for item in lineage
    )
    recipe = Recipe(
        method=method.merge.method, params=method.merge.params, batchnorm=method.batchnorm,
        geometry="sequential", increments=entries,
        weights=relative_path(setting.weights, detector) if setting.weights else None,
    )  # fmt: skip
    return recipe.model_dump(mode="json", by_alias=True, exclude_none=True)


def _increment_file(
    setting: Setting,
    method: Method,
    result: StageResult,
    index: int,
    previous: DetectorState | None,
    kind: Literal["base", "increment", "independent"],
) -> IncrementFile:
    family, rules = resolve_family(setting.family), resolve_roles(setting.family)
    theta_0 = rules.split_roles(setting.theta_0.tensors, method.head).shared
    own = result.trained.state
    if previous is None:
        own = family.recast(own, method.head)
    vector = TaskVector.between(theta_0, own.shared)
    increment = result.increment
    adapts = previous is not None and all(n in previous.labels for n in increment.classes)
    refit = result.refit.state.parts[-1] if result.refit else None
    manifest = IncrementManifest(
        kind=kind,
        name=increment.name,
        family=setting.family,
        architecture=setting.architecture,
        head=method.head,
        classes=() if adapts else increment.classes,
        adapts=increment.classes if adapts else (),
        domain=increment.domain,
        index=index,
        base=vector.base,
        parent=previous.fingerprint() if previous else None,
        config={
            "method": method.model_dump(mode="json"),
            "schedule": setting.schedule.model_dump(mode="json", exclude=set(PLACES)),
        },
        seed=setting.seed,
        versions=dict(result.trained.versions),
        data=train_slice(increment.data, increment.classes).sha256,
        images=result.trained.images_seen,
        bn_weight=float(result.trained.images_seen),
        refit_on=fingerprint(result.merged.shared) if refit else None,
        fisher_images=result.trained.fisher_images,
        licence=family.licence,
    )
    fisher = result.trained.fisher
    if fisher is not None:  # a base is trained as rows; other forms share fewer tensors
        fisher = {name: fisher[name] for name in vector.delta}
    part = None if adapts else own.parts[-1]
    return IncrementFile(manifest, vector, own.buffers, part, refit, fisher)


def _merge_config(method: Method) -> dict[str, Any]:
    dumped = method.model_dump(mode="json")
    return {key: dumped[key] for key in ("merge", "batchnorm")}
