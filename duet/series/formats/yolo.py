"""Ultralytics' `data.yaml`: read as data, never run, and nothing is written beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from duet.config import load_yaml
from duet.errors import DuetError
from duet.labels import LabelSpace
from duet.series.formats import Reading
from duet.series.formats.yolo_labels import read_labels
from duet.series.images import FULL_VERIFY_LIMIT, ImageFacts, Verify, inspect_images
from duet.series.model import Annotation, DomainData, Split
from duet.series.problems import Problem, error

SPLITS = ("train", "val", "test")

# What Ultralytics counts as images; one that Pillow cannot decode is reported, not passed over.
IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpeg2000"),
        *("jpg", "mpo", "png", "tif", "tiff", "webp"),
    )
)


def read(source: Path, *, domain: str, verify: Verify | None = None) -> Reading:
    """Read the data set that ``source`` describes.

    Args:
        source: A ``data.yaml``; keys beyond ``path``, ``names``, ``nc`` and the splits are
            another program's business and do not count.
        domain: Name of the domain.
        verify: How closely images are looked at; by default every pixel in a data set of up to
            ``FULL_VERIFY_LIMIT`` images, headers in a larger one.
    """
    document, problems = _load(source)
    if document is None:
        return Reading(DomainData(domain, LabelSpace(()), {}, source), problems)
    labels, found = read_names(document, source)
    problems += found
    listed, found = _list_splits(document, source)
    problems += found
    facts = _facts(listed, verify)
    problems += tuple(fact.problem for fact in facts.values() if fact.problem is not None)
    annotations, found = _annotate(facts, len(labels) or None)
    problems += found
    splits = {
        # An image with a problem has no annotation: the problem stands for it.
        name: Split(name, kept, tuple(annotations[image] for image in kept))
        for name, images in listed.items()
        for kept in [tuple(image for image in images if image in annotations)]
    }
    return Reading(DomainData(domain, labels, splits, source), problems)


def label_path(image: Path) -> Path:
    """Return the label file of an image: the last ``images`` folder of the path is ``labels``."""
    text, images, labels = str(image), f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
    return Path(f"{os.path.splitext(labels.join(text.rsplit(images, 1)))[0]}.txt")


def read_names(document: Mapping[str, Any], source: Path) -> tuple[LabelSpace, tuple[Problem, ...]]:
    """Return the classes of ``names`` (a list, or a mapping from 0..n-1) and check ``nc``.

    The label space is empty when ``names`` cannot be used.
    """
    remedy = "write 'names' as a list, or as a mapping from 0, 1, 2, ...; quote words such as 'no'"
    raw = document.get("names")
    if isinstance(raw, dict):
        if any(type(key) is not int for key in raw) or sorted(raw) != list(range(len(raw))):
            what = f"keys of 'names' must be 0 to {len(raw) - 1}, got {list(raw)}"
            return LabelSpace(()), (error("data.names", source, what, remedy),)
        raw = [raw[index] for index in range(len(raw))]
    if not isinstance(raw, list) or not raw:
        what = f"'names' must be a list or a mapping of class names, got {raw!r}"
        return LabelSpace(()), (error("data.names", source, what, remedy),)
    # YAML reads an unquoted 7 as a number (fine: its text is clear) but `no` as False (it is not).
    wrong = [name for name in raw if type(name) not in (str, int, float)]
    if wrong:
        what = f"class names must be text, got {', '.join(map(repr, wrong))}"
        return LabelSpace(()), (error("data.names", source, what, remedy),)
    try:
        labels = LabelSpace.of(str(name) for name in raw)
    except DuetError as failure:
        what, advice = failure.what, failure.remedy or remedy
        return LabelSpace(()), (error("data.names", source, what, advice),)
    count = document.get("nc")
    if count is not None and count != len(labels):
        what = f"'nc' is {count!r} but 'names' has {len(labels)} classes"
        return labels, (error("data.nc", source, what, "remove 'nc' or correct it"),)
    return labels, ()


def _load(source: Path) -> tuple[dict[str, Any] | None, tuple[Problem, ...]]:
    """Return the document, or None and why."""
    try:
        document = load_yaml(source)
    except DuetError as failure:
        remedy = failure.remedy or "correct the file"
        return None, (error("data.file", source, failure.what, remedy),)
    if not isinstance(document, dict):
        what = f"data.yaml must be a mapping, got {type(document).__name__}"
        remedy = "write at least 'names', 'train' and 'val'"
        return None, (error("data.file", source, what, remedy),)
    return document, ()


def _list_splits(
    document: Mapping[str, Any], source: Path
) -> tuple[dict[str, list[Path]], tuple[Problem, ...]]:
    """Return the image files of each split that the document names."""
    base = source.parent / str(document.get("path") or "")
    fetch = _fetch_yourself(document.get("download"))
    listed: dict[str, list[Path]] = {}
    problems: list[Problem] = []
    for name in SPLITS:
        entry = document.get(name)
        if name == "val" and entry is None:
            entry = document.get("validation")  # an old spelling that Ultralytics still reads
        if entry in (None, "", []):  # an empty path would mean the whole folder of data.yaml
            if name != "test":
                remedy = f"add '{name}': a folder of images, or a text file that lists them"
                problems.append(error("data.split", source, f"no '{name}' split", remedy))
            continue
        places = entry if isinstance(entry, list) else [entry]
        if not all(isinstance(place, str) for place in places):
            what = f"'{name}' must be a path or a list of paths, got {entry!r}"
            problems.append(error("data.split", source, what, "write paths"))
            continue
        listed[name] = []
        for place in places:
            images, found = _list_images(base, place, where=f"{source}: {name}", fetch=fetch)
            listed[name] += images
            problems += [found] if found else []
        if not listed[name]:  # reported above; an empty split would only be reported again
            del listed[name]
    return listed, tuple(problems)


def _fetch_yourself(download: Any) -> str:
    """Return how to come by missing images; Ultralytics would run what 'download' holds."""
    if not download:
        return "duet never downloads: fetch the data yourself"
    text = str(download).strip()
    if text.startswith(("http://", "https://")) and len(text.split()) == 1:
        kind = f"the address {text[:200]}"
    elif text.startswith("bash "):
        kind = "a shell command"
    else:
        kind = f"a program, {len(text.splitlines())} lines"
    return (
        f"duet never downloads and never runs the file's 'download' key ({kind}): read what it "
        "would do, then fetch the data yourself"
    )


def _list_images(
    base: Path, place: str, *, where: str, fetch: str
) -> tuple[list[Path], Problem | None]:
    """Return the images of a folder (all levels, sorted) or of a text file (in its order)."""
    target = (base / place).resolve()
    if not target.exists() and place.startswith("../"):
        # Roboflow exports say ../train/images for a folder beside data.yaml.
        target = (base / place[3:]).resolve()
    if target.is_dir():
        images = sorted(
            path
            for path in target.rglob("*")
            # Hidden files are what other systems leave behind (macOS: ._photo.jpg).
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        )
        what, remedy = f"no images in {target}", f"put images there; {fetch}"
    elif target.is_file():
        try:
            lines = target.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        except OSError as failure:
            return [], error("data.images", where, f"cannot read: {failure}", "check its rights")
        names = [line.strip() for line in lines if line.strip()]
        images = [Path(os.path.normpath(target.parent / name)) for name in names]
        what, remedy = f"{target} lists no images", "write one image path per line"
    else:
        images = []
        what = f"no such folder or list: {target}"
        remedy = f"paths are relative to 'path', and that to data.yaml; {fetch}"
    return images, None if images else error("data.images", where, what, remedy)


def _facts(listed: Mapping[str, Sequence[Path]], verify: Verify | None) -> dict[Path, ImageFacts]:
    images = [image for split in listed.values() for image in split]
    chosen: Verify = verify or ("full" if len(images) <= FULL_VERIFY_LIMIT else "header")
    return inspect_images(images, verify=chosen)


def _annotate(
    facts: Mapping[Path, ImageFacts], class_count: int | None
) -> tuple[dict[Path, Annotation], tuple[Problem, ...]]:
    """Read the labels of every image; label files of unreadable images are checked too."""
    annotations: dict[Path, Annotation] = {}
    problems: list[Problem] = []
    for image, fact in facts.items():
        rows = read_labels(label_path(image), class_count=class_count)
        problems += rows.problems
        if fact.problem is None:
            annotations[image] = Annotation(rows.class_ids, rows.boxes, fact.width, fact.height)
    return annotations, tuple(problems)
