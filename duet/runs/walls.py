"""What a run would refuse, asked before it does anything: the dry run and the start of a run agree.

After its first training a run grows head parts, merges, stores, evaluates, measures and copies
pictures. Each of these is asked here, all at once: the folder, the disk, the device, the strategies
and the data by looking, the start weights and the detectors by building them and looking at an
empty picture.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from duet.devices import parse_device, require_device
from duet.errors import Collected, ConfigError, DataError, DuetError, ModelError
from duet.families.family import Family
from duet.increments.base import StartWeights
from duet.increments.state import DetectorState
from duet.merging.table import resolve
from duet.runs.lab import Lab
from duet.runs.learn import merge_states, stage_job
from duet.runs.plan import (
    PlannedStage,
    RunPlan,
    estimated_bytes,
    estimated_seconds,
    planned_stages,
)
from duet.runs.setting import Setting
from duet.text import duration
from duet.training.config import Strategy
from duet.trees import refuse_among
from duet.vectors.tensors import Tensors, require_finite
from duet.weights.start import Start, recognise


def require_runnable(plan: RunPlan) -> StartWeights:
    """Refuse a run that could not be finished; nothing is written.

    Args:
        plan: What to run.

    Returns:
        θ_0, which has been opened on the way.

    Raises:
        DuetError: With every reason at once; of the kind of the first.
    """
    found, stages = Collected(), planned_stages(plan)
    with found.noted():
        _require_device(plan, stages)
    for strategy in plan.strategies:
        with found.noted():
            _require_possible(plan, strategy)
    with found.noted():
        _require_data(plan, stages)
    with found.noted():
        require_writable(plan.out)
        refuse_among(plan.out, (i for item in plan.series.increments for i in item.data.images))
    theta_0: StartWeights | None = None
    with found.noted():
        theta_0 = _opened(plan)
    if theta_0 is not None:
        with found.noted():
            _require_space(plan, stages, theta_0)
        with found.noted(), torch.random.fork_rng(devices=[]):
            _rehearse(plan, theta_0)
    found.raise_all("this run could not be finished; nothing was trained or written")
    assert theta_0 is not None
    return theta_0


def require_writable(out: Path) -> None:
    """Refuse a run folder that cannot be made or written.

    Raises:
        DuetError: It or a parent is a file, or may not be written.
    """
    place = _nearest(out)
    if not place.is_dir():
        what = f"{'it' if place == out else place} is a file, expected a folder"
    elif not os.access(place, os.W_OK | os.X_OK):
        what = f"nobody, or not this user, may write in {place}"
    else:
        return
    raise DuetError(
        f"cannot write: {what}", where=str(out), remedy="choose another folder with --out"
    )


def _nearest(out: Path) -> Path:
    """Return ``out``, or the nearest of its parents that is there."""
    return next((place for place in (out, *out.parents) if place.exists()), out)


def _require_device(plan: RunPlan, stages: Sequence[PlannedStage]) -> None:
    device = parse_device(plan.schedule.device)
    try:
        if not plan.elsewhere:
            require_device(device)
    except ConfigError as error:
        takes = duration(estimated_seconds(plan, stages))
        advice = f"--device cpu takes about {takes}; or run it where there is one"
        raise ConfigError(error.what, where="device", remedy=advice) from None
    count = len(device.numbers)
    if count > 1 and plan.schedule.batch % count:
        raise ConfigError(
            f"a batch of {plan.schedule.batch} images cannot be shared by {count} GPUs",
            where="batch",
            remedy=f"choose a multiple of {count}",
        )


def _require_possible(plan: RunPlan, strategy: Strategy) -> None:
    """Refuse a strategy that needs what a run, or this schedule, does not have."""
    later, where = len(plan.series.increments) > 1, f"strategy '{strategy.name}'"
    needs = resolve(strategy.merge.method).needs if strategy.data == "increment" and later else ()
    if "images" in needs:
        raise ConfigError(
            f"'{strategy.merge.method}' learns from unlabelled images, which a run does not have",
            where=where,
            remedy="choose another merge method; afterwards, `duet merge --method "
            f"{strategy.merge.method} --images FOLDER` merges the increments of the run",
        )
    if plan.schedule.fisher_images == 0 and strategy.reads_fisher:
        raise ConfigError(
            "needs the Fisher of every increment, but the schedule says fisher_images: 0",
            where=where,
            remedy="set fisher_images above 0, such as 128",
        )


def _require_data(plan: RunPlan, stages: Sequence[PlannedStage]) -> None:
    """Refuse a run that would train on nothing."""
    found = Collected()
    for stage in stages:
        if not stage.images:
            found.note(
                DataError(
                    "no training image shows any of its classes",
                    where=f"'{stage.title}' in the domain '{stage.domain}'",
                    remedy="label objects there, or leave these classes out",
                )
            )
    found.raise_all("the data are not enough")


def _opened(plan: RunPlan) -> StartWeights:
    """Read θ_0; without a file it is the detector that the first increment is."""
    if plan.weights is None:
        assert plan.onto is not None
        return plan.onto.theta_0
    where = str(plan.weights)
    try:
        theta_0 = Start(plan.weights, plan.family).weights
    except DataError as error:  # class names of the file
        raise ModelError(error.what, where=error.where or where, remedy=error.remedy) from None
    if not theta_0.tensors:
        raise ModelError("the file holds no tensors", where=where, remedy="take another file")
    require_finite(theta_0.tensors, where)
    real = recognise(plan.weights, theta_0.tensors) if plan.onto is not None else None
    if real not in (None, plan.architecture):
        raise ModelError(
            f"it is a {real}, and the detector to go on from is a {plan.architecture}",
            where=where,
            remedy="give the start weights that the detector was trained from, or none",
        )
    return theta_0


def _require_space(plan: RunPlan, stages: Sequence[PlannedStage], theta_0: StartWeights) -> None:
    """Refuse a run that needs more space than there is, what it wrote before counted as free."""
    size = sum(tensor.numel() * 4 for tensor in theta_0.tensors.values())
    needed, free = estimated_bytes(plan, stages, size), shutil.disk_usage(_nearest(plan.out)).free
    if needed > free:  # only then: a finished run has many files
        free += sum(file.stat().st_size for file in plan.out.rglob("*") if file.is_file())
    if needed > free:
        raise DuetError(
            f"the run needs about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
            where=str(plan.out),
            remedy="free some disk space or choose another folder with --out",
        )


def _rehearse(plan: RunPlan, theta_0: StartWeights) -> None:
    """Do all that a run does but training: grow head parts, build, look, and merge."""
    setting = Setting(
        plan.series, plan.family, plan.architecture, theta_0, plan.schedule, plan.seed,
        Lab(plan.out / "lab"), plan.weights, plan.onto,
    )  # fmt: skip
    family, found = setting.engine, Collected()
    plain = _first_state(plan, theta_0, family)
    seen: dict[str, DetectorState] = {}
    for strategy in plan.strategies:
        with found.noted():
            base = family.recast(plain, strategy.head)
            if plan.onto is None:
                family.require_trainable(stage_job(setting, strategy, base, "base"))
            if strategy.head not in seen:
                seen[strategy.head] = _grown(plan, family, base, theta_0)
                _require_runs(family, seen[strategy.head], plan.image_size)
            grown = seen[strategy.head]
            if strategy.data == "increment" and len(grown.parts) > len(base.parts):
                family.require_trainable(stage_job(setting, strategy, grown, "increment"))
                _require_mergeable(setting, strategy, grown)
    found.raise_all("strategies cannot be carried out")


def _first_state(plan: RunPlan, theta_0: StartWeights, family: Family) -> DetectorState:
    """Return the first increment's detector: the one that stands for it, or an untrained one."""
    if plan.onto is not None:
        _require_runs(family, plan.onto.state, plan.image_size)
        return plan.onto.state
    first = plan.series.increments[0]
    try:
        plain = family.start_state(
            theta_0, architecture=plan.architecture, head="rows", classes=first.classes,
            increment=first.name, seed=plan.seed,
        )  # fmt: skip
        _require_runs(family, plain, plan.schedule.image_size)
    except ModelError as error:
        raise _unfit(plan, theta_0, error) from error
    return plain


def _unfit(plan: RunPlan, theta_0: StartWeights, error: ModelError) -> ModelError:
    """Return the error with what the weights really are, where that can be told."""
    assert plan.weights is not None
    where, said = str(plan.weights), plan.architecture
    real = recognise(plan.weights, theta_0.tensors)
    if real is None or real == said:
        return ModelError(error.what, where=error.where or where, remedy=error.remedy)
    return ModelError(
        f"{plan.weights.name} is a {real.removesuffix('.yaml')}, but the architecture says {said}",
        where=where,
        remedy=f"give --architecture {real}, or leave it away",
    )


def _grown(
    plan: RunPlan, family: Family, state: DetectorState, theta_0: StartWeights
) -> DetectorState:
    """Return a detector with a head part for every later increment that brings classes."""
    known = set(plan.series.increments[0].classes)
    for item in plan.series.increments[1:]:
        if not known.issuperset(item.classes):
            state = family.grow(
                state, classes=item.classes, increment=item.name, seed=plan.seed, source=theta_0
            )
        known.update(item.classes)
    return state


def _require_runs(family: Family, state: DetectorState, image_size: int) -> None:
    """Build a detector and let it look at an empty picture."""
    detector = family.detector(state, image_size=image_size)
    try:
        detector([np.full((image_size, image_size, 3), 114, np.uint8)])
    except DuetError:
        raise
    except Exception as error:  # what an engine raises about a size is its own affair
        strides = getattr(detector.module, "stride", None)
        step = 32 if strides is None else int(max(strides))
        raise ModelError(
            f"{state.architecture} cannot look at images of {image_size} px: "
            f"{' '.join(str(error).split())[:200]}",
            where="image_size",
            remedy=f"choose a multiple of {max(step, 32)}",
        ) from error


def _require_mergeable(setting: Setting, strategy: Strategy, state: DetectorState) -> None:
    """Merge two small stand-ins: one number a tensor, under the true names."""
    before = setting.shared_start(strategy.head)
    one = replace(state, shared=_small(state.shared), buffers=_small(state.buffers))
    moved = {name: tensor + 0.01 for name, tensor in one.shared.items()}
    fisher = {name: torch.ones_like(tensor) for name, tensor in one.shared.items()}
    known = fisher if setting.schedule.fisher_images else None
    merge_states(
        strategy, _small(before), one, replace(one, shared=moved), 1, (1, 1), (known, known),
        name=state.parts[-1].increment,
    )  # fmt: skip


def _small(tensors: Tensors) -> Tensors:
    return {
        name: tensor.reshape(-1)[:1].reshape((1,) * tensor.ndim) for name, tensor in tensors.items()
    }
