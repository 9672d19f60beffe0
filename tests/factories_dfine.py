"""D-FINE detectors, pictures of coloured boxes and job folders for tests; nothing is downloaded."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from factories_states import write_job_folder
from PIL import Image
from torch import nn

from duet.families.dfine.adapter import FAMILY
from duet.families.dfine.build import stock_model
from duet.families.dfine.roles import stock_names
from duet.increments.base import StartWeights
from duet.increments.state import DetectorState, HeadPart
from duet.series import Slice, train_slice
from duet.series.formats.table import resolve
from duet.series.model import DomainData
from duet.training.schedule import Augmentation, Schedule

TINY = "dfine-tiny"
COLOURS = {
    "red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 230), "white": (245, 245, 245),
    "yellow": (230, 220, 40), "pink": (240, 120, 200),
}  # fmt: skip
NAMES = tuple(COLOURS)
SIZE = 64


@functools.cache
def theta_0(classes: int = 3) -> StartWeights:
    """Return a stock detector with random weights and BatchNorm statistics of random images."""
    tensors = FAMILY.fresh(TINY, [f"known{index}" for index in range(classes)], seed=7).tensors
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = stock_model(TINY, classes)
        model.load_state_dict(stock_names(tensors))
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.data += 0.02 * torch.randn_like(module.weight)
        model.train()
        with torch.no_grad():
            for _ in range(20):
                model(torch.rand(8, 3, SIZE, SIZE))
    return StartWeights({name: tensor.clone() for name, tensor in model.state_dict().items()})


def class_groups(sizes: Sequence[int]) -> list[tuple[str, ...]]:
    """Return ``sizes[t]`` different class names per increment."""
    ends = list(itertools.accumulate(sizes))
    return [NAMES[end - size : end] for end, size in zip(ends, sizes, strict=True)]


@functools.cache
def make_state(sizes: tuple[int, ...] = (2, 1)) -> DetectorState:
    """Return a detector of ``len(sizes)`` increments whose rows all differ."""
    groups = class_groups(sizes)
    state = FAMILY.start_state(
        theta_0(), architecture=TINY, head="rows", classes=groups[0], increment="t0", seed=0
    )
    for number, classes in enumerate(groups[1:], start=1):
        state = FAMILY.grow(
            state, classes=classes, increment=f"t{number}", seed=number, source=None
        )
    parts = [shaken_part(part, seed=number) for number, part in enumerate(state.parts)]
    return replace(state, parts=tuple(parts))


def shaken_part(part: HeadPart, seed: int) -> HeadPart:
    """Return a part whose rows all differ."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: tensor + 0.5 * torch.rand(tensor.shape, generator=generator)
        for name, tensor in part.tensors.items()
    }
    return replace(part, tensors=tensors)


def make_domain(
    folder: Path, name: str, classes: Sequence[str], count: int, seed: int = 1
) -> DomainData:
    """Write and read a data set of coloured rectangles, one or two on each dark noisy picture."""
    rng = np.random.default_rng(seed)
    for split, number in (("train", count), ("val", 4)):
        for kind in ("images", "labels"):
            (folder / name / kind / split).mkdir(parents=True)
        for index in range(number):
            picture = rng.integers(0, 70, (SIZE, SIZE, 3), dtype=np.uint8)
            rows = []
            for place in range(1 + index % 2):
                label = (index + place) % len(classes)
                width, height = rng.integers(12, 28, 2)
                left = int(rng.integers(32 * place, 32 * place + 32 - width // 2))
                left, top = min(left, SIZE - width), int(rng.integers(0, SIZE - height))
                picture[top : top + height, left : left + width] = COLOURS[classes[label]]
                box = (left + width / 2, top + height / 2, width, height)
                rows.append(" ".join([str(label), *(f"{value / SIZE:.6f}" for value in box)]))
            stem = f"{split}{index:03}"
            Image.fromarray(picture).save(folder / name / "images" / split / f"{stem}.png")
            (folder / name / "labels" / split / f"{stem}.txt").write_text("\n".join(rows) + "\n")
    source = folder / name / "data.yaml"
    document = {"names": list(classes), "train": "images/train", "val": "images/val"}
    source.write_text(yaml.safe_dump(document))
    data = resolve("yolo").read(source, domain=name, verify="header").data
    assert data is not None
    return data


def make_slice(folder: Path, classes: Sequence[str], *, count: int, seed: int = 1) -> Slice:
    """Write a data set of ``count`` pictures and cut the slice that holds all of them."""
    return train_slice(make_domain(folder, "toy", classes, count, seed), classes)


def micro_schedule(**changes: Any) -> Schedule:
    """Return a schedule of a second: 64 px, batch 4, without warm-up."""
    quiet = Augmentation(flip=0.5, scale=0.1, translate=0.1, hue=0, saturation=0, brightness=0.2)
    settings: dict[str, Any] = {
        "epochs": 1, "batch": 4, "image_size": SIZE, "lr": 1e-3, "warmup_epochs": 0,
        "threads": 1, "augmentation": quiet, "fisher_images": 0,
    }  # fmt: skip
    return Schedule(**{**settings, **changes})


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
