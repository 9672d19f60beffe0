"""A repaired copy of a series: what can be mended without knowing what was meant.

Left out are images and rows that cannot be read, placeholder boxes, specks, empty boxes and
repeated rows. Boxes that stick out are clipped. Of a picture in training and evaluation, the
training copy goes: evaluation stays comparable. What needs a person (an unknown class id, classes
that mean the same, forgotten labels) stays as it is and is found in the copy again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from duet.doctor.examine import Diagnosis
from duet.doctor.rows import Change, clean_annotations, clean_lines, label_file, refused_objects
from duet.errors import DataError
from duet.files import atomic_folder, write_json, write_text
from duet.series.convert import holds_links
from duet.series.formats import Transfer, resolve
from duet.series.formats.yolo import label_path
from duet.series.model import DomainData, Split
from duet.series.problems import Problem
from duet.series.reader import read_config
from duet.series.suffixes import is_image
from duet.trees import refuse_among

REPORT, SERIES = "fix-report.json", "series.yaml"

_GONE = ("image.unreadable", "image.missing", "label.missing", "pair.no-entry")
_LOST = ("label.class", "image.entry")  # a writer would leave these out without a word
_UNREADABLE_LABELS = "label.file"
_MENDED = (
    *_GONE, _UNREADABLE_LABELS, "image.leak", "image.leak-between", "image.near-leak",
    "label.columns", "label.number", "label.fields", "label.degenerate", "label.duplicate",
    "label.range", "label.outside", "label.dummy", "label.tiny", "label.size", "label.id",
    "label.image",
    "pair.no-image",
)  # fmt: skip

Step = Callable[[int], None]
"""Called with the number of images written since the last call."""


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
            "changes": [asdict(change) for change in self.changes],
            "left": [problem.as_dict() for problem in self.left],
        }


def repair(diagnosis: Diagnosis, target: Path, *, progress: Step = lambda _: None) -> Repair:
    """Write a repaired copy of a series, complete or not at all; the original is not touched.

    Args:
        diagnosis: Of the series.
        target: Absent, empty, or this very copy.
        progress: Called after each image.

    Raises:
        DataError: A data set is so broken that a copy would lose what was meant.
        DuetError: ``target`` holds files, or the file system refuses the write.
    """
    _refuse(diagnosis)
    changes: list[Change] = [
        Change(problem.where, "dropped image", problem.code, problem.what)
        for problem in diagnosis.problems
        # A YOLO image whose labels cannot be read is left out with its row.
        if problem.code in _GONE
        or (problem.code == _UNREADABLE_LABELS and problem.where.endswith(".xml"))
    ]
    changes += refused_objects(diagnosis.problems)
    changes += [
        Change(problem.where, "dropped label file", problem.code, problem.what)
        for problem in diagnosis.problems
        if problem.code == "pair.no-image"
    ]
    sources = {item.data.source: item.data for item in diagnosis.series.increments}
    refuse_among(target, (image for data in sources.values() for image in data.images))
    places: dict[Path, str] = {}
    held = is_copy(target)
    with atomic_folder(target, again=held) as temporary:
        for source, data in sources.items():
            places[source] = _unused(data.name, places)
            folder = temporary / places[source]
            folder.mkdir()
            changes += _write(diagnosis, data, folder, "link" if held else "copy", progress)
        _write_series(diagnosis, places, temporary, target)
        left = tuple(
            problem
            for problem in diagnosis.problems
            if problem.severity != "note" and not _mended(problem, diagnosis, changes)
        )
        report = Repair(target / SERIES, tuple(changes), left)
        write_json(temporary / REPORT, report.as_dict())
    return report


def _refuse(diagnosis: Diagnosis) -> None:
    """Refuse data sets whose copy would lose what only a person can tell.

    Raises:
        DataError: The first of these problems.
    """
    for problem in diagnosis.problems:
        # YOLO's rows are copied as text, so an unknown class stays what it is, an error.
        lost = problem.code in _LOST and ".txt:" not in problem.where
        if problem.severity == "error" and (problem.code.startswith("data.") or lost):
            raise DataError(
                f"[{problem.code}] {problem.what}: no repair can tell what was meant",
                where=problem.where,
                remedy=f"{problem.remedy}; then ask for the repair again",
            )


def _mended(problem: Problem, diagnosis: Diagnosis, changes: Sequence[Change]) -> bool:
    if problem.code == "image.duplicate":
        trained = {str(copy.second.image) for copy in diagnosis.copies if copy.second.trains}
        return problem.where in trained
    if problem.code == "image.repeat":  # one of the two may have been left out for another reason
        gone = {change.file for change in changes if change.action == "dropped image"}
        pairs = [copy for copy in diagnosis.copies if str(copy.second.image) == problem.where]
        return problem.where in gone or all(str(copy.first.image) in gone for copy in pairs)
    return problem.code in _MENDED


def is_copy(folder: Path) -> bool:
    """Tell whether a folder looks like a repaired copy; its images are no links then."""
    return (folder / REPORT).is_file() and not holds_links(folder)


def _write(
    diagnosis: Diagnosis, data: DomainData, folder: Path, transfer: Transfer, progress: Step
) -> list[Change]:
    """Write the repaired copy of one data set."""
    form = diagnosis.forms[data.source]
    kept, changes = _without_images(diagnosis, data, form)
    if form == "yolo":
        resolve(form).write(kept, folder, transfer=transfer, progress=progress)
        return changes + _write_yolo_labels(diagnosis, kept, folder)
    kept, found = clean_annotations(kept)
    resolve(form).write(kept, folder, transfer=transfer, progress=progress)
    return changes + found


def _without_images(
    diagnosis: Diagnosis, data: DomainData, form: str
) -> tuple[DomainData, list[Change]]:
    """Leave out training copies of other images, and images whose labels cannot be read."""
    copied = {}
    for copy in diagnosis.copies:
        if copy.leaks and copy.first.source == data.source:
            code = "image.leak" if copy.exact else "image.near-leak"
            copied[copy.first.image] = (code, f"also in '{copy.second.split}': {copy.second.image}")
        doubled = copy.exact and copy.first.source == copy.second.source == data.source
        doubled &= copy.first.image != copy.second.image  # else it is only listed twice
        if doubled and copy.first.trains and copy.second.trains:
            what = f"the same image as {copy.first.image}"
            copied.setdefault(copy.second.image, ("image.duplicate", what))
    unreadable = {p.where: p.what for p in diagnosis.problems if p.code == _UNREADABLE_LABELS}
    changes: list[Change] = []
    splits = {}
    for name, split in data.splits.items():
        rows = []
        seen: set[Path] = set()
        for row, image in enumerate(split.images):
            labels = str(label_file(image, form))
            again = image in seen
            seen.add(image)
            if name == "train" and again:
                what = "listed twice"
                changes.append(Change(str(image), "dropped image", "image.duplicate", what))
            elif name == "train" and image in copied:
                changes.append(Change(str(image), "dropped image", *copied[image]))
            elif labels in unreadable:
                why = unreadable[labels]
                changes.append(Change(str(image), "dropped image", _UNREADABLE_LABELS, why))
            else:
                rows.append(row)
        splits[name] = Split(
            name,
            tuple(split.images[row] for row in rows),
            tuple(split.annotations[row] for row in rows),
        )
    return replace(data, splits=splits), changes


def _write_yolo_labels(diagnosis: Diagnosis, data: DomainData, folder: Path) -> list[Change]:
    """Replace the label files that the writer made by the originals, repaired line by line.

    So outlines, digits and rows that need a person stay what they are.
    """
    changes: list[Change] = []
    wrong: dict[str, list[Problem]] = {}
    for problem in diagnosis.problems:
        if problem.code.startswith("label."):
            wrong.setdefault(problem.where.rsplit(":", 1)[0], []).append(problem)
    for name, split in data.splits.items():
        written = _written_images(folder, name)
        items = zip(split.images, split.annotations, written, strict=True)
        for image, annotation, copy in items:
            original, target = label_path(image), label_path(copy)
            if not original.is_file():
                target.unlink()  # whether nothing is on this image, a person has to tell
                continue
            text, found = clean_lines(original, annotation, wrong.get(str(original), []))
            target.write_text(text, encoding="utf-8")
            changes += found
    return changes


def _written_images(folder: Path, split: str) -> list[Path]:
    """Return the images of a written YOLO split, in their order."""
    listed = folder / f"{split}.txt"
    if listed.is_file():
        return [folder / line for line in listed.read_text(encoding="utf-8").splitlines()]
    images = (folder / "images" / split).iterdir()
    return sorted(path for path in images if is_image(path.name))


def _write_series(
    diagnosis: Diagnosis, places: dict[Path, str], folder: Path, target: Path
) -> None:
    """Write the series file of the copy: all but the places of the data as it was."""
    config = read_config(diagnosis.path)
    data = [f"{places[item.data.source]}/data.yaml" for item in diagnosis.series.increments]
    document = config.moved(diagnosis.path, target, data)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    write_text(folder / SERIES, text)


def _unused(name: str, taken: dict[Path, str]) -> str:
    """Return a folder name for a data set that no other has."""
    found, number = name, 1
    while found in taken.values():
        number += 1
        found = f"{name}-{number}"
    return found
