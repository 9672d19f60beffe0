"""Write what a chain produced as folders that can be moved, and rebuild detectors from them."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from duet.errors import ModelError
from duet.families.table import resolve_family
from duet.increments.manifest import DetectorManifest, IncrementManifest, Lineage
from duet.increments.state import DetectorState
from duet.increments.store import IncrementFile, save_detector, save_increment
from duet.merging.trace import MergeTrace
from duet.runs.chain import Setting, StageResult, merge_states
from duet.series import train_slice
from duet.training.config import Method
from duet.vectors import TaskVector
from duet.vectors.tensors import Tensors, fingerprint

PACKAGES = ("duet-detect", "torch", "torchvision", "ultralytics", "numpy", "faster-coco-eval")


def versions() -> dict[str, str]:
    """Return the versions of the libraries that numbers depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


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
    for result in results:
        lineage = keep_stage(folder, setting, method, result, lineage, previous).lineage
        previous = result.merged


def keep_stage(
    folder: Path,
    setting: Setting,
    method: Method,
    result: StageResult,
    lineage: Sequence[Lineage],
    previous: DetectorState | None,
) -> Kept:
    """Write the folders of one stage.

    A method that trains its old head rows (sequential fine-tuning) leaves no increment: its old
    rows are in no increment's file, so a merge could not rebuild the detector.

    Args:
        folder: Run folder.
        setting: See `Setting`.
        method: How the stage was learned.
        result: The stage.
        lineage: Of the detector before.
        previous: That detector; None at the base.
    """  # fmt: skip
    increment = folder / "increments" / method.name / result.increment.name
    if method.old_part == "kept":
        item = _increment_file(setting, method, result, len(lineage), previous)
        saved = save_increment(increment, item, overwrite=True)
        merge = _merge_config(method) if previous else None
        lineage = (
            *lineage, Lineage(increment=saved.name, manifest=saved.fingerprint(), merge=merge)
        )  # fmt: skip
    number = len(result.merged.parts)
    detector = folder / "models" / method.name / f"{number}-{result.increment.name}"
    manifest = DetectorManifest.for_state(
        result.merged,
        lineage=tuple(lineage),
        image_size=setting.schedule.image_size,
        licence=resolve_family(setting.family).licence,
    )
    save_detector(detector, result.merged, manifest, overwrite=True)
    return Kept(increment, detector, tuple(lineage))


def _increment_file(
    setting: Setting,
    method: Method,
    result: StageResult,
    index: int,
    previous: DetectorState | None,
) -> IncrementFile:
    family = resolve_family(setting.family)
    theta_0 = family.shared_of(setting.theta_0, method.head)
    own = result.trained.state
    if previous is None:
        own = family.recast(own, method.head)
    vector = TaskVector.between(theta_0, own.shared)
    increment = result.increment
    refit = result.refit.state.parts[-1] if result.refit else None
    manifest = IncrementManifest(
        kind="increment" if previous else "base",
        name=increment.name,
        family=setting.family,
        architecture=setting.architecture,
        head=method.head,
        classes=increment.classes,
        domain=increment.domain,
        index=index,
        base=vector.base,
        parent=previous.fingerprint() if previous else None,
        config={
            "method": method.model_dump(mode="json"),
            "schedule": setting.schedule.model_dump(mode="json"),
        },
        seed=setting.seed,
        versions=versions(),
        data=train_slice(increment.data, increment.classes).sha256,
        images=result.trained.images_seen,
        bn_weight=float(result.trained.images_seen),
        refit_on=fingerprint(result.merged.shared) if refit else None,
        licence=family.licence,
    )
    return IncrementFile(manifest, vector, own.buffers, own.parts[-1], refit)


def _merge_config(method: Method) -> dict[str, Any]:
    dumped = method.model_dump(mode="json")
    return {key: dumped[key] for key in ("merge", "batchnorm")}


def rebuild(
    theta_0: Tensors, increments: Sequence[IncrementFile], method: Method
) -> tuple[DetectorState, list[MergeTrace], list[str]]:
    """Merge a base and a prefix of its increments again, without training and without data.

    Args:
        theta_0: Tensors of the pretrained detector that the increments are bound to.
        increments: The base first, then increments in the order they were learned.
        method: Merge method and BatchNorm rule to use; its training settings do not matter.

    Returns:
        The detector, one trace per merge, and remarks (where a re-fit was made on other weights).

    Raises:
        ModelError: Increments are out of order, of other head forms, or bound to another base.
    """
    _require_chain(increments)
    first = increments[0].manifest
    shared_0 = resolve_family(first.family).shared_of(theta_0, first.head)
    state = DetectorState(
        first.family, first.architecture, first.head,
        increments[0].vector.apply(shared_0), increments[0].buffers, (increments[0].part,),
    )  # fmt: skip
    traces, remarks, seen = [], [], first.images
    for number, item in enumerate(increments[1:], start=1):
        trained = replace(
            state, shared=item.vector.apply(shared_0), buffers=item.buffers,
            parts=(*state.parts, item.part),
        )  # fmt: skip
        images = (seen, item.manifest.images)
        state, trace = merge_states(method, shared_0, state, trained, number, images)
        traces.append(trace)
        seen += item.manifest.images
        if item.refit is not None:
            state = replace(state, parts=(*state.parts[:-1], item.refit))
            if item.refit_on != fingerprint(state.shared):
                remarks.append(
                    f"'{item.manifest.name}' was re-fit on other merged weights; its re-fit head "
                    "part is used all the same"
                )
    return state, traces, remarks


def _require_chain(increments: Sequence[IncrementFile]) -> None:
    manifests = [item.manifest for item in increments]
    got = [f"{m.name} ({m.kind} {m.index})" for m in manifests]
    if (
        not manifests
        or manifests[0].kind != "base"
        or [m.index for m in manifests] != list(range(len(manifests)))
    ):
        raise ModelError(
            f"increments must be the base and what followed it, in order; got {', '.join(got)}",
            remedy="an increment is trained from the merged detector before it, so none can be "
            "left out in between",
        )
    for other in manifests[1:]:
        for field in ("family", "architecture", "head", "base"):
            if getattr(other, field) != getattr(manifests[0], field):
                raise ModelError(
                    f"{field} differs: '{manifests[0].name}' has {getattr(manifests[0], field)}, "
                    f"'{other.name}' has {getattr(other, field)}",
                    remedy="merge increments of one run, or of runs with the same base and head",
                )
