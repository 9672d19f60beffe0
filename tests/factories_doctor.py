"""Healthy data sets for the doctor's tests, and every kind of damage that can be done to them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

SIZE = (160, 120)
SERIES = (("day", ("cat", "dog")), ("night", ("bus", "tram")))
NAMES = ("cat", "dog", "bus", "tram")


def background(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return a smooth picture with detail at all scales, ``(h, w, 3) float32``."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((size[1], size[0], 3), np.float32)
    for cells, strength in ((3, 60), (7, 40), (16, 20), (40, 10)):
        noise = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        layers = [
            Image.fromarray(noise[..., channel]).resize(size, Image.Resampling.BICUBIC)
            for channel in range(3)
        ]
        picture += np.stack([np.asarray(layer) for layer in layers], axis=-1)
    return picture + 120


def scene(ground: int, seed: int) -> tuple[Image.Image, list[str]]:
    """Return a picture with four objects on a background, and its label rows."""
    rng = np.random.default_rng([seed, 7])
    picture = background(ground).clip(0, 255)
    rows = []
    for number in range(4):
        w, h = (int(side * rng.uniform(0.15, 0.3)) for side in SIZE)
        x, y = int(rng.integers(SIZE[0] - w)), int(rng.integers(SIZE[1] - h))
        picture[y : y + h, x : x + w] = background(int(rng.integers(1 << 30)), (w, h))
        picture[y : y + h, x : x + w] += rng.choice([-70, 70], 3)
        cx, cy = (x + w / 2) / SIZE[0], (y + h / 2) / SIZE[1]
        rows.append(f"{number % 4} {cx:.6f} {cy:.6f} {w / SIZE[0]:.6f} {h / SIZE[1]:.6f}")
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)), rows


def healthy(folder: Path, *, train: int = 24, val: int = 8, grounds: int | None = None) -> Path:
    """Write a series of two data sets without a fault and return its file.

    Args:
        folder: Where to write.
        train: Training images of each data set.
        val: Evaluation images of each data set.
        grounds: Number of backgrounds that all scenes share; None gives each its own.
    """
    number, items = 0, []
    for domain, classes in SERIES:
        for split, count in (("train", train), ("val", val)):
            for kind in ("images", "labels"):
                (folder / domain / kind / split).mkdir(parents=True)
            for index in range(count):
                number += 1
                picture, rows = scene(number if grounds is None else number % grounds, number)
                stem = f"{split}{index:03d}"
                picture.save(folder / domain / "images" / split / f"{stem}.jpg", quality=92)
                label = folder / domain / "labels" / split / f"{stem}.txt"
                label.write_text("".join(f"{row}\n" for row in rows))
        document = {"names": list(NAMES), "train": "images/train", "val": "images/val"}
        (folder / domain / "data.yaml").write_text(yaml.safe_dump(document))
        items.append({"domain": domain, "data": f"{domain}/data.yaml", "classes": list(classes)})
    path = folder / "series.yaml"
    path.write_text(yaml.safe_dump({"schema": 1, "name": "healthy", "increments": items}))
    return path


def image(folder: Path, index: int, domain: str = "day", split: str = "train") -> Path:
    return folder / domain / "images" / split / f"{split}{index:03d}.jpg"


def label(folder: Path, index: int, domain: str = "day", split: str = "train") -> Path:
    return folder / domain / "labels" / split / f"{split}{index:03d}.txt"


def add_row(row: str, *indices: int) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        for index in indices:
            with label(folder, index).open("a") as stream:
                stream.write(f"{row}\n")

    return plant


def put_copy(source: Path, target: Path, labels_from: Path) -> None:
    """Copy an image together with its labels."""
    shutil.copy(source, target)
    shutil.copy(labels_from, Path(str(target).replace("/images/", "/labels/")).with_suffix(".txt"))


def _truncated(folder: Path) -> None:
    content = image(folder, 0).read_bytes()
    image(folder, 0).write_bytes(content[: len(content) * 3 // 4])


def _empty(folder: Path) -> None:
    image(folder, 1).write_bytes(b"")


def _orphan(folder: Path) -> None:
    image(folder, 2).unlink()


def _unlabelled(folder: Path) -> None:
    label(folder, 3).unlink()


def _binary_labels(folder: Path) -> None:
    label(folder, 12).write_bytes(b"\xff\xfe\x00\x9f")


def _doubled_row(folder: Path) -> None:
    text = label(folder, 10).read_text()
    label(folder, 10).write_text(text + text.splitlines()[0] + "\n")


def _leak(folder: Path) -> None:
    put_copy(image(folder, 13), image(folder, 90, split="val"), label(folder, 13))


def _leak_between(folder: Path) -> None:
    put_copy(image(folder, 14), image(folder, 91, "night", "val"), label(folder, 14))


def _duplicate(folder: Path) -> None:
    put_copy(image(folder, 15), image(folder, 92), label(folder, 15))


def _repeat(folder: Path) -> None:
    put_copy(image(folder, 16), image(folder, 93, "night"), label(folder, 16))


def _near_leak(folder: Path) -> None:
    target = image(folder, 94, split="val")
    put_copy(image(folder, 17), target, label(folder, 17))
    with Image.open(image(folder, 17)) as picture:
        picture.save(target, quality=60)


def _few_cats(folder: Path) -> None:
    for index in set(range(24)) - {20}:
        if label(folder, index).is_file():
            rows = label(folder, index).read_bytes().decode("latin-1").splitlines()
            kept = [f"1{row[1:]}" if row[:2] == "0 " else row for row in rows]
            label(folder, index).write_bytes("".join(f"{row}\n" for row in kept).encode("latin-1"))


def _names(folder: Path, names: tuple[str, ...], classes: tuple[str, ...]) -> None:
    source = folder / "night" / "data.yaml"
    source.write_text(yaml.safe_dump({**yaml.safe_load(source.read_text()), "names": list(names)}))
    series = folder / "series.yaml"
    document = yaml.safe_load(series.read_text())
    document["increments"][1]["classes"] = list(classes)
    series.write_text(yaml.safe_dump(document))


def _two_names(folder: Path) -> None:
    _names(folder, ("cat", "dog", "motor", "motorbike"), ("motor", "motorbike"))


def _unknown_name(folder: Path) -> None:
    _names(folder, NAMES, ("bus", "trma"))


@dataclass(frozen=True)
class Damage:
    """One kind of damage.

    Attributes:
        plant: Does it to the series in a folder.
        code: What the doctor must call it.
        severity: How bad that is.
        mended: Whether a repair removes it.
    """

    plant: Callable[[Path], None]
    code: str
    severity: str
    mended: bool = True


DAMAGES = {
    "boxes filled in": Damage(
        add_row("1 0.5 0.5 0.4 0.4", *range(24)), "label.same-box", "warning", mended=False
    ),
    "truncated image": Damage(_truncated, "image.unreadable", "error"),
    "empty image": Damage(_empty, "image.unreadable", "error"),
    "label without image": Damage(_orphan, "pair.no-image", "warning"),
    "image without label": Damage(_unlabelled, "pair.no-label", "warning", mended=False),
    "pixel in the corner": Damage(
        add_row("0 0.003125 0.004167 0.00625 0.008333", 4), "label.dummy", "error"
    ),
    "one one one one": Damage(add_row("0 1 1 1 1", 4), "label.dummy", "error"),
    "speck": Damage(add_row("0 0.4 0.4 0.005 0.2", 5), "label.tiny", "warning"),
    "one pixel": Damage(add_row("0 0.5 0.5 0.00625 0.008333", 5), "label.tiny", "warning"),
    "whole images": Damage(
        add_row("1 0.5 0.5 1 1", 6, 7, 8), "label.whole-image", "warning", mended=False
    ),
    "class id": Damage(add_row("44 0.5 0.5 0.2 0.2", 6), "label.class", "error", mended=False),
    "pixels": Damage(add_row("1 80 60 20 20", 7), "label.range", "error"),
    "slightly outside": Damage(add_row("1 1.02 0.5 0.2 0.2", 7), "label.range", "error"),
    "nan": Damage(add_row("1 nan 0.5 0.2 0.2", 8), "label.number", "error"),
    "words": Damage(add_row("cat here", 9), "label.columns", "error"),
    "same row twice": Damage(_doubled_row, "label.duplicate", "error"),
    "no height": Damage(add_row("1 0.5 0.5 0.2 0", 11), "label.degenerate", "error"),
    "overshoot": Damage(add_row("1 0.97 0.5 0.2 0.2", 11), "label.outside", "warning"),
    "binary labels": Damage(_binary_labels, "label.file", "error"),
    "imbalance": Damage(_few_cats, "class.imbalance", "warning", mended=False),
    "leak": Damage(_leak, "image.leak", "error"),
    "leak between": Damage(_leak_between, "image.leak-between", "error"),
    "duplicate": Damage(_duplicate, "image.duplicate", "warning"),
    "repeat": Damage(_repeat, "image.repeat", "warning", mended=False),
    "near-duplicate": Damage(_near_leak, "image.near-leak", "warning"),
    "two names": Damage(_two_names, "class.alias-clash", "error", mended=False),
    "unknown name": Damage(_unknown_name, "class.unknown", "error", mended=False),
}
