"""Aerial photographs of trees, as deepforest's wheel carries them, become a series.

    pip download --no-deps deepforest==2.1.0
    python tools/prepare_trees.py deepforest-2.1.0-py3-none-any.whl --out datasets/trees
    duet run datasets/trees/trees.yaml --strategies duet-plus,seq-ft

Trees seen in Yellowstone, then dead and living trees in the Sierra Nevada. Downloads nothing and
runs nothing of the wheel; docs/protocols.md says what is tested on.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from duet.errors import ConfigError, DataError
from duet.files import atomic_folder, write_text
from duet.images import Image, decode_image, write_image
from duet.series.formats.voc_xml import VocObject, read_xml
from duet.series.problems import error, raise_problems
from published.command import run_tool
from published.members import open_archive

FOLDER = "deepforest/data"

VISIBLE = 0.5
"""A tree belongs to every tile that shows at least this share of its box."""

SERIES = """\
schema: 1
name: trees
description: trees in Yellowstone, then dead and living trees in the Sierra Nevada
root: .
increments:
  - {domain: yellowstone, data: yellowstone, format: coco, classes: [Tree]}
  - {domain: sierra, data: sierra, format: coco, classes: [Dead, Alive]}
defaults: {train: schedule.yaml, weights: yolo11n-emoji, architecture: yolo11n.yaml}
"""

SCHEDULE = """\
epochs: 25
batch: 4
image_size: 256
optimizer: AdamW
lr: 0.0005
final_lr: 0.01
decay: linear
warmup_epochs: 2
weight_decay: 0.0005
fisher_images: 0
augmentation: {flip: 0.5, scale: 0.4, translate: 0.1, brightness: 0.4}
"""


@dataclass(frozen=True)
class Cut:
    """One rectangle of a photograph that is cut into tiles of one split.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        photo: Name in the wheel, without folder and suffix.
        area: ``(x1, y1, x2, y2)`` px of the photograph.
        side: Width and height of a tile in px; those at the right and lower end may be smaller.
        step: Distance of tiles in px.
    """

    split: str
    photo: str
    area: tuple[int, int, int, int]
    side: int
    step: int

    def tiles(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield ``(x1, y1, x2, y2)`` px of the photograph."""
        left, top, right, bottom = self.area
        for y in range(top, bottom - self.side + self.step, self.step):
            for x in range(left, right - self.side + self.step, self.step):
                yield x, y, min(x + self.side, right), min(y + self.side, bottom)


@dataclass(frozen=True)
class Photo:
    """One photograph, ``(H, W, 3)`` uint8 BGR, and the trees on it."""

    image: Image
    objects: tuple[VocObject, ...]


LARGE, SMALL = "2019_YELL_2_528000_4978000_image_crop2", "2019_YELL_2_541000_4977000_image_crop"
DOMAINS: dict[str, tuple[tuple[str, ...], tuple[Cut, ...]]] = {
    # The other photograph is tested on: nothing of it is seen before.
    "yellowstone": (
        ("Tree",),
        (
            Cut("train", LARGE, (0, 0, 2299, 1800), 300, 300),
            Cut("val", LARGE, (0, 1800, 2299, 2472), 300, 300),
            Cut("test", SMALL, (0, 0, 1249, 1035), 300, 300),
        ),
    ),
    # 37 trees: for learning something new. A test on them would say little.
    "sierra": (
        ("Dead", "Alive"),
        (
            Cut("train", "SOAP_061", (0, 0, 250, 400), 150, 50),
            Cut("val", "SOAP_061", (250, 0, 400, 400), 150, 50),
        ),
    ),
}


def cut_objects(objects: tuple[VocObject, ...], tile: tuple[int, int, int, int]) -> Iterator[Any]:
    """Yield ``(class, [left, top, width, height] px of the tile)`` of what a tile shows."""
    left, top, right, bottom = tile
    for one in objects:
        x1, y1, x2, y2 = one.corners[0] - 1, one.corners[1] - 1, *one.corners[2:]
        seen = max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)
        width, height = seen[2] - seen[0], seen[3] - seen[1]
        if min(width, height) > 0 and width * height >= VISIBLE * (x2 - x1) * (y2 - y1):
            yield one.name, [seen[0] - left, seen[1] - top, width, height]


def read_photos(wheel: Path, folder: Path) -> dict[str, Photo]:
    """Read the photographs and their labels; nothing else of the wheel is opened.

    Args:
        wheel: deepforest 2.1.0 as PyPI has it.
        folder: For work, removed by who made it.

    Raises:
        DataError: It is no archive, unsafe or damaged, lacks some, or a label cannot be used.
    """
    photos = [cut.photo for _, cuts in DOMAINS.values() for cut in cuts]
    known = {name for names, _ in DOMAINS.values() for name in names}
    wanted = {f"{FOLDER}/{name}{end}" for name in photos for end in (".png", ".xml")}
    with open_archive(wheel) as archive:
        deque(archive.scan(), maxlen=0)  # refuses what no wheel has
        contents = dict(archive.each(wanted.__contains__))
    if missing := sorted(wanted - contents.keys()):
        raise DataError(
            f"not the wheel of deepforest 2.1.0: it lacks {', '.join(missing)}", where=str(wheel),
            remedy="pip download --no-deps deepforest==2.1.0",
        )  # fmt: skip
    found, problems = {}, []
    for name in dict.fromkeys(photos):
        label = folder / f"{name}.xml"
        label.write_bytes(contents[f"{FOLDER}/{name}.xml"])
        read = read_xml(label)
        strange = sorted({one.name for one in read.objects} - known)
        problems += [
            *read.problems,
            *(error("class.unknown", label, f"'{one}' is no class of the series", "take "
                    "the wheel of version 2.1.0") for one in strange),
        ]  # fmt: skip
        picture = f"{FOLDER}/{name}.png"
        found[name] = Photo(decode_image(contents[picture], where=picture), read.objects)
    raise_problems(problems, where=str(wheel))
    return found


def write_split(photo: Photo, cut: Cut, names: tuple[str, ...], folder: Path) -> tuple[int, int]:
    """Write the tiles of one cut that show a tree, and their COCO file; return images, objects."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for x1, y1, x2, y2 in cut.tiles():
        shown = list(cut_objects(photo.objects, (x1, y1, x2, y2)))
        if not shown:
            continue
        name = f"{cut.photo}-{x1}-{y1}.png"
        write_image(folder / name, photo.image[y1:y2, x1:x2])
        images.append(
            {"id": len(images) + 1, "file_name": name, "width": x2 - x1, "height": y2 - y1}
        )
        for class_name, box in shown:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": len(images), "bbox": box, "iscrowd": 0,
                 "area": box[2] * box[3], "category_id": names.index(class_name) + 1}
            )  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    write_text(folder / "_annotations.coco.json", json.dumps(document))
    return len(images), len(annotations)


@click.command("prepare_trees.py")
@click.argument("wheel", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def main(wheel: Path, out: Path, as_json: bool) -> None:
    """Cut the aerial photographs in deepforest's wheel into tiles and make a series of them."""
    if out.exists():
        raise ConfigError("exists already", where=str(out), remedy="name a new folder")
    with TemporaryDirectory() as work:
        photos = read_photos(wheel, Path(work))
    with atomic_folder(out) as folder:
        counts = {
            domain: {
                cut.split: write_split(photos[cut.photo], cut, names, folder / domain / cut.split)
                for cut in cuts
            }
            for domain, (names, cuts) in DOMAINS.items()
        }
        write_text(folder / "schedule.yaml", SCHEDULE)
        write_text(folder / "trees.yaml", SERIES)
    if as_json:
        click.echo(json.dumps(counts))
        return
    for domain, splits in counts.items():
        parts = ", ".join(f"{split} {n} tiles {m} trees" for split, (n, m) in splits.items())
        click.echo(f"{domain}: {parts}")
    click.echo(f"next: duet run {out / 'trees.yaml'} --strategies duet-plus,seq-ft", err=True)


if __name__ == "__main__":
    sys.exit(run_tool(main, sys.argv[1:]))
