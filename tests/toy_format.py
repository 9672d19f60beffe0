"""A label format of the tests' own: one `labels.csv` for a whole data set, edges in pixels.

A row is ``split,image,class,left,top,right,bottom``; one without a class lists an empty image.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from duet.labels import LabelSpace
from duet.series.formats.base import NO_OPTIONS, Options, Progress, Reading, Transfer
from duet.series.formats.boxes import PixelBoxes, annotate, to_pixels
from duet.series.formats.documents import (
    DESCRIPTION,
    kept_splits,
    look_at,
    missing_splits,
    write_yaml,
)
from duet.series.formats.mending import by_objects
from duet.series.formats.pairing import images_without_entry
from duet.series.formats.placing import Placer
from duet.series.images import Verify
from duet.series.model import DomainData
from duet.series.problems import Location, Problem, error

TABLE = "labels.csv"
LAYOUT = f"a file {TABLE}"
LABELS_LIE = ""
HOLDS_IGNORED = False
COUNTED = ""
TELLS_OVERSHOOTS = True
KEEPS_ROWS = False
OPTIONS: Mapping[str, tuple[str, ...]] = {"origin": ("0", "1")}


def recognises(folder: Path) -> bool:
    return (folder / TABLE).is_file()


def read(
    source: Path, *, domain: str, verify: Verify | None = None, options: Options = NO_OPTIONS
) -> Reading:
    folder = source if source.is_dir() else source.parent
    table = folder / TABLE
    listed: dict[str, dict[Path, None]] = {}
    rows: list[tuple[int, Path, str, list[float]]] = []
    problems: list[Problem] = []
    for line, (split, image, name, *edges) in enumerate(csv.reader(table.open()), start=1):
        listed.setdefault(split, {})[folder / image] = None
        try:
            if name:
                rows.append((line, folder / image, name, [float(edge) for edge in edges]))
        except ValueError as failure:
            problems.append(error("label.number", Location(table, line), str(failure), "write it"))
    facts, unreadable = look_at([image for images in listed.values() for image in images], verify)
    usable = [image for image, fact in facts.items() if fact.problem is None]
    rows = [row for row in rows if row[1] in usable]
    labels = LabelSpace.of(sorted({name for _, _, name, _ in rows}))
    origin = float(options.get("origin", "0"))
    objects = PixelBoxes.of(
        [usable.index(image) for _, image, _, _ in rows],
        [labels.index(name) for _, _, name, _ in rows],
        [[edge - origin for edge in edges] for *_, edges in rows],
        [False] * len(rows),
        [False] * len(rows),
        [line for line, *_ in rows],
    )
    sizes = np.array([(facts[image].width, facts[image].height) for image in usable], np.int64)
    annotations, wrong = annotate(objects, sizes, lambda _, line: Location(table, line))
    found = dict(zip(usable, annotations, strict=True))
    splits = kept_splits(listed, found)
    problems += [*unreadable, *wrong, *missing_splits(list(listed), source, "list some")]
    return Reading(DomainData(domain, labels, splits, source), tuple(problems))


def write(data: DomainData, folder: Path, *, transfer: Transfer, progress: Progress) -> int:
    placer = Placer(transfer)
    rows: list[list[object]] = []
    for name, split in data.splits.items():
        (folder / name).mkdir()
        for image, annotation in zip(split.images, split.annotations, strict=True):
            placed = f"{name}/{placer.place(image, folder / name, scope=name).name}"
            boxes = to_pixels(annotation, lambda edges: edges, lambda edges: edges)
            named = [data.labels.names[index] for index in annotation.class_ids.tolist()]
            rows += [
                [name, placed, label, *box]
                for label, box in zip(named, boxes.tolist(), strict=True)
            ] or [[name, placed, ""]]
            progress(1)
    with (folder / TABLE).open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    write_yaml(folder / DESCRIPTION, {"format": "toy"})
    return placer.renamed


mend = by_objects(write)


def label_file(image: Path) -> None:
    return None


def check_files(data: DomainData, broken: Collection[Path]) -> Iterator[Problem]:
    return images_without_entry(data, broken, f"no row in {TABLE}")
