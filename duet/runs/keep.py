"""Write what a chain produced as folders that can be moved."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from duet.errors import ModelError
from duet.files import relative_path
from duet.increments.manifest import (
    MANIFEST,
    DetectorManifest,
    IncrementManifest,
    Lineage,
    read_any_manifest,
    read_manifest,
)
from duet.increments.state import DetectorState
from duet.increments.store import IncrementFile, load_detector, save_detector, save_increment
from duet.recipes.recipe import Entry, Recipe
from duet.recipes.refined import rows_of
from duet.runs.onto import Onto
from duet.runs.setting import RETENTION, FinishedStage, Setting, StageResult
from duet.series import train_slice
from duet.training.config import Strategy
from duet.training.job import PLACES
from duet.vectors.task_vector import TaskVector
from duet.vectors.tensors import fingerprint


@dataclass(frozen=True)
class Behind:
    """What a stage has behind it.

    Attributes:
        merged: The detector before it; None at the base.
        lineage: What went into that detector.
        stages: Number of stages before.
        start: Folder of the detector that the chain goes on from; None if it trained its base.
        image_size: Side of that detector's images in pixels; 0 at the base.
    """

    merged: DetectorState | None = None
    lineage: tuple[Lineage, ...] = ()
    stages: int = 0
    start: Path | None = None
    image_size: int = 0


@dataclass(frozen=True)
class Kept:
    """The folders of one stage.

    Attributes:
        increment: Task vector, head part and statistics of the stage alone.
        detector: The merged detector after it.
        behind: What the next stage has behind it.
    """

    increment: Path
    detector: Path
    behind: Behind


def keep_chain(
    folder: Path, setting: Setting, strategy: Strategy, results: Iterable[StageResult]
) -> list[FinishedStage]:
    """Write `increments/<strategy>/<name>` and `models/<strategy>/<n>-<name>` for every stage.

    Each is written when it comes; the lab lets go of what is kept there.
    """
    return list(kept_stages(folder, setting, strategy, results))


def kept_stages(
    folder: Path, setting: Setting, strategy: Strategy, results: Iterable[StageResult]
) -> Iterator[FinishedStage]:
    """Yield the stages of a chain, each when it is kept, see `keep_chain`."""
    behind = Behind()
    for result in results:
        merged = result.merged
        if result.increment.detector is not None:
            behind = keep_start(folder, setting, strategy)
        else:
            kept = keep_stage(folder, setting, strategy, result, behind)
            setting.let_go(result, kept.detector, kept.increment)
            merged = load_detector(kept.detector).state
            behind = replace(kept.behind, merged=merged)
        yield result.finished(merged)


def keep_start(folder: Path, setting: Setting, strategy: Strategy) -> Behind:
    """Write the detector that a chain goes on from as `models/<strategy>/0-<name>`.

    Raises:
        ModelError: The chain in the folder goes on from another one, or trained its base.
    """
    assert setting.onto is not None
    onto = setting.onto
    require_chain(folder, strategy, onto)
    state, target = onto.in_form(strategy.head), _place_of(folder, strategy, onto)
    manifest = onto.manifest_of(state, target)
    save_detector(_vacate(setting, target), state, manifest, overwrite=True)
    return Behind(state, start_lineage(target), 1, target, manifest.image_size)


def require_chain(folder: Path, strategy: Strategy, onto: Onto | None) -> None:
    """Refuse a run folder whose chain of a strategy begins otherwise.

    Args:
        folder: Run folder.
        strategy: Whose chain.
        onto: The detector that it shall begin with; None for a base.

    Raises:
        ModelError: It begins with another detector, or trained its base, or did not.
    """
    models = folder / "models" / strategy.name
    first = [path for path in sorted(models.glob("[01]-*")) if path.is_dir()]
    if onto is not None:
        mark, target = onto.in_form(strategy.head).fingerprint(), _place_of(folder, strategy, onto)
        strange = next((path for path in first if not _follows(path, target, mark)), None)
        what = f"does not go on from '{onto.name}' as it is now: it begins with"
        remedy = "name another folder with --out, or use `duet increment` without --onto to go on"
    else:
        strange = next((path for path in first if path.name.startswith("0-")), None)
        what = "has no base, it goes on from"
        remedy = "use `duet increment`, or name another folder with --out"
    if strange is not None:
        raise ModelError(
            f"the chain of '{strategy.name}' in this run folder {what} {strange.name}",
            where=str(folder),
            remedy=remedy,
        )


def require_place(folder: Path, strategy: Strategy, name: str, *, independent: bool) -> None:
    """Refuse to write an increment over one of the other kind, which would be lost.

    Args:
        folder: Run folder.
        strategy: How it is to be learned.
        name: The increment.
        independent: Whether it is trained from θ_0 alone, and not in a chain.

    Raises:
        ModelError: The folder holds one of the other kind.
    """
    target = folder / "increments" / strategy.name / name
    try:
        kept = read_manifest(target, IncrementManifest)
    except ModelError:
        return  # there is none, or it is damaged: it is written anew
    if (kept.kind == "independent") is not independent:
        what = "belongs to a chain" if independent else "was trained on its own (--independent)"
        raise ModelError(
            f"the '{name}' that is there {what}, and would be lost",
            where=str(target),
            remedy="name another folder with --out",
        )


def _place_of(folder: Path, strategy: Strategy, onto: Onto) -> Path:
    return folder / "models" / strategy.name / f"0-{onto.name}"


def start_lineage(start: Path) -> tuple[Lineage, ...]:
    """Return what went into the kept start of a chain, or that it is all that is known."""
    manifest = read_manifest(start, DetectorManifest)
    own = Lineage(increment=manifest.name_in(start), manifest=manifest.fingerprint)
    return manifest.lineage or (own,)


def _follows(kept: Path, start: Path, mark: str) -> bool:
    """Tell whether a first folder of a chain is that start, or was learned on it.

    One without a manifest says nothing: it is written anew.

    Args:
        kept: The first folder.
        start: Where the start belongs.
        mark: Its fingerprint.
    """
    begins = kept.name.startswith("0-")
    if not (kept / MANIFEST).is_file():
        return not begins or kept.name == start.name
    manifest = read_manifest(kept, DetectorManifest)
    if begins:
        return kept.name == start.name and manifest.fingerprint == mark
    if manifest.recipe is None:
        return (start / MANIFEST).is_file()
    return Recipe.model_validate(manifest.recipe).increments[0].fingerprint == mark


def keep_stage(
    folder: Path, setting: Setting, strategy: Strategy, result: StageResult, before: Behind
) -> Kept:
    """Write the folders of one stage.

    A strategy that trains its old head rows (sequential fine-tuning, joint training) leaves no
    increment: its old rows are in no increment's file, so a merge could not rebuild the detector.

    Args:
        folder: Run folder.
        setting: See `Setting`.
        strategy: How the stage was learned.
        result: The stage.
        before: What it has behind it.
    """
    lineage, previous = before.lineage, before.merged
    number = before.stages + (1 if before.start is None else 0)
    # As `duet merge` has it: what an old class needs to be seen is not taken from it.
    size = max(before.image_size, setting.schedule.image_size)
    increment = folder / "increments" / strategy.name / result.increment.name
    if strategy.old_part == "kept":
        kind: Literal["base", "increment"] = "increment" if previous else "base"
        item = _increment_file(setting, strategy, result, before.stages, previous, kind)
        saved = save_increment(_vacate(setting, increment), item, overwrite=True)
        how = strategy.model_dump(mode="json", include={"merge", "batchnorm"})
        merge = how if previous else None
        lineage = (
            *lineage, Lineage(increment=saved.name, manifest=saved.fingerprint(), merge=merge)
        )  # fmt: skip
    detector = folder / "models" / strategy.name / f"{number}-{result.increment.name}"
    manifest = DetectorManifest.for_state(
        result.merged,
        lineage=tuple(lineage),
        image_size=size,
        licence=setting.engine.licence,
        recipe=_recipe(setting, strategy, lineage, before.start, increment.parent, detector),
    )
    traces = (result.trace,) if result.trace is not None else ()
    save_detector(
        _vacate(setting, detector), result.merged, manifest, traces=traces, overwrite=True
    )
    behind = Behind(result.merged, lineage, before.stages + 1, before.start, size)
    return Kept(increment, detector, behind)


def keep_independent(
    folder: Path, setting: Setting, strategy: Strategy, result: StageResult
) -> Path:
    """Write `increments/<strategy>/<name>` of a stage that was trained from θ_0 alone."""
    target = folder / "increments" / strategy.name / result.increment.name
    item = _increment_file(setting, strategy, result, 0, None, "independent")
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
    setting: Setting, strategy: Strategy, lineage: Sequence[Lineage], start: Path | None,
    increments: Path, detector: Path,
) -> dict[str, Any] | None:  # fmt: skip
    """Return how the detector can be merged again; None if no increment holds its old rows."""
    if strategy.old_part != "kept":
        return None
    first: tuple[Entry, ...] = ()
    if start is not None:
        manifest = read_manifest(start, DetectorManifest)
        name = manifest.name_in(start) if len(manifest.parts) == 1 else None
        path, mark = relative_path(start, detector), manifest.fingerprint
        first = (Entry(path=path, name=name, fingerprint=mark),)
        lineage = lineage[len(start_lineage(start)) :]
    entries = first + tuple(
        Entry(
            path=relative_path(increments / item.increment, detector),
            name=item.increment,
            fingerprint=item.manifest,
        )
        for item in lineage
    )
    weights = setting.weights or start
    recipe = Recipe(
        method=strategy.merge.method, params=strategy.merge.params, batchnorm=strategy.batchnorm,
        geometry="sequential", increments=entries,
        weights=relative_path(weights, detector) if weights else None,
    )  # fmt: skip
    return recipe.model_dump(mode="json", by_alias=True, exclude_none=True)


def _fisher(result: StageResult, vector: TaskVector) -> dict[str, Any] | None:
    """Return the Fisher of a vector; a base is trained as rows, other forms share fewer tensors."""
    fisher = result.trained.fisher
    return None if fisher is None else {name: fisher[name] for name in vector.delta}


def _retention(result: StageResult) -> dict[str, float]:
    """Return what `min_retention` measured of a stage; empty without one."""
    told = result.trace.facts.get(RETENTION, {}) if result.trace is not None else {}
    return {name: float(told[name]) for name in ("moved", "retained") if name in told}


def _increment_file(
    setting: Setting,
    strategy: Strategy,
    result: StageResult,
    index: int,
    previous: DetectorState | None,
    kind: Literal["base", "increment", "refinement", "independent"],
) -> IncrementFile:
    own = result.learned
    if previous is None:
        own = setting.engine.recast(own, strategy.head)
    vector = TaskVector.between(setting.shared_start(strategy.head), own.shared)
    increment = result.increment
    adapts = previous is not None and all(n in previous.labels for n in increment.classes)
    part = own.parts[-1]
    if adapts and strategy.refines:
        kind, part = "refinement", rows_of(own, increment.classes, increment.name)
    refit = result.refit.state.parts[-1] if result.refit else None
    manifest = IncrementManifest(
        kind=kind,
        name=increment.name,
        family=setting.family,
        architecture=setting.architecture,
        head=strategy.head,
        classes=() if adapts else increment.classes,
        adapts=increment.classes if adapts else (),
        domain=increment.domain,
        index=index,
        base=vector.base,
        parent=previous.fingerprint() if previous else None,
        config={
            "method": strategy.model_dump(mode="json"),  # a key that fingerprints hold
            "schedule": setting.schedule.model_dump(mode="json", exclude=set(PLACES)),
        },
        seed=setting.seed,
        versions=dict(result.trained.versions),
        data=train_slice(increment.data, increment.classes).sha256,
        images=result.trained.images_seen,
        bn_weight=float(result.trained.images_seen),
        refit_on=fingerprint(result.merged.shared) if refit else None,
        fisher_images=result.trained.fisher_images,
        metrics=_retention(result),
        licence=setting.engine.licence,
    )
    fisher = _fisher(result, vector)
    held = part if manifest.held else None
    item = IncrementFile(manifest, vector, own.buffers, held, refit, fisher)
    colours = next((p.colours for p in result.merged.parts if p.increment == increment.name), None)
    return item.with_scores(result.merged.scores, colours)
