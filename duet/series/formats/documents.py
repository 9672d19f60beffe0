"""What the formats share: the YAML file that describes a data set, and a look at its images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from duet.config import load_yaml
from duet.errors import DuetError, did_you_mean
from duet.files import write_text
from duet.labels import LabelSpace
from duet.series.images import FULL_VERIFY_LIMIT, ImageFacts, Verify, inspect_images
from duet.series.model import Annotation, Split
from duet.series.names import as_stored
from duet.series.problems import Problem, error
from duet.text import clipped, short_list, shown
from duet.yamltree import Plain, resolved

DESCRIPTION = "data.yaml"
"""Name of the file in a folder that describes the data set there."""

SPLITS = ("train", "val", "test")

_KINDS = {str: "text", list: "a list", bool: "true or false", type(None): "nothing"}

_DARKNET = re.compile(rb"^[ \t]*(?:classes|train|valid|names|backup)[ \t]*=", re.MULTILINE)
_DARKNET_BYTES = 1 << 14  # it has five lines


def load_description(source: Path) -> tuple[dict[str, Any] | None, tuple[Problem, ...]]:
    """Return the document, or None and why."""
    remedy = "write at least 'names', 'train' and 'val'"
    try:
        document = load_yaml(source)
    except DuetError as failure:
        what, remedy = failure.what, failure.remedy or "correct the file"
        if source.is_file() and source.suffix.lower() not in (".yaml", ".yml"):  # say an image
            remedy = f"name a {DESCRIPTION}, or the folder of a data set"
    else:
        if isinstance(document, dict):
            return document, ()
        kind = _KINDS.get(type(resolved(document)), "a number")
        what = f"expected keys and values such as 'train: images/train', got {kind}"
    if _is_darknet(source):
        what = "this is Darknet's obj.data, expected a data.yaml"
        remedy = "write a data.yaml with 'names' (the lines of Darknet's .names), 'train' and 'val'"
    return None, (error("data.file", source, what, remedy),)


def _is_darknet(source: Path) -> bool:
    """Tell a description of Darknet, which CVAT's "YOLO 1.1" has too: ``classes = 2`` and so on."""
    try:
        head = source.read_bytes()[:_DARKNET_BYTES] if source.is_file() else b""
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return False
    return len(_DARKNET.findall(head)) > 1


def split_entries(document: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return what a description names for each split, one entry or a list; empty ones left out."""
    found = {name: resolved(document.get(name)) for name in SPLITS}
    return {
        name: entry if isinstance(entry, list) else [entry]
        for name, entry in found.items()
        if entry not in (None, "", [])
    }


def kept_splits(
    listed: Mapping[str, Iterable[Path]], annotations: Mapping[Path, Annotation]
) -> dict[str, Split]:
    """Return the splits of the images that could be read; a problem stands for each other one."""
    splits = {}
    for name, images in listed.items():
        kept = tuple(image for image in images if image in annotations)
        splits[name] = Split(name, kept, tuple(annotations[image] for image in kept))
    return splits


def check_keys(document: Mapping[str, Any], known: Sequence[str], source: Path) -> list[Problem]:
    """Return a problem per key that a description of duet's own does not have."""
    remedy = f"known keys: {', '.join(known)}"
    unknown = {
        key: f"unknown key '{clipped(key, 100)}'{did_you_mean(key, known)}"
        for key in document
        if key not in known
    }
    return [error("data.key", source, what, remedy) for what in unknown.values()]


def read_names(document: Mapping[str, Any], source: Path) -> tuple[LabelSpace, tuple[Problem, ...]]:
    """Return the classes of ``names`` (a list, or a mapping from 0..n-1) and check ``nc``.

    The label space is empty when ``names`` cannot be used.
    """
    remedy = "write 'names' as a list, or as a mapping from 0, 1, 2, ...; put null in quotes"
    raw = document.get("names")
    if isinstance(raw, dict):
        numbers = {resolved(key): name for key, name in raw.items()}
        strange = [key for key in numbers if type(key) is not int or not 0 <= key < len(raw)]
        if strange or len(numbers) < len(raw):
            got = short_list(map(shown, strange or raw))
            what = f"keys of 'names' must be 0 to {len(raw) - 1}, got {got}"
            return LabelSpace(()), (error("data.names", source, what, remedy),)
        raw = [numbers[index] for index in range(len(raw))]
    if not isinstance(raw, list) or not raw:
        what = f"'names' must be a list or a mapping of class names, got {shown(raw)}"
        return LabelSpace(()), (error("data.names", source, what, remedy),)
    # Without quotes a name is what was written (`02146`, `no`), but null and true are no text.
    wrong = [name for name in raw if type(name) not in (str, Plain, int, float)]
    if wrong:
        what = f"class names must be text, got {short_list(map(shown, wrong))}"
        return LabelSpace(()), (error("data.names", source, what, remedy),)
    labels, problems = label_space((str(name) for name in raw), source)
    if problems:
        return labels, problems
    count = resolved(document.get("nc"))
    if count is not None and count != len(labels):
        what = f"'nc' is {shown(count)} but 'names' has {len(labels)} classes"
        return labels, (error("data.nc", source, what, "remove 'nc' or correct it"),)
    return labels, ()


def label_space(names: Iterable[str], source: Path) -> tuple[LabelSpace, tuple[Problem, ...]]:
    """Return the classes of these names; an empty space and a problem where they are none."""
    try:
        return LabelSpace.of(names), ()
    except DuetError as failure:
        remedy = failure.remedy or "rename these classes"
        return LabelSpace(()), (error("data.names", source, failure.what, remedy),)


def first_file(places: Sequence[Path]) -> Path:
    """Return the first place that is a file, or else the first of all.

    Backslashes, which are slashes in files that Windows wrote, are tried as such, and letters with
    accents in the other form that Unicode has for them.
    """
    slashed = [Path(str(place).replace("\\", "/")) for place in places if "\\" in str(place)]
    tried = [*places, *slashed]
    named = next((place for place in tried if os.path.isfile(place)), None)
    return named or next((p for p in map(as_stored, tried) if os.path.isfile(p)), places[0])


NO_TRAIN = "data.no-train"
"""Kind of problem that is none where nothing is trained."""


def missing_splits(found: Sequence[str], source: Path, remedy: str) -> list[Problem]:
    """Return a problem for no training split and one for nothing to evaluate on."""
    problems = []
    if "train" not in found:
        problems.append(error(NO_TRAIN, source, "no 'train' split", remedy))
    if "val" not in found and "test" not in found:
        what = "neither a 'val' nor a 'test' split to evaluate on"
        problems.append(error("data.split", source, what, remedy))
    return problems


def look_at(
    images: Sequence[Path], verify: Verify | None
) -> tuple[dict[Path, ImageFacts], list[Problem]]:
    """Look at every image once, by default as closely as their number allows."""
    chosen: Verify = verify or ("full" if len(images) <= FULL_VERIFY_LIMIT else "header")
    facts = inspect_images(images, verify=chosen)
    told = (item for fact in facts.values() for item in (fact.problem, fact.remark))
    return facts, [problem for problem in told if problem is not None]


def write_yaml(path: Path, document: Mapping[str, Any]) -> None:
    """Write a description or a series, its keys in the order given."""
    write_text(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
