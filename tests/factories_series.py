"""Tiny detection data sets for tests: a few small images with labels, written to a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

CLASSES = ("cat", "dog", "bus")


def write_image(path: Path, *, seed: int, size: tuple[int, int] = (32, 24)) -> Path:
    """Write an image of random blocks; ``size`` is ``(width, height)`` in pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def write_labels(folder: Path, split: str, stem: str, rows: Sequence[str]) -> Path:
    """Write the label file of one image."""
    path = folder / "labels" / split / f"{stem}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def make_dataset(
    folder: Path,
    *,
    names: Sequence[str] = CLASSES,
    counts: Mapping[str, int] | None = None,
    seed: int = 0,
    suffix: str = ".png",
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a YOLO data set in which image ``i`` holds one object of class ``i mod n``.

    Args:
        folder: Where to write.
        names: Class names, in the order of ``data.yaml``.
        counts: Images per split; 4 for training, 3 for validation by default.
        seed: Different seeds give different pixels.
        suffix: Image format.
        extra: Keys that are added to ``data.yaml``.

    Returns:
        The path of ``data.yaml``.
    """
    counts = {"train": 4, "val": 3} if counts is None else counts
    number = 0
    for split, count in counts.items():
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            number += 1
            stem = f"{split}{index}"
            write_image(folder / "images" / split / f"{stem}{suffix}", seed=1000 * seed + number)
            write_labels(folder, split, stem, [f"{index % len(names)} 0.5 0.5 0.25 0.5"])
    document = {"names": list(names), **{split: f"images/{split}" for split in counts}}
    source = folder / "data.yaml"
    source.write_text(yaml.safe_dump({**document, **(extra or {})}))
    return source


def make_series(
    folder: Path, increments: Sequence[Mapping[str, Any]] | None = None, **keys: Any
) -> Path:
    """Write a series file; by default of the data sets ``day`` and ``night`` in ``folder``."""
    if increments is None:
        increments = (
            {"domain": "day", "data": "day/data.yaml", "classes": ["cat", "dog"]},
            {"domain": "night", "data": "night/data.yaml", "classes": ["bus"]},
        )
    document = {"schema": 1, "name": "toy", "increments": [dict(item) for item in increments]}
    path = folder / "series.yaml"
    path.write_text(yaml.safe_dump({**document, **keys}))
    return path


def make_clean_series(folder: Path) -> Path:
    """Write two data sets without a problem, class orders different, and their series."""
    make_dataset(folder / "day", seed=1)
    make_dataset(folder / "night", seed=2, names=tuple(reversed(CLASSES)), suffix=".jpg")
    return make_series(folder)


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and modification time of every file below ``folder``."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }
