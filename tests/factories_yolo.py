"""YOLO detectors, slices and job folders for tests: small, seeded, nothing downloaded."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from factories_series import make_dataset
from factories_states import write_job_folder

from duet.families.yolo.adapter import FAMILY
from duet.families.yolo.build import stock_model
from duet.families.yolo.roles import split_roles
from duet.increments.base import StartWeights, load_start
from duet.increments.manifest import IncrementManifest
from duet.increments.state import DetectorState, HeadPart
from duet.increments.store import IncrementFile, save_increment
from duet.series import Slice, train_slice
from duet.series.formats.table import resolve
from duet.series.model import DomainData
from duet.training.schedule import Augmentation, Schedule
from duet.vectors.task_vector import TaskVector
from duet.vectors.tensors import Tensors

YOLO11N, YOLOV8N = "yolo11n.yaml", "yolov8n.yaml"
FORMS = ("rows", "towers", "parallel")
NAMES = tuple(f"class{number}" for number in range(20))
WIDTH = 64
"""Channels of the class towers of every n-sized detector."""


@functools.cache
def theta_0(architecture: str = YOLO11N) -> Tensors:
    """Return a stock detector with random weights and BatchNorm statistics as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = stock_model(architecture, 5, WIDTH)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.8, 1.2)
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def shaken(tensors: Tensors, seed: int, scale: float = 0.05) -> dict[str, torch.Tensor]:
    """Return a copy with every float moved a little; variances stay positive."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor * (1 + scale * torch.rand(tensor.shape, generator=generator))
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in tensors.items()
    }


def shaken_part(part: HeadPart, seed: int, scale: float = 0.05) -> HeadPart:
    """Return a head part whose tensors differ from ``part``'s."""
    return replace(part, tensors=shaken(part.tensors, seed, scale))


@functools.cache
def make_state(
    head: str, sizes: tuple[int, ...] = (2, 1), *, architecture: str = YOLO11N
) -> DetectorState:
    """Return a detector of ``len(sizes)`` increments whose parts all differ."""
    groups = class_groups(sizes)
    start = StartWeights(theta_0(architecture))
    state = FAMILY.start_state(
        start, architecture=architecture, head=head, classes=groups[0], increment="t0", seed=0
    )
    for number, classes in enumerate(groups[1:], start=1):
        state = FAMILY.grow(
            state, classes=classes, increment=f"t{number}", seed=number, source=None
        )
        part = shaken_part(state.parts[-1], seed=number)
        state = replace(state, parts=(*state.parts[:-1], part))
    return state


def decoded(output: Any) -> torch.Tensor:
    """Return the output of any network, batch first, in full where it is decoded on demand."""
    if isinstance(output, list):
        return torch.stack([one.above(0.0) for one in output])
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found


def class_groups(sizes: Sequence[int]) -> list[tuple[str, ...]]:
    """Return ``sizes[t]`` different class names per increment."""
    ends = list(itertools.accumulate(sizes))
    return [NAMES[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def alone(state: DetectorState, index: int) -> DetectorState:
    """Return the one-increment detector on the same trunk."""
    return replace(state, parts=(state.parts[index],))


def flat(state: DetectorState) -> dict[str, torch.Tensor]:
    """Return all tensors of a state under unique names."""
    return state.to_tensors()


def make_domain(
    folder: Path,
    name: str = "day",
    *,
    classes: Sequence[str] = NAMES[:3],
    count: int = 12,
    seed: int = 1,
) -> DomainData:
    """Write and read a data set in which image ``i`` holds one object of class ``i mod n``."""
    source = make_dataset(
        folder / name, names=classes, counts={"train": count, "val": 2}, seed=seed
    )
    data = resolve("yolo").read(source, domain=name, verify="header").data
    assert data is not None
    return data


def make_slice(folder: Path, classes: Sequence[str], *, images: int, seed: int = 1) -> Slice:
    """Write a data set of ``images`` images and cut the slice that holds all of them."""
    return train_slice(make_domain(folder, classes=classes, count=images, seed=seed), classes)


def micro_schedule(**changes: Any) -> Schedule:
    """Return a schedule of a second: 64 px, batch 4, without warm-up."""
    quiet = Augmentation(flip=0.5, scale=0.1, translate=0.1)
    settings: dict[str, Any] = {
        "epochs": 1, "batch": 4, "image_size": 64, "lr": 1e-3, "warmup_epochs": 0,
        "threads": 1, "augmentation": quiet, "fisher_images": 2,
    }  # fmt: skip
    return Schedule(**{**settings, **changes})


def box_names(tensors: Tensors) -> set[str]:
    """Return the names of the box branch among stock tensors."""
    roles = split_roles(tensors, "parallel")
    return {name for name in roles.own if name.startswith("cv2.")}


def write_increment(
    path: Path, weights: Path, name: str, classes: tuple[str, ...], seed: int, **facts: Any
) -> Path:
    theta = load_start(weights).tensors
    head = facts.pop("head", "towers")
    state = FAMILY.start_state(
        StartWeights(theta),
        architecture=YOLO11N,
        head=head,
        classes=classes,
        increment=name,
        seed=seed,
    )
    start = FAMILY.rules.split_roles(theta, head).shared
    vector = TaskVector.between(start, shaken(start, seed))
    facts = {"kind": "independent", "index": 0, "parent": None, "images": 10 + seed} | facts
    manifest = IncrementManifest(
        name=name, family="yolo", architecture=YOLO11N, head=head, classes=classes, domain=name,
        base=vector.base, config={"schedule": {"image_size": 64}}, seed=seed, versions={},
        data="0" * 64, bn_weight=10.0, licence=FAMILY.licence, **facts,
    )  # fmt: skip
    part = shaken_part(state.parts[0], seed)
    save_increment(path, IncrementFile(manifest, vector, shaken(state.buffers, seed), part))
    return path


def make_job(
    folder: Path,
    start: DetectorState,
    data: Slice,
    *,
    schedule: Schedule | None = None,
    **more: Any,
) -> Path:
    """Write a job of a second, see `write_job_folder`."""
    return write_job_folder(folder, start, data, schedule or micro_schedule(), **more)
