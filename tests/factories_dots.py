"""The example family, and a series of coloured squares that it learns in seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from places import TESTS

from duet.conformance.case import NEW, OLD, scene
from duet.families.table import resolve_family
from duet.increments.base import save_base

FOLDER = TESTS / "example_family"
SIZE = 64


@contextmanager
def on_path() -> Iterator[None]:
    """Put the package on the path, also of processes that are started meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        patch.setenv("PYTHONPATH", str(FOLDER))
        yield
    sys.modules.pop("duet_dots", None)


def write_series(folder: Path) -> Path:
    """Write coloured squares of two domains as YOLO data, θ_0, a schedule, a strategy, a series."""
    for domain, classes in {"day": OLD, "night": NEW}.items():
        for split, count in {"train": 8, "val": 5}.items():
            for kind in ("images", "labels"):
                (folder / domain / kind / split).mkdir(parents=True)
            for index in range(count):
                name = classes[index % len(classes)]
                image, box = scene(name, SIZE, seed=100 * len(split) + index)
                place = folder / domain / "images" / split / f"{index}.png"
                Image.fromarray(image[..., ::-1].copy()).save(place)
                line = " ".join(map(str, [classes.index(name), *box]))
                (folder / domain / "labels" / split / f"{index}.txt").write_text(line)
        data = {"names": list(classes), "train": "images/train", "val": "images/val"}
        (folder / domain / "data.yaml").write_text(yaml.safe_dump(data))
    start = resolve_family("dots").fresh("dots-tiny", ("unknown",), seed=0)
    save_base(folder / "base.safetensors", start.tensors, info={"architecture": "dots-tiny"})
    files: dict[str, Any] = {
        "schedule": {
            "epochs": 30, "batch": 4, "image_size": SIZE, "lr": 0.01, "warmup_epochs": 0,
            "fisher_images": 4, "augmentation": {"saturation": 0, "brightness": 0.1},
        },
        "strategy": {
            "name": "short", "head": "towers", "merge": {"method": "average"},
            "refit": {"epochs": 10, "lr": 0.01}, "distill": {"weight": 0.1},
        },
        "series": {
            "schema": 1, "name": "squares",
            "increments": [
                {"domain": "day", "data": "day/data.yaml", "classes": list(OLD)},
                {"domain": "night", "data": "night/data.yaml", "classes": list(NEW)},
            ],
            "defaults": {"train": "schedule.yaml", "weights": "base.safetensors"},
        },
    }  # fmt: skip
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder / "series.yaml"
