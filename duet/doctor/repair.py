"""A repaired copy of a series: what can be mended without knowing what was meant.

Left out are images and rows that cannot be read, placeholder boxes, specks, empty boxes and
repeated rows. Boxes that stick out are clipped. Of a picture in training and evaluation, the
training copy goes: evaluation stays comparable. What needs a person (an unknown class id, classes
that mean the same, forgotten labels, an image that comes again with objects of its own) stays as
it is and is found in the copy again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from duet.doctor.examine import Diagnosis
from duet.errors import DataError
from duet.files import atomic_folder, write_json
from duet.series.convert import holds_links, unused_name
from duet.series.formats.base import Progress, Transfer
from duet.series.formats.documents import DESCRIPTION, write_yaml
from duet.series.formats.mending import DROPPED, Change
from duet.series.formats.table import resolve
from duet.series.model import Annotation, DomainData, Split
from duet.series.problems import Location, Problem
from duet.series.reader import read_config
from duet.trees import refuse_among

REPORT, SERIES = "fix-report.json", "series.yaml"

_GONE = ("image.unreadable", "image.missing", "label.missing", "pair.no-entry")
_LOST = ("label.class", "image.entry")  # a writer would leave these out without a word
_UNREADABLE_LABELS = "label.file"
_ORPHAN = "pair.no-image"
_MENDED = DROPPED.union(
    (*_GONE, _UNREADABLE_LABELS, _ORPHAN),
    ("image.leak", "image.leak-between", "image.near-leak"),
    ("label.outside", "label.tiny", "label.size", "label.id"),
)


@dataclass(frozen=True)
class Repair:
    """What became of a series.

    Attributes:
        series: The series file of the copy.
        changes: All that was left out or clipped.
        left: Errors and warnings that a person has to look at.
    """

    series: Path
    changes: tuple[Change, ...]
    left: tuple[Problem, ...]

    def as_dict(self) -> dict[str, object]:
        """Return the report as JSON-ready data."""
        return {
            "schema": 1,
            "series": SERIES,
            "counts": dict(Counter(change.action for change in self.changes)),
            "changes": [change.as_dict() for change in self.changes],
            "left": [problem.as_dict() for problem in self.left],
        }


def repair(diagnosis: Diagnosis, target: Path, *, progress: Progress = lambda _: None) -> Repair:
    """Write a repaired copy of a series, complete or not at all; the original is not touched.

    Args:
        diagnosis: Of the series.
        target: Absent, empty, or this very copy.
        progress: See `Progress`.

    Raises:
        DataError: A data set is so broken that a copy would lose what was meant.
        DuetError: ``target`` holds files, or the file system refuses the write.
    """
    _refuse(diagnosis)
    changes = list(_gone(diagnosis.problems))
    sets = diagnosis.series.data_sets
    refuse_among(target, (image for data in sets for image in data.images))
    places: dict[Path, str] = {}
    held = is_copy(target)
    with atomic_folder(target, again=held) as temporary:
        for data in sets:
            places[data.source] = unused_name(data.name, places.values())
            folder = temporary / places[data.source]
            folder.mkdir()
            form = resolve(data.form)
            kept, dropped = _without_images(diagnosis, data, form.label_file)
            transfer: Transfer = "link" if held else "copy"
            changes += dropped + form.mend(kept, folder, transfer=transfer, progress=progress)
        sources = [item.data.source for item in diagnosis.series.increments]
        data_places = [f"{places[source]}/{DESCRIPTION}" for source in sources]
        document = read_config(diagnosis.path).moved(diagnosis.path, target, data_places)
        write_yaml(temporary / SERIES, document)
        left = tuple(
            problem
            for problem in diagnosis.problems
            if problem.severity != "note" and not _mended(problem, diagnosis, changes)
        )
        report = Repair(target / SERIES, tuple(changes), left)
        write_json(temporary / REPORT, report.as_dict())
    return report


def _gone(problems: Sequence[Problem]) -> Iterator[Change]:
    """Yield what no copy has, because reading left it out or no image belongs to it."""
    for problem in problems:
        if problem.code in _GONE or (problem.code == _UNREADABLE_LABELS and _is_lost(problem)):
            yield Change.of(problem, "dropped image")
    for problem in problems:
        if problem.code in DROPPED and _is_lost(problem):
            yield Change.of(problem, "dropped row")
    for problem in problems:
        if problem.code == _ORPHAN:
            yield Change.of(problem, "dropped label file")


def _is_lost(problem: Problem) -> bool:
    """Tell whether a reader left out for good what a problem is about."""
    return bool(problem.form) and not resolve(problem.form).KEEPS_ROWS


def _refuse(diagnosis: Diagnosis) -> None:
    """Refuse data sets whose copy would lose what only a person can tell."""
    for problem in diagnosis.problems:
        # In a row that is copied as text an unknown class stays what it is, an error.
        lost = problem.code in _LOST and _is_lost(problem)
        if problem.severity == "error" and (problem.code.startswith("data.") or lost):
            raise DataError(
                f"[{problem.code}] {problem.what}: no repair can tell what was meant",
                where=str(problem.where),
                remedy=f"{problem.remedy}; then ask for the repair again",
            )


def _mended(problem: Problem, diagnosis: Diagnosis, changes: Sequence[Change]) -> bool:
    if problem.code == "image.duplicate":
        dropped = {change.file.path for change in changes if change.code == problem.code}
        return problem.where.path in dropped
    if problem.code == "image.repeat":  # one of the two may have been left out for another reason
        image = problem.where.path
        gone = {change.file.path for change in changes if change.action == "dropped image"}
        pairs = [copy for copy in diagnosis.copies if copy.second.image == image]
        return image in gone or all(copy.first.image in gone for copy in pairs)
    return problem.code in _MENDED


def is_copy(folder: Path) -> bool:
    """Tell whether a folder looks like a repaired copy; its images are no links then."""
    return (folder / REPORT).is_file() and not holds_links(folder)


def _without_images(
    diagnosis: Diagnosis, data: DomainData, label_file: Callable[[Path], Path | None]
) -> tuple[DomainData, list[Change]]:
    """Leave out training copies of other images, and images whose labels cannot be read."""
    copied = _copied(diagnosis, data)
    unreadable = {
        problem.where.path: (problem.code, problem.what)
        for problem in diagnosis.problems
        if problem.code == _UNREADABLE_LABELS
    }
    changes: list[Change] = []
    splits = {}
    for name, split in data.splits.items():
        kept: list[tuple[Path, Annotation]] = []
        seen: dict[Path, list[Annotation]] = defaultdict(list)
        for image, annotation in zip(split.images, split.annotations, strict=True):
            reason = unreadable.get(label_file(image))
            if name == "train":
                again = any(_holds(earlier, annotation) for earlier in seen[image])
                listed = ("image.duplicate", "listed twice") if again else None
                reason = listed or copied.get(image, reason)
            seen[image].append(annotation)
            if reason is not None:
                changes.append(Change(Location(image), "dropped image", *reason))
            else:
                kept.append((image, annotation))
        splits[name] = Split(name, tuple(i for i, _ in kept), tuple(a for _, a in kept))
    return replace(data, splits=splits), changes


def _copied(diagnosis: Diagnosis, data: DomainData) -> dict[Path, tuple[str, str]]:
    """Return the training images that another image stands for, with the kind of problem and why.

    A copy within training that holds objects of its own is none of them: they would be lost.
    """
    train = data.splits.get("train", Split("train", (), ()))
    listings: dict[Path, list[Annotation]] = defaultdict(list)
    for image, annotation in zip(train.images, train.annotations, strict=True):
        listings[image].append(annotation)
    copied: dict[Path, tuple[str, str]] = {}
    for copy in diagnosis.copies:
        first, second = copy.first, copy.second
        if copy.leaks and first.source == data.source:
            code = "image.leak" if copy.exact else "image.near-leak"
            copied[first.image] = (code, f"also in '{second.split}': {second.image}")
        doubled = copy.exact and first.source == second.source == data.source
        doubled &= first.trains and second.trains
        doubled &= first.image != second.image  # else it is only listed twice
        kept = listings[first.image]
        if doubled and all(any(_holds(a, b) for a in kept) for b in listings[second.image]):
            what = f"the same image as {first.image}"
            copied.setdefault(second.image, ("image.duplicate", what))
    return copied


def _holds(annotation: Annotation, other: Annotation) -> bool:
    """Tell whether an annotation has every object of another one."""
    rows, wanted = (
        set(map(tuple, np.column_stack([a.class_ids, a.ignored, a.crowds, a.boxes]).tolist()))
        for a in (annotation, other)
    )
    return wanted <= rows
