"""PASCAL VOC: `Annotations`, `ImageSets/Main` and `JPEGImages`, or several such folders.

Coordinates are whole pixels counted from 1, and the last pixel belongs to the box: its left edge is
``xmin - 1``, its right edge ``xmax``, in pixels from the image's border. Fractions, which other
tools write, are taken the same way.

A single folder is read by VOC's own custom: training on `trainval` and evaluation on `test` where
both lists exist, else on `train` and `val`. A YAML file can say otherwise::

    format: voc
    path: VOCdevkit               # relative to this file
    train: [VOC2007/trainval, VOC2012/trainval]
    test: VOC2007/test
    names: [aeroplane, bicycle]   # left out: every name that occurs, sorted
    difficult: ignore             # or drop, keep
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from duet.errors import DataError, did_you_mean
from duet.files import read_bytes, write_text
from duet.labels import LabelSpace
from duet.series.formats.base import NO_OPTIONS, Options, Progress, Reading, Transfer
from duet.series.formats.boxes import PixelBoxes, annotate, to_pixels
from duet.series.formats.documents import (
    DESCRIPTION,
    SPLITS,
    check_keys,
    kept_splits,
    label_space,
    load_description,
    look_at,
    missing_splits,
    read_names,
    split_entries,
    write_yaml,
)
from duet.series.formats.mending import by_objects
from duet.series.formats.pairing import orphans
from duet.series.formats.placing import Placer
from duet.series.formats.voc_xml import VocFile, VocObject, format_xml, object_at, read_xml
from duet.series.images import ImageFacts, Verify
from duet.series.model import Annotation, Boxes, DomainData
from duet.series.names import as_stored, composed
from duet.series.problems import Problem, error, warning
from duet.series.suffixes import IMAGE_SUFFIXES, is_picture
from duet.text import shown
from duet.yamltree import resolved

LAYOUT = "folders Annotations, ImageSets/Main and JPEGImages"
LABELS_LIE = ""
HOLDS_IGNORED = True
COUNTED = (
    "set <difficult> to 0 where an object shall count, or all with 'difficult: keep' in a data.yaml"
)
TELLS_OVERSHOOTS = True
KEEPS_ROWS = False

DIFFICULT = ("ignore", "drop", "keep")
"""VOC's difficult objects: neither learned nor scored (as VOC does), absent, or like all others."""

OPTIONS: Mapping[str, tuple[str, ...]] = {"difficult": DIFFICULT}

_KEYS = ("format", "path", *SPLITS, "names", "nc", "difficult")
_LISTS = Path("ImageSets", "Main")
_FROM_ONE = np.array([1.0, 1.0, 0.0, 0.0])
_CLASS_WISE = re.compile(r"\S+\s+(-1|0|1)")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class _Pair:
    """An image and its annotation file, as a list names them; either may be missing."""

    image: Path
    xml: Path


def recognises(folder: Path) -> bool:
    """Tell whether the folder has VOC's three sub-folders."""
    return all((folder / name).is_dir() for name in ("Annotations", _LISTS, "JPEGImages"))


def read(
    source: Path, *, domain: str, verify: Verify | None = None, options: Options = NO_OPTIONS
) -> Reading:
    """Read the data set at ``source``.

    Args:
        source: A folder in VOC's layout, or a YAML file as shown above.
        domain: Name of the domain.
        verify: How closely images are looked at, see `documents.look_at`.
        options: ``difficult`` replaces what the YAML file says.
    """
    if source.is_dir():
        document: dict[str, Any] = dict(_custom(source))
        problems: list[Problem] = []
    else:
        loaded, found = load_description(source)
        document, problems = loaded or {}, list(found)
        if loaded is None:
            return Reading(DomainData(domain, LabelSpace(()), {}, source), tuple(problems))
        problems += check_keys(document, _KEYS, source)
    choice, unknown = _difficult(document.get("difficult"), source)
    listed, unlisted = _list_splits(document, source)
    problems += [*unknown, *unlisted]
    pairs = {pair.image: pair for split in listed.values() for pair in split}
    facts, unreadable = look_at([*pairs], verify)
    files = {image: read_xml(pair.xml) for image, pair in pairs.items()}
    problems += [*unreadable, *(item for file in files.values() for item in file.problems)]
    if "names" in document:
        labels, unnamed = read_names(document, source)
    else:
        named = sorted({item.name for file in files.values() for item in file.objects})
        labels, unnamed = label_space(named, source)
    problems += unnamed
    annotations, wrong = _annotate(pairs, files, facts, labels, options.get("difficult", choice))
    problems += wrong
    images = {name: [pair.image for pair in split] for name, split in listed.items()}
    splits = kept_splits(images, annotations)
    unused = sum((file.unused for file in files.values()), Counter[str]())
    return Reading(DomainData(domain, labels, splits, source), tuple(problems), unused)


def _custom(folder: Path) -> dict[str, str]:
    """Return the lists that VOC's custom uses: class-wise lists and `extra` are none of them."""
    known = ("train", "val", "trainval", "test")
    present = {name for name in known if (folder / _LISTS / f"{name}.txt").is_file()}
    if {"trainval", "test"} <= present:
        return {"train": "trainval", "test": "test"}
    return {name: name for name in SPLITS if name in present}


def _difficult(value: object, source: Path) -> tuple[str, list[Problem]]:
    if value is None or value in DIFFICULT:
        return str(value or "ignore"), []
    what = f"'difficult' must be one of {', '.join(DIFFICULT)}, got {shown(value)}"
    remedy = "ignore: neither learned nor scored, as VOC does"
    return "ignore", [error("data.key", source, what, remedy)]


def _list_splits(
    document: Mapping[str, Any], source: Path
) -> tuple[dict[str, list[_Pair]], list[Problem]]:
    """Return the images of each split that the document names, in the order of its lists."""
    folder = source if source.is_dir() else source.parent
    base = folder / str(document.get("path") or "")
    listed: dict[str, list[_Pair]] = {}
    problems: list[Problem] = []
    named = split_entries(document)
    for name, entries in named.items():
        if not all(isinstance(place, str) for place in entries):
            wanted = "a list such as 'VOC2007/trainval', or several"
            what = f"'{name}' must be {wanted}, got {shown(resolved(document[name]))}"
            problems.append(error("data.split", source, what, "write FOLDER/LIST"))
            continue
        pairs: list[_Pair] = []
        for place in entries:
            found, wrong = _read_list(base / Path(place).parent, Path(place).name)
            pairs += found
            problems += wrong
        if pairs:
            listed[name] = pairs
    remedy = f"lists looked for in {base / _LISTS}: trainval.txt and test.txt, or train.txt and "
    remedy += "val.txt; a data.yaml with 'format: voc' can name others"
    return listed, problems + missing_splits([*named], source, remedy)


def _read_list(folder: Path, name: str) -> tuple[list[_Pair], list[Problem]]:
    path = folder / _LISTS / f"{name.removesuffix('.txt')}.txt"
    remedy = "a split is FOLDER/LIST, and FOLDER is relative to 'path'; duet never downloads"
    try:
        lines = read_bytes(path).decode("utf-8-sig", "replace").splitlines()
    except (OSError, ValueError) as failure:  # ValueError: a NUL in the path
        what = f"cannot read the list: {failure}"
        return [], [error("data.images", path, what, remedy)]
    stems = [line.strip() for line in lines if line.strip()]
    if not stems:
        return [], [error("data.images", path, "the list is empty", "write one name per line")]
    if all(_CLASS_WISE.fullmatch(stem) for stem in stems):
        what = "a list of one class, with a 1 or -1 per image, is no split"
        return [], [error("data.images", path, what, "name the list without a class")]
    images = folder / "JPEGImages"
    files = _files_by_stem(images)
    pairs = []
    for stem in stems:
        # Some tools list file names; 'a.jpg' is a name without suffix if there is an 'a.jpg.png'.
        if composed(stem) not in files and is_picture(stem):
            stem = os.path.splitext(stem)[0]
        # The name in the list counts; <filename> is often that of another computer.
        image = images / files.get(composed(stem), f"{stem}.jpg")
        pairs.append(_Pair(image, as_stored(folder / "Annotations" / f"{stem}.xml")))
    return pairs, []


def _files_by_stem(folder: Path) -> dict[str, str]:
    """Return the image file of each name without suffix: JPEG first, unusual suffixes last."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    suffixes = {name: os.path.splitext(name)[1].lower() for name in names}
    names.sort(key=lambda name: (suffixes[name] in IMAGE_SUFFIXES, suffixes[name] == ".jpg"))
    return {composed(os.path.splitext(name)[0]): name for name in names}


def _annotate(
    pairs: Mapping[Path, _Pair],
    files: Mapping[Path, VocFile],
    facts: Mapping[Path, ImageFacts],
    labels: LabelSpace,
    difficult: str,
) -> tuple[dict[Path, Annotation], list[Problem]]:
    """Return the annotation of every image that can be read and whose XML can be read."""
    usable = [image for image in pairs if not facts[image].problem and files[image].readable]
    problems = [
        *_unknown_names(pairs, files, labels),
        *(item for image in usable for item in _contradiction(pairs[image], files, facts)),
    ]
    sizes = np.array([(facts[i].width, facts[i].height) for i in usable], np.int64).reshape(-1, 2)
    objects = _pixel_boxes([files[image] for image in usable], labels, difficult)
    annotations, found = annotate(
        objects, sizes, lambda image, number: object_at(pairs[usable[image]].xml, number)
    )
    return dict(zip(usable, annotations, strict=True)), problems + found


def _unknown_names(
    pairs: Mapping[Path, _Pair], files: Mapping[Path, VocFile], labels: LabelSpace
) -> list[Problem]:
    @cache
    def remark(name: str) -> str:
        return f"unknown class '{name}'{did_you_mean(name, labels)}"

    remedy = "correct the name, or add it to 'names' in data.yaml"
    known = set(labels)
    return [
        error("label.class", object_at(pairs[image].xml, item.number), remark(item.name), remedy)
        for image, file in files.items()
        for item in file.objects
        if known and item.name not in known
    ]


def _contradiction(
    pair: _Pair, files: Mapping[Path, VocFile], facts: Mapping[Path, ImageFacts]
) -> list[Problem]:
    """Return a warning if ``<size>`` is not that of the image; the image is believed."""
    stated, fact = files[pair.image].size, facts[pair.image]
    if stated in (None, (fact.width, fact.height)):
        return []
    turned = stated == (fact.height, fact.width)
    what = f"<size> is {stated[0]}x{stated[1]} px, but the image is {fact.width}x{fact.height} px"
    what += ": was it labelled lying and is shown upright?" if turned else ""
    return [warning("label.size", pair.xml, what, "the image counts; check that the boxes fit it")]


def _pixel_boxes(files: Sequence[VocFile], labels: LabelSpace, difficult: str) -> PixelBoxes:
    """Return the objects of all files whose class is known, edges counted from 0."""
    index = {name: position for position, name in enumerate(labels)}
    rows = [
        (image, index[item.name], item)
        for image, file in enumerate(files)
        for item in file.objects
        if item.name in index and not (difficult == "drop" and item.difficult and not item.crowd)
    ]
    found = PixelBoxes.of(
        [image for image, *_ in rows],
        [class_id for _, class_id, _ in rows],
        [item.corners for *_, item in rows],
        [item.crowd or (item.difficult and difficult == "ignore") for *_, item in rows],
        [item.crowd for *_, item in rows],
        [item.number for *_, item in rows],
    )
    return replace(found, xyxy=found.xyxy - _FROM_ONE)


def write(data: DomainData, folder: Path, *, transfer: Transfer, progress: Progress) -> int:
    """Write VOC's three folders and a ``data.yaml`` into an empty folder.

    Ignored objects become `difficult`, crowds keep a mark of their own (see `voc_xml`).

    Raises:
        DataError: A class name cannot be written in XML.
    """
    for name in data.labels:
        if name != name.strip() or _NOT_XML.search(name) or "\r" in name:
            raise DataError(f"the class name {name!r} does not survive XML", remedy="rename it")
    for place in ("Annotations", _LISTS, "JPEGImages"):
        (folder / place).mkdir(parents=True)
    placer = Placer(transfer)
    document: dict[str, Any] = {"format": "voc"}
    for name, split in data.splits.items():
        stems: list[str] = []
        for image, annotation in zip(split.images, split.annotations, strict=True):
            # All splits share one folder.
            placed = placer.place(image, folder / "JPEGImages", scope="", prefix=name)
            text = _xml_of(annotation, placed.name, data.labels)
            (folder / "Annotations" / f"{placed.stem}.xml").write_text(text, encoding="utf-8")
            stems.append(placed.stem)
            progress(1)
        write_text(folder / _LISTS / f"{name}.txt", "".join(f"{stem}\n" for stem in stems))
        document[name] = name
    document["names"] = list(data.labels)
    write_yaml(folder / DESCRIPTION, document)
    return placer.renamed


mend = by_objects(write)


def label_file(image: Path) -> Path:
    """Return the annotation file of an image."""
    return image.parent.parent / "Annotations" / f"{image.stem}.xml"


def check_files(data: DomainData, broken: Collection[Path]) -> Iterator[Problem]:
    """Yield annotation files without an image; the reader tells images without one."""
    return orphans(data, label_file)


def _xml_of(annotation: Annotation, image: str, labels: LabelSpace) -> str:
    size = (annotation.width, annotation.height)
    corners: Boxes = to_pixels(
        annotation, lambda edges: edges + _FROM_ONE, lambda found: found - _FROM_ONE
    )
    columns = (annotation.class_ids, corners.tolist(), annotation.ignored, annotation.crowds)
    objects = [
        VocObject(number, labels.names[index], tuple(box), bool(ignored), bool(crowd))
        for number, (index, box, ignored, crowd) in enumerate(zip(*columns, strict=True), start=1)
    ]
    return format_xml(image, size, objects)
