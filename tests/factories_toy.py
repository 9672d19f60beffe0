"""A toy family for the plain training loop: a convolution, a BatchNorm and class rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories_series import make_dataset
from factories_states import write_job_folder
from torch import nn

from duet.increments.state import DetectorState, HeadPart
from duet.series import Slice, train_slice
from duet.series.formats import resolve
from duet.training.job import (
    Job,
)
from duet.training.pseudo import Target
from duet.training.schedule import Schedule
from duet.vectors.tensors import Tensors

CLASSES = ("a", "b", "c")


class ToyLearner:
    """A convolution and a BatchNorm whose class rows follow the mean colour of noisy images."""

    clip_norm: float = 10.0

    def __init__(self, job: Job, start: DetectorState, device: torch.device) -> None:
        self.start = start
        conv, rows = nn.Conv2d(3, 4, 3), nn.Linear(4, len(start.labels))
        self.module: nn.Module = nn.ModuleDict({"conv": conv, "bn": nn.BatchNorm2d(4), "row": rows})
        joined = {
            name: torch.cat([part.tensors[name] for part in start.parts])
            for name in start.parts[0].tensors
        }
        self.module.load_state_dict({**start.shared, **start.buffers, **joined})
        old = sum(len(part.classes) for part in start.parts[:-1])
        kept = torch.arange(len(start.labels)) < (old if job.old_part == "kept" else 0)
        self.kept_rows = {name: kept for name in joined if bool(kept.any())}

    def losses(self, images: torch.Tensor, targets: Sequence[Target]) -> dict[str, torch.Tensor]:
        noisy = images + 0.1 * torch.rand_like(images)
        features = self.module["bn"](self.module["conv"](noisy)).mean((2, 3))
        wanted = images.mean((1, 2, 3))[:, None]
        return {"cls": (self.module["row"](features) - wanted).square().mean()}

    def state(self, tensors: Tensors) -> DetectorState:
        return toy_state(tensors, [len(part.classes) for part in self.start.parts])


def toy_state(tensors: Tensors, sizes: Sequence[int] = (2, 1)) -> DetectorState:
    rows = {name: tensor for name, tensor in tensors.items() if name.startswith("row.")}
    pieces = {name: torch.split(tensor, list(sizes)) for name, tensor in rows.items()}
    ends = np.cumsum(sizes)
    parts = tuple(
        HeadPart(CLASSES[end - size : end], {k: v[n].clone() for k, v in pieces.items()}, f"t{n}")
        for n, (end, size) in enumerate(zip(ends, sizes, strict=True))
    )
    buffers = {k: v for k, v in tensors.items() if "running" in k or "tracked" in k}
    shared = {k: v for k, v in tensors.items() if k not in rows and k not in buffers}
    return DetectorState("toy", "toy", "rows", shared, buffers, parts)


def start_state(seed: int = 0) -> DetectorState:
    generator = torch.Generator().manual_seed(seed)
    module = nn.ModuleDict(
        {"conv": nn.Conv2d(3, 4, 3), "bn": nn.BatchNorm2d(4), "row": nn.Linear(4, 3)}
    )
    for parameter in module.parameters():
        nn.init.normal_(parameter, generator=generator)
    return toy_state({k: v.detach().clone() for k, v in module.state_dict().items()})


def schedule(**changes: Any) -> Schedule:
    settings: dict[str, Any] = {
        "epochs": 3, "batch": 4, "image_size": 32, "lr": 1e-2, "warmup_epochs": 0, "threads": 1,
        "fisher_images": 0,
    }  # fmt: skip
    return Schedule(**{**settings, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Slice:
    folder = tmp_path_factory.mktemp("toy")
    source = make_dataset(folder / "day", names=("c",), counts={"train": 10, "val": 1}, seed=4)
    domain = resolve("yolo").read(source, domain="day", verify="header").data
    assert domain is not None
    return train_slice(domain, ("c",))


def stop_after(steps: int) -> Callable[[dict[str, Any]], None]:
    def progress(record: dict[str, Any]) -> None:
        if record["done"] == steps:
            raise KeyboardInterrupt

    return progress


def make_job(folder: Path, data: Slice, start: DetectorState | None = None, **more: Any) -> Path:
    """Write a job of the toy family, see `write_job_folder`."""
    return write_job_folder(
        folder, start or start_state(), data, **{"schedule": schedule(), **more}
    )
