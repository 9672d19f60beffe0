"""The image ids of every list: counted, paired, and free of what is in training and evaluation."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from duet.errors import DataError, together
from published.choices import Choices, Overlap
from published.members import open_archive
from published.plan import IMAGE_SUFFIX, Folder, Place
from published.sets import DataSet, Part

TRAIN_SHARE = 0.7
"""Of a split made here; the share of Daytime-Sunny's published lists (19 317 of 27 606)."""

_SHOWN = 5
_SAFE_ID = re.compile(r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,199}$")


@dataclass(frozen=True)
class Listed:
    """One list that will be written.

    Attributes:
        folder: Prepared folder.
        split: Name of the list.
        ids: Image ids, in order.
    """

    folder: str
    split: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Lists:
    """The lists of one data set and what was said about them.

    Attributes:
        train: Lists to train on.
        val: Lists to evaluate on.
        test: Lists to evaluate on where `val` is for choosing.
        notes: What differs from the published data set, for people.
    """

    train: tuple[Listed, ...]
    val: tuple[Listed, ...]
    test: tuple[Listed, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, tuple[Listed, ...]]:
        """Lists by the name of their split, those that there are."""
        found = {"train": self.train, "val": self.val, "test": self.test}
        return {name: lists for name, lists in found.items() if lists}


def make_lists(
    sets: Sequence[DataSet], folders: Mapping[str, Folder], choices: Choices
) -> dict[str, Lists]:
    """Return name of the data set -> its lists.

    Args:
        sets: Data sets whose parts are all there.
        folders: What the archives hold.
        choices: What to accept.

    Raises:
        DataError: With everything that is wrong, together.
    """
    parts = [part for item in sets for part in item.parts]
    places = (folders[part.folder].lists.get(part.split) for part in parts)
    texts = contents(place for place in places if place is not None)
    made: dict[str, Lists] = {}
    problems: list[str] = []
    for item in sets:
        notes: list[str] = []
        train, val, test = (
            tuple(_listed(part, folders, texts, problems) for part in parts)
            for parts in (item.train, item.val, item.test)
        )
        wrong = _count_problems(item, (*train, *val, *test))
        (notes if choices.allow_counts else problems).extend(wrong)
        for listed in (*train, *val, *test):
            problems += _pair_problems(item, listed, folders[listed.folder])
        if not val and choices.folds is None:
            train, val = _split(item, train, choices.split_seed, notes, problems)
        evaluated = (*val, *test)
        train = _without_overlap(item, train, evaluated, choices.overlap, notes, problems)
        made[item.name] = Lists(train, val, test, tuple(notes))
    if problems:
        raise DataError(together(problems, summary="the lists cannot be used"))
    return made


def contents(places: Iterable[Place]) -> dict[Place, bytes]:
    """Return what is at some places of archives."""
    wanted: dict[Path, set[str]] = {}
    for path, name in places:
        wanted.setdefault(path, set()).add(name)
    found: dict[Place, bytes] = {}
    for path, names in wanted.items():
        with open_archive(path) as archive:
            for name, content in archive.each(names.__contains__):
                found[path, name] = content
    return found


def _listed(
    part: Part, folders: Mapping[str, Folder], texts: Mapping[Place, bytes], problems: list[str]
) -> Listed:
    folder = folders[part.folder]
    where = f"{part.folder}/{part.split}"
    ids = sorted(folder.listed.get(part.split, ())) or _ids(texts[folder.lists[part.split]], folder)
    unsafe = [name for name in ids if not _SAFE_ID.match(name)]
    if unsafe:
        problems.append(f"{where}: not image ids: {_some([ascii(n)[:40] for n in unsafe])}")
    ids = [name for name in ids if _SAFE_ID.match(name)]
    doubled = [name for name, count in Counter(ids).items() if count > 1]
    if doubled:
        problems.append(
            f"{where}: {len(doubled)} ids are listed twice: {_some(doubled)}; unpack the archive, "
            "take them out of the list and give the folder"
        )
    if not ids and not unsafe:
        problems.append(f"{where}: the list is empty")
    return Listed(part.folder, part.split, tuple(ids))


def _ids(content: bytes, folder: Folder) -> list[str]:
    """Return the image ids that a list names."""
    ids: list[str] = []
    for line in content.decode("utf-8-sig", errors="replace").splitlines():
        name = line.strip()
        if not name:
            continue
        # A second column says whether a class is there; some tools list file names.
        spelled = (name, name.split()[0], IMAGE_SUFFIX.sub("", name))
        ids.append(next((each for each in spelled if each in folder.images), name))
    return ids


def _count_problems(item: DataSet, lists: Sequence[Listed]) -> list[str]:
    return [
        f"{item.domain}: {listed.folder}/{listed.split} lists {len(listed.ids)} images, published "
        f"are {part.images} (--allow-counts accepts that)"
        for part, listed in zip(item.parts, lists, strict=True)
        if part.images is not None and part.images != len(listed.ids)
    ]


def _pair_problems(item: DataSet, listed: Listed, folder: Folder) -> list[str]:
    where = f"{item.domain}: {listed.folder}/{listed.split}"
    found = []
    for what, there in (("label file", folder.labels), ("image", folder.images)):
        missing = [name for name in listed.ids if name not in there]
        if missing:
            found.append(
                f"{where}: {len(missing)} of {len(listed.ids)} listed ids have no {what} in the "
                f"archives: {_some(missing)}; an archive is missing or cut off"
            )
    doubled = [folder.doubled[name] for name in listed.ids if name in folder.doubled]
    if doubled:
        (one, first), (other, second) = doubled[0]
        found.append(
            f"{where}: {len(doubled)} of {len(listed.ids)} listed ids have several label files or "
            f"images, for example '{first}' of {one.name} and '{second}' of {other.name}; leave "
            "one of each"
        )
    return found


def _split(
    item: DataSet,
    train: tuple[Listed, ...],
    seed: int | None,
    notes: list[str],
    problems: list[str],
) -> tuple[tuple[Listed, ...], tuple[Listed, ...]]:
    """Cut the one list of a data set in two."""
    (whole,) = train
    if seed is None:
        problems.append(
            f"{item.domain} has no evaluation list: its authors only evaluate, on all images. "
            "Training on it needs a split of your own: --split-seed 0 makes one, or leave this "
            "archive out"
        )
        return train, ()
    ids = sorted(set(whole.ids))  # independent of the order of the list
    random.Random(seed).shuffle(ids)
    cut = round(TRAIN_SHARE * len(ids))
    first, second = sorted(ids[:cut]), sorted(ids[cut:])
    notes.append(
        f"{item.domain}: split made here with seed {seed}, {len(first)} images to train on and "
        f"{len(second)} to evaluate on; it is nobody's published split"
    )
    return (
        (Listed(whole.folder, f"duet-train-{seed}", tuple(first)),),
        (Listed(whole.folder, f"duet-test-{seed}", tuple(second)),),
    )


def _without_overlap(
    item: DataSet,
    train: tuple[Listed, ...],
    val: tuple[Listed, ...],
    overlap: Overlap,
    notes: list[str],
    problems: list[str],
) -> tuple[Listed, ...]:
    """Return the training lists without images that are evaluated on."""
    evaluated = {(listed.folder, name) for listed in val for name in listed.ids}
    kept: list[Listed] = []
    for listed in train:
        ids = tuple(name for name in listed.ids if (listed.folder, name) not in evaluated)
        both = len(listed.ids) - len(ids)
        if not both:
            kept.append(listed)
            continue
        total = sum(len(other.ids) for other in (*train, *val))
        told = (
            f"{item.domain}: {both} of {len(listed.ids)} training images are evaluation images "
            f"too ({total} listed, {total - both} different)"
        )
        if overlap == "refuse":
            problems.append(
                f"{told}: measuring on them would flatter every detector; "
                "--overlap drop-from-train leaves them out of training"
            )
        else:
            notes.append(f"{told}; left out of training, unlike in the published experiments")
            if not ids:
                problems.append(f"{told}: no training image is left")
        kept.append(Listed(listed.folder, f"{listed.split}-not-evaluated", ids))
    return tuple(kept)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} ..." if len(names) > _SHOWN else shown
