"""What detectors of any family are compared by, and the folders of jobs that train them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from duet.increments.scores import ScoreMap, chosen
from duet.increments.state import DetectorState
from duet.series import Slice
from duet.training.job import DIRECTION, Job, JobPart, write_job, write_slice, write_state
from duet.training.schedule import Schedule
from duet.vectors.tensors import Tensors


def images(batch: int = 2, size: int = 64, seed: int = 3) -> torch.Tensor:
    """Return ``(batch, 3, size, size)`` float32 noise in [0, 1]."""
    return torch.rand((batch, 3, size, size), generator=torch.Generator().manual_seed(seed))


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Say whether two tensors are equal; NaN equals nothing, so NaN is never 'the same'."""
    return one.shape == other.shape and one.dtype == other.dtype and bool((one == other).all())


def moved(before: Tensors, after: Tensors) -> set[str]:
    """Return the names of tensors that are not bit-identical; both must have the same names."""
    assert before.keys() == after.keys()
    return {name for name in before if not same_bits(before[name], after[name])}


def scored(state: DetectorState, scores: Mapping[str, ScoreMap]) -> DetectorState:
    """Return a detector with these score maps, by class name."""
    parts = tuple(replace(part, scores=chosen(scores, part.classes)) for part in state.parts)
    return replace(state, parts=parts)


def job_of(start: DetectorState, schedule: Schedule, **settings: Any) -> Job:
    """Return a job that trains the last part of ``start``."""
    return Job(
        family=start.family, architecture=start.architecture, head=start.head,
        parts=tuple(JobPart(increment=p.increment, classes=p.classes) for p in start.parts),
        schedule=schedule, **{"phase": "increment", **settings},
    )  # fmt: skip


def write_job_folder(
    folder: Path,
    start: DetectorState,
    data: Slice,
    schedule: Schedule,
    *,
    direction: Tensors | None = None,
    **settings: Any,
) -> Path:
    """Write a job folder as the lab does, and return it."""
    folder.mkdir(parents=True)
    write_state(folder / "start.safetensors", start)
    write_slice(folder / "slice.npz", data)
    if direction is not None:
        save_file(dict(direction), folder / DIRECTION)
    write_job(folder, job_of(start, schedule, **settings))
    return folder
