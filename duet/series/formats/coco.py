"""COCO: one JSON of instances per split, and folders of images.

A folder is read as it comes from COCO (``annotations/instances_train2017.json`` beside
``train2017``) or from Roboflow (``train/_annotations.coco.json``; ``valid`` or ``val``). A YAML
file can say otherwise::

    format: coco
    path: coco                    # relative to this file
    train: {images: train2017, annotations: annotations/instances_train2017.json}
    val: {images: val2017, annotations: annotations/instances_val2017.json}
    names: [person, bicycle]      # left out: the categories, in the order of their ids

A bbox is left, top, width, height in pixels from the image's border. ``iscrowd`` marks a region of
many objects, which is ignored. ``ignore: 1`` or ``difficult: 1``, which some tools write, mark one
object as ignored.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from duet.errors import did_you_mean
from duet.labels import LabelSpace
from duet.series.formats.base import NO_OPTIONS, Options, Progress, Reading, Transfer
from duet.series.formats.boxes import annotate, to_pixels
from duet.series.formats.coco_json import CocoFile, read_json
from duet.series.formats.documents import (
    DESCRIPTION,
    SPLITS,
    check_keys,
    first_file,
    label_space,
    load_description,
    look_at,
    missing_splits,
    read_names,
    split_entries,
    write_yaml,
)
from duet.series.formats.mending import by_objects
from duet.series.formats.pairing import images_without_entry
from duet.series.formats.placing import Placer
from duet.series.images import ImageFacts, Verify
from duet.series.model import Annotation, Boxes, DomainData, Split
from duet.series.problems import Location, Problem, error, warning
from duet.text import shown

LAYOUT = (
    "annotations/instances_train*.json beside folders of images, or train/_annotations.coco.json"
)
LABELS_LIE = ""
HOLDS_IGNORED = True
COUNTED = "set 'iscrowd', 'ignore' and 'difficult' to 0 where an object shall count"
TELLS_OVERSHOOTS = True
KEEPS_ROWS = False
OPTIONS: Mapping[str, tuple[str, ...]] = {}

_KEYS = ("format", "path", *SPLITS, "names", "nc")
_PAIR = ("images", "annotations")
_ROBOFLOW = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}


@dataclass(frozen=True)
class _Part:
    """A JSON file of a split, and where the files that it names may lie."""

    split: str
    json: Path
    images: Path
    base: Path


@dataclass(frozen=True)
class _File:
    """A part that could be read; ``paths`` are its images, in the order of the file."""

    part: _Part
    content: CocoFile
    paths: list[Path]


def recognises(folder: Path) -> bool:
    """Tell whether the folder holds JSON files where COCO or Roboflow put them."""
    return any(_instance_files(folder, name) for name in SPLITS)


def read(
    source: Path, *, domain: str, verify: Verify | None = None, options: Options = NO_OPTIONS
) -> Reading:
    """Read the data set at ``source``.

    Args:
        source: A folder in COCO's or Roboflow's layout, or a YAML file as shown above.
        domain: Name of the domain.
        verify: How closely images are looked at, see `documents.look_at`.
        options: None is known.
    """
    document: dict[str, Any] = {}
    problems: list[Problem] = []
    if not source.is_dir():
        loaded, found = load_description(source)
        if loaded is None:
            return Reading(DomainData(domain, LabelSpace(()), {}, source), found)
        document = loaded
        problems += [*found, *check_keys(document, _KEYS, source)]
    parts, unlisted = _described(document, source) if document else _customary(source)
    files, broken = _load(parts)
    labels, unnamed = _labels(document, files, source)
    facts, unreadable = look_at([path for file in files for path in file.paths], verify)
    problems += [*unlisted, *broken, *unnamed, *unreadable]
    rows: dict[str, list[tuple[Path, Annotation]]] = {part.split: [] for part in parts}
    for file in files:
        problems += _contradictions(file, facts)
        found_rows, wrong = _annotate(file, facts, labels)
        rows[file.part.split] += found_rows
        problems += wrong
    splits = {
        name: Split(name, tuple(path for path, _ in kept), tuple(labelled for _, labelled in kept))
        for name, kept in rows.items()
    }
    unused = sum((file.content.unused for file in files), Counter[str]())
    return Reading(DomainData(domain, labels, splits, source), tuple(problems), unused)


def _instance_files(folder: Path, split: str) -> list[Path]:
    """Return the JSON files that the name of a split stands for in an undescribed folder."""
    roboflow = (folder / name / "_annotations.coco.json" for name in _ROBOFLOW[split])
    return [
        *sorted((folder / "annotations").glob(f"instances_{split}*.json")),
        *(path for path in roboflow if path.is_file()),
    ]


def _customary(folder: Path) -> tuple[list[_Part], list[Problem]]:
    """Return the parts of a folder in COCO's or Roboflow's layout."""
    parts: list[_Part] = []
    problems: list[Problem] = []
    for split in SPLITS:
        found = _instance_files(folder, split)
        if len(found) > 1:
            names = ", ".join(str(path.relative_to(folder)) for path in found)
            remedy = "write a data.yaml with 'format: coco' that names one of them, or all"
            what = f"several files could be '{split}': {names}"
            problems.append(error("data.split", folder, what, remedy))
        elif found and found[0].parent.name == "annotations":
            name = found[0].stem.removeprefix("instances_")
            beside = [folder / name, folder / "images" / name, folder / "images"]
            images = next((place for place in beside if place.is_dir()), beside[0])
            parts.append(_Part(split, found[0], images, folder))
        elif found:
            parts.append(_Part(split, found[0], found[0].parent, folder))
    remedy = f"looked for {LAYOUT}; a data.yaml with 'format: coco' can name other files"
    named = [split for split in SPLITS if _instance_files(folder, split)]
    return parts, problems + missing_splits(named, folder, remedy)


def _described(document: Mapping[str, Any], source: Path) -> tuple[list[_Part], list[Problem]]:
    """Return the parts that a YAML file names."""
    base = source.parent / str(document.get("path") or "")
    remedy = "write {images: FOLDER, annotations: FILE.json}, or a list of such pairs"
    parts: list[_Part] = []
    problems: list[Problem] = []
    named = split_entries(document)
    for split, pairs in named.items():
        for pair in pairs:
            texts = [pair.get(key) for key in _PAIR] if isinstance(pair, dict) else [None]
            if not all(isinstance(text, str) and text for text in texts) or len(pair) != 2:
                what = f"'{split}' must name a folder of images and a JSON file, got {shown(pair)}"
                problems.append(error("data.split", source, what, remedy))
                continue
            images, annotations = (base / pair[key] for key in _PAIR)
            parts.append(_Part(split, annotations, images, base))
    return parts, problems + missing_splits([*named], source, remedy)


def _load(parts: Sequence[_Part]) -> tuple[list[_File], list[Problem]]:
    files: list[_File] = []
    problems: list[Problem] = []
    for part in parts:
        content = read_json(part.json)
        if isinstance(content, Problem):
            problems.append(content)
            continue
        problems += content.problems
        # Some tools name an image from the data set's folder.
        paths = [first_file([part.images / name, part.base / name]) for name in content.files]
        files.append(_File(part, content, paths))
    return files, problems


def _labels(
    document: Mapping[str, Any], files: Sequence[_File], source: Path
) -> tuple[LabelSpace, list[Problem]]:
    """Return the classes: those of the description, or all categories, training's first."""
    names = dict.fromkeys(name for file in files for name in file.content.categories.values())
    if "names" not in document:
        labels, found = label_space(names, source)
        return labels, list(found)
    labels, found = read_names(document, source)
    problems = list(found)
    remedy = "correct 'names', or the categories"
    for name in names if len(labels) else ():
        if name not in labels:
            what = f"category '{name}' is not in 'names'{did_you_mean(name, labels)}"
            problems.append(error("data.names", source, what, remedy))
    return labels, problems


def _contradictions(file: _File, facts: Mapping[Path, ImageFacts]) -> list[Problem]:
    """Return a warning per image whose stated size is wrong; the image is believed."""
    problems = []
    for path, stated in zip(file.paths, file.content.sizes, strict=True):
        fact = facts[path]
        if stated is not None and fact.problem is None and stated != (fact.width, fact.height):
            what = f"'width' and 'height' are {stated[0]}x{stated[1]} px, but the image is "
            what += f"{fact.width}x{fact.height} px"
            remedy = "the image counts; check that the boxes fit it"
            where = Location(file.part.json, part=path.name)
            problems.append(warning("label.size", where, what, remedy))
    return problems


def _annotate(
    file: _File, facts: Mapping[Path, ImageFacts], labels: LabelSpace
) -> tuple[list[tuple[Path, Annotation]], list[Problem]]:
    """Return the readable images of a file with their objects, in the order of the file."""
    usable = np.array([facts[path].problem is None for path in file.paths], np.bool_)
    place = {name: index for index, name in enumerate(labels)}
    # -1: a category that 'names' leaves out, which has been reported
    new_ids = np.array([place.get(n, -1) for n in file.content.categories.values()], np.int64)
    objects = file.content.objects
    objects = replace(objects, class_ids=new_ids[objects.class_ids])
    objects = objects.take(usable[objects.images] & (objects.class_ids >= 0))
    sizes = np.array(
        [(facts[path].width, facts[path].height) for path in file.paths], np.int64
    ).reshape(-1, 2)
    annotations, problems = annotate(
        objects, sizes, lambda _, number: Location(file.part.json, object=number, part="annotation")
    )
    rows = zip(file.paths, annotations, strict=True)
    return [row for row, kept in zip(rows, usable, strict=True) if kept], problems


def write(data: DomainData, folder: Path, *, transfer: Transfer, progress: Progress) -> int:
    """Write ``images/SPLIT``, ``annotations/instances_SPLIT.json`` and ``data.yaml``.

    A single ignored object has ``difficult: 1`` beside ``iscrowd: 1``: other programs ignore it as
    they ignore crowds, and duet knows it again.
    """
    placer = Placer(transfer)
    document: dict[str, Any] = {"format": "coco"}
    for name, split in data.splits.items():
        place = folder / "images" / name
        place.mkdir(parents=True)
        target = folder / "annotations" / f"instances_{name}.json"
        target.parent.mkdir(exist_ok=True)
        with target.open("w", encoding="utf-8") as stream:
            _write_images(stream, split, placer, place, progress)
            _write_annotations(stream, split)
            categories = [{"id": i, "name": label} for i, label in enumerate(data.labels, start=1)]
            stream.write(f'],\n"categories": {json.dumps(categories)}}}\n')
        document[name] = dict(
            zip(_PAIR, (f"images/{name}", f"annotations/{target.name}"), strict=True)
        )
    # Categories have an order of their own; the names are repeated for people.
    document["names"] = list(data.labels)
    write_yaml(folder / DESCRIPTION, document)
    return placer.renamed


mend = by_objects(write)


def label_file(image: Path) -> None:
    """Return None: a file holds the labels of many images."""


def check_files(data: DomainData, broken: Collection[Path]) -> Iterator[Problem]:
    """Yield images that lie beside the others and are in no file."""
    return images_without_entry(data, broken, "no entry in any JSON file")


def _write_images(
    stream: IO[str], split: Split, placer: Placer, folder: Path, progress: Progress
) -> None:
    """Put the images into ``folder`` and write their list."""
    stream.write('{"images": [')
    rows = zip(split.images, split.annotations, strict=True)
    for number, (image, annotation) in enumerate(rows, start=1):
        placed = placer.place(image, folder, scope=split.name)
        size = {"width": annotation.width, "height": annotation.height}
        record = {"id": number, "file_name": placed.name, **size}
        stream.write(f"{',' if number > 1 else ''}\n{json.dumps(record)}")
        progress(1)


def _write_annotations(stream: IO[str], split: Split) -> None:
    """Write the objects of a split, one line each."""
    stream.write('],\n"annotations": [')
    number = 0
    for image, annotation in enumerate(split.annotations, start=1):
        boxes = to_pixels(annotation, _to_xywh, _to_xyxy).tolist()
        columns = (annotation.class_ids.tolist(), boxes, annotation.ignored, annotation.crowds)
        for class_id, box, ignored, crowd in zip(*columns, strict=True):
            number += 1
            record = {"id": number, "image_id": image, "category_id": class_id + 1, "bbox": box}
            record |= {"area": box[2] * box[3], "iscrowd": int(ignored)}
            record |= {"difficult": 1} if ignored and not crowd else {}
            stream.write(f"{',' if number > 1 else ''}\n{json.dumps(record)}")


def _to_xywh(edges: Boxes) -> Boxes:
    return np.concatenate([edges[:, :2], edges[:, 2:] - edges[:, :2]], axis=1)


def _to_xyxy(boxes: Boxes) -> Boxes:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
