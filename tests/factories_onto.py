"""A folder with a detector that people have, and data of other classes to learn onto it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from factories_series import make_dataset
from factories_training import trained_here
from test_foreign import CLASSES, stored

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
        chosen = ["--method", self / f"{method}.yaml", "--train", self / "train.yaml"]
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
