"""Ultralytics' `data.yaml`: read as data, never run, and nothing is written beside it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from duet.errors import DataError
from duet.files import write_text
from duet.labels import LabelSpace
from duet.series.formats.base import NO_OPTIONS, Options, Progress, Reading, Transfer
from duet.series.formats.documents import (
    DESCRIPTION,
    first_file,
    kept_splits,
    load_description,
    look_at,
    missing_splits,
    read_names,
    split_entries,
    write_yaml,
)
from duet.series.formats.mending import Change
from duet.series.formats.pairing import images_without_file, orphans
from duet.series.formats.placing import Placer
from duet.series.formats.yolo_labels import format_labels, read_labels
from duet.series.formats.yolo_mending import mended_text
from duet.series.formats.yolo_unread import unread_label_problems, unread_labels
from duet.series.images import ImageFacts, Verify
from duet.series.model import Annotation, DomainData
from duet.series.names import as_stored
from duet.series.problems import Location, Problem, error, note, warning
from duet.series.suffixes import (
    KNOWN,
    is_image,
    is_picture,
    named,
    readable_as,
    unread,
    unread_problems,
)
from duet.text import shown
from duet.trees import is_whole_system
from duet.yamltree import resolved

LAYOUT = "a data.yaml with 'names', 'train' and 'val'"
LABELS_LIE = "in a folder 'labels' beside 'images'"
HOLDS_IGNORED = False
COUNTED = ""
TELLS_OVERSHOOTS = False
KEEPS_ROWS = True
OPTIONS: Mapping[str, tuple[str, ...]] = {}

_NO_TEST = "delete the line 'test', or fetch the images: until then 'val' is evaluated"


def recognises(folder: Path) -> bool:
    """Tell whether the folder is described by a ``data.yaml``, this format's only sign."""
    return (folder / DESCRIPTION).is_file()


def read(
    source: Path, *, domain: str, verify: Verify | None = None, options: Options = NO_OPTIONS
) -> Reading:
    """Read the data set that ``source`` describes.

    Args:
        source: A ``data.yaml``; keys beyond ``path``, ``names``, ``nc`` and the splits are
            another program's business and do not count.
        domain: Name of the domain.
        verify: How closely images are looked at; by default every pixel in a data set of up to
            ``FULL_VERIFY_LIMIT`` images, headers in a larger one.
        options: None is known.
    """
    document, problems = load_description(source)
    if document is None:
        return Reading(DomainData(domain, LabelSpace(()), {}, source), problems)
    labels, found = read_names(document, source)
    problems += found
    if document.get("kpt_shape"):
        what = "'kpt_shape': the rows are poses, whose keypoints would be taken for outlines"
        remedy = "keep the first five columns of each row, and delete the key"
        problems += (error("data.key", source, what, remedy),)
    listed, found = _list_splits(document, source)
    problems += found
    facts, unreadable = look_at([image for split in listed.values() for image in split], verify)
    annotations, found, polygons = _annotate(facts, len(labels) or None)
    looked = {image: label_file(image) for image in annotations}
    problems += (*unreadable, *found, *unread_label_problems(looked, len(labels) or None))
    splits = kept_splits(listed, annotations)
    unused = Counter({"outlines": polygons} if polygons else {})
    return Reading(DomainData(domain, labels, splits, source), problems, unused)


def label_file(image: Path) -> Path:
    """Return the label file of an image: the last ``images`` folder of the path is ``labels``."""
    text, images, labels = str(image), f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
    return as_stored(Path(f"{os.path.splitext(labels.join(text.rsplit(images, 1)))[0]}.txt"))


def check_files(data: DomainData, broken: Collection[Path]) -> Iterator[Problem]:
    """Yield images and label files without the other, and a path that others read otherwise."""
    taken = frozenset(map(label_file, data.images))

    def told(image: Path, looked: Path) -> bool:
        return unread_labels(image, looked, len(data.labels), taken) is not None

    yield from images_without_file(data, label_file, told)
    yield from orphans(data, label_file)
    yield from _path_notes(data.source)


def _path_notes(source: Path) -> Iterator[Problem]:
    """Yield a note if stock Ultralytics may not find the data set that duet finds."""
    document, _ = load_description(source)
    place = (document or {}).get("path")
    if isinstance(place, str) and place.strip() and not os.path.isabs(place):
        what = f"'path: {place[:80]}' is read from this file; Ultralytics reads it from the "
        what += "working folder, or from its own folder of data sets"
        remedy = "write the whole path; or leave 'path' out, and both read from this file"
        yield note("data.path", source, what, remedy)


def write(data: DomainData, folder: Path, *, transfer: Transfer, progress: Progress) -> int:
    """Write ``images/SPLIT``, ``labels/SPLIT`` and ``data.yaml`` into an empty folder.

    The format cannot mark an object as ignored: such objects are left out. A split
    whose images are not in the order of their names gets a list, ``SPLIT.txt``, that keeps it. A
    data set without a ``val`` names its ``test`` there, too: other programs ask for one.
    """

    def text(_: Path, annotation: Annotation) -> str:
        kept = annotation.take(~annotation.ignored)
        return format_labels(kept.class_ids, kept.boxes)

    return _write(data, folder, text, Placer(transfer), progress)


def mend(data: DomainData, folder: Path, *, transfer: Transfer, progress: Progress) -> list[Change]:
    """Write a data set as `write` does, with the label files as they were, mended row by row.

    An image without a label file stays one: whether nothing is on it, a person has to tell.
    """
    changes: list[Change] = []

    def text(image: Path, annotation: Annotation) -> str | None:
        path = label_file(image)
        if not path.is_file():
            return None
        kept, changed = mended_text(path, annotation, class_count=len(data.labels))
        changes.extend(changed)
        return kept

    _write(data, folder, text, Placer(transfer), progress)
    return changes


def _write(
    data: DomainData,
    folder: Path,
    text: Callable[[Path, Annotation], str | None],
    placer: Placer,
    progress: Progress,
) -> int:
    """Write a data set; ``text`` gives the content of an image's label file, None for no file."""
    document: dict[str, Any] = {}
    for name, split in data.splits.items():
        places = [folder / kind / name for kind in ("images", "labels")]
        for place in places:
            place.mkdir(parents=True)
        names: list[str] = []
        for image, annotation in zip(split.images, split.annotations, strict=True):
            placed = placer.place(image, places[0], scope=name)
            content = text(image, annotation)
            if content is not None:  # not atomic one by one: the folder as a whole is
                (places[1] / f"{placed.stem}.txt").write_text(content, encoding="utf-8")
            names.append(placed.name)
            progress(1)
        document[name] = _listed(folder, name, names)
    if "val" not in document and "test" in document:
        document["val"] = document["test"]  # Ultralytics asks for it
    document["names"] = list(data.labels)
    write_yaml(folder / DESCRIPTION, document)
    return placer.renamed


def _listed(folder: Path, split: str, names: Sequence[str]) -> str:
    """Return the value of a split in ``data.yaml``: its folder, or a list that keeps the order."""
    usual = all(is_image(name) for name in names)
    if usual and sorted(names) == list(names):
        return f"images/{split}"
    lines = "".join(f"./images/{split}/{name}\n" for name in names)
    write_text(folder / f"{split}.txt", lines)
    return f"{split}.txt"


def _list_splits(
    document: Mapping[str, Any], source: Path
) -> tuple[dict[str, list[Path]], tuple[Problem, ...]]:
    """Return the image files of each split that the document names."""
    base = source.parent / str(document.get("path") or "")
    fetch = _fetch_yourself(document.get("download"))
    listed: dict[str, list[Path]] = {}
    problems: list[Problem] = []
    # `validation`: an old spelling that Ultralytics still reads
    if document.get("val") is None:
        document = {**document, "val": document.get("validation")}
    named = split_entries(document)
    for name, places in named.items():
        if name == "val" and places == named.get("test"):
            continue  # one split under two names, as `write` makes it
        if not all(isinstance(place, str) for place in places):
            got = shown(resolved(document[name]))
            what = f"'{name}' must be a path or a list of paths, got {got}"
            problems.append(error("data.split", source, what, "write paths, numbers in quotes"))
            continue
        listed[name], wrong = [], list[Problem]()
        where = Location(source, part=name)
        for place in places:
            images, found = _list_images(base, place, where=where, fetch=fetch)
            listed[name] += images
            # One folder may belong to two splits.
            wrong += [problem for problem in found if problem not in problems]
        if not listed[name]:  # reported above; an empty split would only be reported again
            del listed[name]
            if name == "test" and "val" in listed:
                wrong = [replace(p, severity="warning", remedy=_NO_TEST) for p in wrong]
        problems += wrong
    remedy = "name a folder of images, or a text file that lists them, under 'train' and 'val'"
    return listed, (*problems, *missing_splits([*named], source, remedy))


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
    base: Path, place: str, *, where: Location, fetch: str
) -> tuple[list[Path], list[Problem]]:
    """Return the images of a folder (all levels, sorted) or of a text file (in its order)."""
    target = _target(base, place)
    if os.path.isdir(target):
        try:
            pictures = sorted(_pictures_below(target))
        except DataError as failure:
            return [], [error("data.images", where, failure.what, "name a folder of images")]
        images, passed_over = [p for p in pictures if is_image(p.name)], unread(pictures)
        if images:
            return images, list(unread_problems(passed_over))
        what, remedy = f"no images in {target}", f"put images there; {fetch}"
        if passed_over:
            what += f": {named(passed_over)} of a kind that is not read (read are {KNOWN})"
            remedy = readable_as(passed_over)
    elif os.path.isfile(target):
        try:
            lines = target.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        except OSError as failure:
            return [], [error("data.images", where, f"cannot read: {failure}", "check its rights")]
        names = [line.strip() for line in lines if line.strip()]
        places = (first_file([target.parent / name]) for name in names)
        images = [Path(os.path.normpath(image)) for image in places]
        what, remedy = f"{target} lists no images", "write one image path per line"
    else:
        images = []
        looked = dict.fromkeys(os.path.normpath(base / text) for text in _spellings(place)[1:])
        what = f"no such folder or list: {' or '.join(looked)}"
        remedy = f"paths are relative to 'path', and that to data.yaml; {fetch}"
    return images, [] if images else [error("data.images", where, what, remedy)]


def _spellings(place: str) -> tuple[str, str, str]:
    """Return the texts that are tried as a path: as written, with slashes, and Roboflow's."""
    slashed = place.replace("\\", "/")  # Windows writes backslashes
    # Roboflow exports say ../train/images for a folder beside data.yaml.
    return place, slashed, slashed.removeprefix("../")


def _target(base: Path, place: str) -> Path:
    """Return the folder or the list that a split names.

    Links are followed, as Ultralytics does, unless the labels lie beside the link.
    """
    found = next((text for text in _spellings(place) if os.path.exists(base / text)), None)
    if found is None:
        return base / place
    given, real = Path(os.path.abspath(base / found)), Path(os.path.realpath(base / found))
    labels = label_file(given / "x").parent
    beside = labels != given and labels.is_dir() and os.path.realpath(given) == str(real)
    return given if beside else real


def _pictures_below(folder: Path) -> Iterator[Path]:
    """Yield the pictures of a folder, read or not, all levels, those of linked folders too.

    Hidden folders were left behind by other programs (.ipynb_checkpoints).

    Raises:
        DataError: It is a whole drive, or a link in it leads to one.
    """
    entered: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if is_whole_system(Path(real)):
            raise DataError(f"{place} leads to {real}, which is no folder of images")
        fresh = real not in entered
        entered.add(real)
        # Links come last: what is in the folder itself goes by its own name.
        names = sorted(folders, key=lambda name: (os.path.islink(os.path.join(place, name)), name))
        folders[:] = [name for name in names if fresh and not name.startswith(".")]
        for name in files if fresh else ():
            if is_picture(name):
                yield Path(place, name)


def _annotate(
    facts: Mapping[Path, ImageFacts], class_count: int | None
) -> tuple[dict[Path, Annotation], tuple[Problem, ...], int]:
    """Read the labels of every image; label files of unreadable images are checked too.

    Returns:
        The annotations, the problems, and how many objects are given by their outline.
    """
    annotations: dict[Path, Annotation] = {}
    problems: list[Problem] = []
    polygons = 0
    owners: dict[Path, Path] = {}
    for image, fact in facts.items():
        path = label_file(image)
        rows = read_labels(path, class_count=class_count)
        if (owner := owners.setdefault(path, image)) is image:
            problems += rows.problems
        elif len(rows.class_ids):
            what = f"its label file is that of {owner.name}, too: both are read with its objects"
            problems.append(warning("pair.shared", image, what, "give one of them another name"))
        polygons += rows.polygons
        if fact.problem is None:
            annotations[image] = Annotation(rows.class_ids, rows.boxes, fact.width, fact.height)
    return annotations, tuple(problems), polygons
