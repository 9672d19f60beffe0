"""A folder with a detector that people have, and data of other classes to learn onto it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from factories_foreign import CLASSES, stored
from factories_run import Outcome
from factories_series import make_dataset
from factories_states import images
from factories_training import trained_here

from duet.families.yolo.build import inference_model
from duet.increments.state import DetectorState
from duet.increments.store import load_detector

SCHEDULE = {
    "epochs": 1, "batch": 4, "image_size": 64, "lr": 0.005, "warmup_epochs": 0, "fisher_images": 0,
}  # fmt: skip
OFF = {"distill": {"weight": 0}, "directional": {"weight": 0}}
METHODS: dict[str, dict[str, Any]] = {
    "towers": {"refit": {"epochs": 1}},
    "rows": {"old_negatives": "pseudo"},
    "parallel": {"new_part": "pretrained", "directional": {"weight": 0.1}},
    "frozen": {"trunk": "frozen", **OFF, "merge": {"method": "newest"}},
    "ewc": {"ewc": {"weight": 1}},
    "fine": {
        "old_part": "trained", "old_negatives": "train", **OFF, "merge": {"method": "newest"},
    },
}  # fmt: skip
HEADS = {"frozen": "towers", "ewc": "towers", "fine": "rows"}


@dataclass(frozen=True)
class Desk:
    """A folder with a detector of three classes and two data sets of other classes."""

    folder: Path

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def increment(self, name: str, method: str, out: str, *options: object) -> list[object]:
        """Return the command that learns an increment."""
        chosen = ["--strategy", self / f"{method}.yaml", "--train", self / "train.yaml"]
        return ["increment", self / "mine.yaml", name, *chosen, "--out", self / out, *options]


@contextmanager
def made_desk(folder: Path) -> Iterator[Desk]:
    """Write one; trainings stay in this process meanwhile: a worker costs five seconds."""
    desk = Desk(folder)
    stored(desk / "best.pt")
    increments = []
    for seed, name in enumerate(("night", "dusk")):
        make_dataset(desk / name, names=[f"{name} cup"], counts={"train": 6, "val": 3}, seed=seed)
        data = {"domain": name, "data": f"{name}/data.yaml", "classes": [f"{name} cup"]}
        increments.append(data)
    make_dataset(desk / "own", names=CLASSES[:2], counts={"val": 4}, seed=5)
    series = {"schema": 1, "name": "mine", "increments": increments}
    files = {"mine": series, "train": SCHEDULE}
    for name, settings in METHODS.items():
        files[name] = {"name": name, "head": HEADS.get(name, name), **settings}
    for name, content in files.items():
        (desk / f"{name}.yaml").write_text(yaml.safe_dump(content))

    with trained_here():
        yield desk


def state(folder: Path) -> DetectorState:
    return load_detector(folder).state


def scores(detector: DetectorState, classes: int) -> torch.Tensor:
    """Return ``(B, 4 + classes, A)``: boxes and the scores of the first classes."""
    with torch.no_grad():
        decoded: torch.Tensor = inference_model(detector)(images())[0]
    return decoded[:, : 4 + classes]


def refused(done: Outcome, *words: str) -> None:
    assert done.code in (2, 3, 4)
    for word in words:
        assert word in done.err
