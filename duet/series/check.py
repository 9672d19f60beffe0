"""Is a series fit to learn and to measure? Checks across classes, increments and splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duet.errors import did_you_mean
from duet.series.formats.table import resolve
from duet.series.images import image_sha256
from duet.series.model import DomainData
from duet.series.problems import SHOWN_PER_CODE, Problem, error, note, warning
from duet.series.series import Increment, Series, known_among_new
from duet.series.slices import eval_split
from duet.text import short_list


def check_series(series: Series) -> tuple[Problem, ...]:
    """Return what is wrong between the increments and their data.

    Problems inside the files themselves (rows, images, data.yaml) are found while reading them;
    a data set that could not be read at all is passed over here.
    """
    return (
        *_class_problems(series.increments),
        *_slice_problems(series),
        *_domain_notes(series),
        *_image_problems(series),
    )


def _class_problems(increments: Iterable[Increment]) -> Iterator[Problem]:
    """Yield classes that the data do not have, and classes that come again as they must not.

    Known classes may come again with other pictures, as an increment that brings no new ones.
    """
    known: set[str] = set()
    taught: dict[tuple[Path, str], Increment] = {}
    for increment in increments:
        where = f"increment '{increment.name}'"
        labels = increment.data.labels
        unknown, known_names = 0, short_list(labels)
        for name in increment.classes:
            # No names at all means that data.yaml itself was wrong and has been reported.
            if len(labels) and name not in labels and increment.detector is None:
                unknown += 1  # a search through all names for each of many takes minutes
                hint = did_you_mean(name, labels) if unknown <= SHOWN_PER_CODE else ""
                what = f"unknown class '{name}'{hint}"
                remedy = f"classes of {increment.data.source}: {known_names}"
                yield error("class.unknown", where, what, remedy)
            if increment.detector is not None:
                continue  # it learns nothing from its data
            first = taught.setdefault((increment.data.source, name), increment)
            if first is not increment:
                yield _twice(name, first, increment)
        # A start counts, too: its detector knows these classes, whatever is trained on its data.
        if again := known_among_new(increment.classes, known):
            what = f"brings new classes and known ones: {_quoted(again)}"
            remedy = (
                "split it in two increments, one of new classes and one of known ones, or drop the "
                "known ones"
            )
            yield error("class.mixed", where, what, remedy)
        known.update(increment.classes)


def _twice(name: str, first: Increment, again: Increment) -> Problem:
    what = f"class '{name}' already belongs to increment '{first.name}'"
    remedy = (
        "one increment learns a class from one data set: drop it from one of the two, or name a "
        "data set with other pictures"
    )
    if first.domain != again.domain:  # mostly a line that was copied and not changed
        what += f" of domain '{first.domain}', which has the same data set, {first.data.source}"
        remedy = f"name the data set of domain '{again.domain}', or give both one domain"
    return error("class.twice", f"increment '{again.name}'", what, remedy)


def _domain_notes(series: Series) -> Iterator[Problem]:
    """Yield domains that come from several data sets: what is measured on them is said."""
    for name in series.domains:
        domain = series.domain(name)
        if len(domain.parts) > 1:
            sources = ", ".join(str(data.source) for data in domain.parts)
            what = (
                f"{len(domain.parts)} data sets are evaluated together ('{domain.split()}'), each "
                f"for the classes that it labels: {sources}"
            )
            remedy = "where they are to be measured apart, give each a domain name of its own"
            yield note("domain.joined", f"domain '{name}'", what, remedy)


def _slice_problems(series: Series) -> Iterator[Problem]:
    """Yield classes without training or evaluation objects."""
    for increment in series.increments:
        if not increment.data.splits:
            continue
        data, domain = increment.data, series.domain(increment.domain)
        form = resolve(data.form) if data.form else None
        counted, lie = (form.COUNTED, form.LABELS_LIE) if form is not None else ("", "")
        known = [name for name in increment.classes if name in data.labels]
        where = f"increment '{increment.name}'"
        learned = increment.detector is None
        shown = data.objects.get("train", known) if learned else known
        if missing := [name for name in known if name not in shown]:
            ignored = _ignored(data, "train", missing)
            remedy = f"label some in the train split of {data.source}"
            remedy += f"; label files lie {lie}" if lie else ""
            what = f"no training image holds {_quoted(missing)}{_told(ignored)}"
            remedy = counted if ignored and counted else remedy
            yield error("slice.no-train", where, what, remedy)
        for name in ("val", "test"):
            split = data.splits.get(name)
            if split is None:
                continue
            if not split.images:
                remedy = f"add images to the {name} split of {data.source}"
                yield error(f"slice.no-{name}", where, f"no usable image in '{name}'", remedy)
            elif name == eval_split(data) and (missing := domain.without_objects(known)):
                ignored = sum(_ignored(part, eval_split(part), missing) for part in domain.parts)
                what = f"no image of '{name}' holds {_quoted(missing)}{_told(ignored)}"
                what += ": their AP is undefined"
                remedy = f"label some in the {name} split of {data.source}"
                remedy = counted if ignored and counted else remedy
                yield warning("slice.no-objects", where, what, remedy)


def _ignored(data: DomainData, split: str, classes: Sequence[str]) -> int:
    """Return how many objects of some classes a split has that are ignored."""
    ids = data.labels.indices([name for name in classes if name in data.labels])
    rows = data.splits[split].annotations if split in data.splits else ()
    return sum(int(np.isin(row.class_ids[row.ignored], ids).sum()) for row in rows)


def _told(ignored: int) -> str:
    if not ignored:
        return ""
    return f" (objects of this kind: {ignored}, all ignored as crowd or difficult)"


def _quoted(names: Iterable[str]) -> str:
    return short_list(f"'{name}'" for name in names)


@dataclass(frozen=True)
class Place:
    """Where an image occurs."""

    source: Path
    split: str
    image: Path

    @property
    def trains(self) -> bool:
        """Whether detectors learn from it here; elsewhere they are measured on it."""
        return self.split == "train"


def places(series: Series) -> list[Place]:
    """Return every place of every image; data that several increments share count once."""
    return [
        Place(data.source, split.name, image)
        for data in series.data_sets
        for split in data.splits.values()
        for image in split.images
    ]


def _image_problems(series: Series) -> Iterator[Problem]:
    """Yield images whose content is in training and evaluation, or twice in training."""
    for group in same_content(places(series)):
        trained = [place for place in group if place.trains]
        measured = [place for place in group if not place.trains]
        for place in measured:
            if trained:
                yield _leak(_nearest(trained, place), place)
        if trained:
            yield from _repeats(trained)
        seen: dict[tuple[Path, str], Place] = {}
        for place in group:
            other = seen.setdefault((place.source, place.split), place)
            if other is not place:
                what = f"the same image as {other.image}, in the same split '{place.split}'"
                yield warning("image.duplicate", place.image, what, "remove one of the two")


def _repeats(trained: Sequence[Place]) -> Iterator[Problem]:
    """Yield copies of one image in the training data of several data sets.

    The same file in two data sets is a choice, a copy under another name mostly a mistake.
    """
    first = trained[0]
    for place in {place.source: place for place in reversed(trained)}.values():
        if place.source != first.source and place.image != first.image:
            what = (
                f"the same image as {first.image}, which the training data of {first.source} hold"
            )
            remedy = "remove one of the two: an increment should bring images of its own"
            yield warning("image.repeat", place.image, what, remedy)


def _nearest(trained: list[Place], measured: Place) -> Place:
    """Return the training copy in the same data set if there is one, else the first."""
    return next((place for place in trained if place.source == measured.source), trained[0])


def _leak(trained: Place, measured: Place) -> Problem:
    if trained.source == measured.source:
        code, whose = "image.leak", "this data set"
    else:
        code, whose = "image.leak-between", str(trained.source)
    what = f"an image of '{measured.split}' is also in 'train' of {whose}: {trained.image}"
    remedy = "remove it from one of the two: measuring on trained images flatters the detector"
    return error(code, measured.image, what, remedy)


def same_content(found: Iterable[Place]) -> Iterator[list[Place]]:
    """Yield the groups of two or more places with identical image bytes."""
    by_size: dict[int, list[Place]] = defaultdict(list)
    for place in found:
        by_size[place.image.stat().st_size].append(place)
    for candidates in by_size.values():
        if len(candidates) < 2:  # a file of unique size has no copy: most need no hashing
            continue
        by_hash: dict[str, list[Place]] = defaultdict(list)
        for place in candidates:
            by_hash[image_sha256(place.image)].append(place)
        yield from (group for group in by_hash.values() if len(group) > 1)
