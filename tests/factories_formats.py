"""Tiny VOC and COCO data sets for tests, and what must be equal between formats."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from factories_series import write_image

from duet.series import DomainData, eval_slice
from duet.series.formats.base import Reading
from duet.series.formats.table import resolve

NAMES = ("cat", "dog", "bus")
SIZE = (100, 50)

VocRow = tuple[str, Sequence[float], bool]
"""Class, xmin ymin xmax ymax, difficult."""


def voc_xml(rows: Sequence[VocRow], size: tuple[int, int] = SIZE, extra: str = "") -> str:
    """Return an annotation file as labelling tools write it."""
    objects = "".join(
        f"<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>"
        f"<difficult>{int(difficult)}</difficult><bndbox>"
        + "".join(
            f"<{tag}>{value}</{tag}>"
            for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for name, box, difficult in rows
    )
    return (
        f"<annotation><folder>VOC</folder><filename>of another computer.jpg</filename>"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        f"{objects}{extra}</annotation>"
    )


def make_voc(
    folder: Path, lists: Mapping[str, Mapping[str, Sequence[VocRow]]], *, seed: int = 0
) -> Path:
    """Write a folder in VOC's layout: list name -> image name -> rows."""
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, (list_name, images) in enumerate(lists.items()):
        text = "".join(f"{stem}\n" for stem in images)
        (folder / "ImageSets" / "Main" / f"{list_name}.txt").write_text(text)
        for index, (stem, rows) in enumerate(images.items()):
            image = folder / "JPEGImages" / f"{stem}.jpg"
            write_image(image, seed=seed + 100 * number + index, size=SIZE)
            (folder / "Annotations" / f"{stem}.xml").write_text(voc_xml(rows))
    return folder


def simple_voc(folder: Path, **keys: Any) -> Path:
    """Write two training images and one for evaluation."""
    rows: list[VocRow] = [("cat", (11, 11, 30, 40), False), ("dog", (1, 1, 100, 50), True)]
    lists = {"train": {"a": rows, "b": [rows[0]]}, "val": {"c": rows}}
    return make_voc(folder, lists, **keys)


def coco_document(files: Sequence[str], boxes: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return a document with one object per image and sparse ids, as COCO has them."""
    return {
        "info": {"year": 2017},
        "annotations": [
            {
                "id": 1000 + i, "image_id": 7 * i + 3, "category_id": (18, 17)[i % 2],
                "bbox": list(box), "area": 1.0, "iscrowd": 0,
            }
            for i, box in enumerate(boxes)
        ],
        "images": [
            {"id": 7 * i + 3, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
            for i, name in enumerate(files)
        ],
        "categories": [{"id": i, "name": n} for i, n in ((18, "dog"), (17, "cat"), (90, "x"))],
    }  # fmt: skip


def make_coco(folder: Path, *, change: Any = None, seed: int = 0) -> Path:
    """Write two training images and one for evaluation in COCO's layout.

    ``change`` gets the training document before it is written.
    """
    for number, (split, count) in enumerate({"train2017": 2, "val2017": 1}.items()):
        files = [f"{split}-{index}.png" for index in range(count)]
        for index, name in enumerate(files):
            write_image(folder / split / name, seed=seed + 10 * number + index, size=SIZE)
        document = coco_document(files, [(10, 10, 20, 30)] * count)
        if change is not None and number == 0:
            replaced = change(document)
            document = document if replaced is None else replaced
        target = folder / "annotations" / f"instances_{split}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(document if isinstance(document, str) else json.dumps(document))
    return folder


def describe(folder: Path, document: Mapping[str, Any], name: str = "described.yaml") -> Path:
    """Write a description of a data set and return its path."""
    path = folder / name
    path.write_text(yaml.safe_dump(dict(document)))
    return path


def written(data: DomainData, form: str, folder: Path) -> int:
    """Write a data set with copied images."""
    folder.mkdir(parents=True)
    return resolve(form).write(data, folder, transfer="copy", progress=lambda count: None)


def codes(reading: Reading) -> list[str]:
    """Return the codes of a reading's problems, sorted, each once."""
    return sorted({problem.code for problem in reading.problems})


def assert_same(one: DomainData, other: DomainData) -> None:
    """Assert that two data sets have the same bits, whatever their files."""
    assert one.labels == other.labels
    assert list(one.splits) == list(other.splits)
    for name, split in one.splits.items():
        pairs = zip(split.annotations, other.splits[name].annotations, strict=True)
        for left, right in pairs:
            assert (left.width, left.height) == (right.width, right.height)
            for column in ("boxes", "class_ids", "ignored", "crowds"):
                a, b = getattr(left, column), getattr(right, column)
                assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes())
        for left_image, right_image in zip(split.images, other.splits[name].images, strict=True):
            assert left_image.read_bytes() == right_image.read_bytes()
        hashes = [eval_slice(data, data.labels.names, name).sha256 for data in (one, other)]
        assert hashes[0] == hashes[1]
