"""What a job means to the engine: its arguments, and the parameters that must not train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duet.families.table import class_rows, resolve_roles
from duet.increments.state import DetectorState
from duet.training.job import Job, keeps_trunk, old_part_count, refines
from duet.training.optimizer import peak_rate, weight_decay

if TYPE_CHECKING:
    from torch import nn


def engine_overrides(job: Job, folder: Path) -> dict[str, Any]:
    """Translate a schedule into the engine's arguments; nothing is left to its 'auto's."""
    schedule, aug = job.schedule, job.schedule.augmentation
    return {
        "task": "detect", "mode": "train", "model": job.architecture, "data": "slice",
        "epochs": schedule.epochs, "batch": schedule.batch, "imgsz": schedule.image_size,
        "nbs": schedule.batch,  # the engine then steps after each batch; see `optimizer_step`
        "optimizer": schedule.optimizer, "lr0": peak_rate(job), "lrf": schedule.final_lr,
        "momentum": schedule.momentum, "weight_decay": weight_decay(job),
        "cos_lr": schedule.decay == "one-cycle",
        "warmup_epochs": schedule.warm_up, "warmup_bias_lr": 0.0,
        "warmup_momentum": schedule.momentum, "seed": job.seed, "deterministic": True,
        "amp": False,  # `duet.training.precision` does it, on CPUs too and without a download
        "device": schedule.device, "workers": schedule.workers,
        "cache": schedule.cache, "patience": 0, "val": False, "plots": False, "save": True,
        "verbose": False, "pretrained": False, "cls_remap": False,
        "close_mosaic": aug.mosaic_off_epochs,
        "project": str(folder), "name": "engine", "exist_ok": True, "augmentations": [],
        "mosaic": aug.mosaic, "fliplr": aug.flip, "scale": aug.scale, "translate": aug.translate,
        "degrees": aug.degrees, "hsv_h": aug.hue, "hsv_s": aug.saturation, "hsv_v": aug.brightness,
        "mixup": aug.mixup, "erasing": 0.0,
    }  # fmt: skip


def frozen_names(
    model: Any, start: DetectorState, job: Job, held: Callable[[str], bool],
    refined: Sequence[nn.Parameter] = (),
) -> list[str]:  # fmt: skip
    """Return the parameters that must not train in this job.

    The whole trunk in a re-fit or with `trunk: frozen`; but for a base nothing else. Old parts
    unless `old_part: trained`; they are all parts if the increment brings no new classes. What the
    head form holds (the box tower that towers share). The rows of old classes inside one tensor are
    guarded apart.

    Args:
        model: A training model; old parts live in attributes of its head named ``old_…``.
        start: Where the job starts.
        job: Its settings.
        held: Tells whether the head form keeps a shared tensor.
        refined: Class rows of known classes that train all the same.
    """
    names = [name for name, _ in model.named_parameters()]
    trunk = [name for name in names if name in start.shared] if keeps_trunk(job) else []
    if job.phase == "base":
        return trunk
    frozen = set(trunk)
    frozen |= set() if job.old_part == "trained" else {name for name in names if ".old_" in name}
    frozen |= {name for name in names if held(name)}
    if job.adapts and job.old_part == "kept":
        frozen |= {name for name in names if name not in start.shared}
    free = {id(parameter) for parameter in refined}
    frozen -= {name for name, parameter in model.named_parameters() if id(parameter) in free}
    return sorted(frozen)


def restore_frozen(
    trained: DetectorState, start: DetectorState, job: Job, held: Callable[[str], bool]
) -> DetectorState:
    """Put back, bit for bit, what the job was not allowed to change.

    The EMA mixes every tensor with itself, and (1 − d)·x + d·x is not x in floating point.
    """
    shared, buffers = trained.shared, trained.buffers
    if keeps_trunk(job):
        shared, buffers = start.shared, start.buffers
    elif job.phase == "base":
        return trained
    else:
        shared = {k: start.shared[k] if held(k) else v for k, v in shared.items()}
        buffers = {k: start.buffers[k] if held(k) else v for k, v in buffers.items()}
    count = 0 if job.old_part == "trained" else old_part_count(job)
    parts = (*start.parts[:count], *trained.parts[count:])
    if refines(job):
        rows = class_rows(resolve_roles(job.family), start.head, start.parts[0].tensors)
        parts = tuple(
            replace(old, tensors={k: (new if k in rows else old).tensors[k] for k in old.tensors})
            for old, new in zip(start.parts, trained.parts, strict=True)
        )
    return replace(trained, shared=shared, buffers=buffers, parts=parts)
