"""Repairing labels: row by row in YOLO's files, object by object in the other formats."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from duet.doctor.boxes import Mask, dummies, overshooting, tinies
from duet.series.formats.yolo import label_path
from duet.series.formats.yolo_labels import format_labels
from duet.series.model import Annotation, Boxes, DomainData, Split
from duet.series.problems import Problem

SLIGHT = 0.05
"""How far a row may leave the range 0..1 to be clipped and kept; beyond, it is left out."""

_DROPPED = (
    "label.columns", "label.number", "label.degenerate", "label.duplicate", "label.range",
    "label.fields", "label.dummy", "label.image",
)  # fmt: skip
_OBJECT = re.compile(r": (annotation|object) -?\d+$")


@dataclass(frozen=True)
class Change:
    """One repair.

    Attributes:
        file: The image or label file concerned, with the line or object where there is one.
        action: ``"dropped image"``, ``"dropped label file"``, ``"dropped row"`` or
            ``"clipped box"``.
        code: The kind of problem.
        why: What was wrong.
    """

    file: str
    action: str
    code: str
    why: str


def label_file(image: Path, form: str) -> Path:
    """Return where the labels of an image lie; for COCO's common files a path that nothing has."""
    if form == "voc":
        return image.parent.parent / "Annotations" / f"{image.stem}.xml"
    return label_path(image)


def clean_lines(
    path: Path, annotation: Annotation, problems: Sequence[Problem]
) -> tuple[str, list[Change]]:
    """Return the repaired text of a YOLO label file, and what was changed.

    Args:
        path: The file; it can be read.
        annotation: Its rows without a problem, in their order, and the size of the image.
        problems: Those of the file, found by line.
    """
    by_line: dict[int, list[Problem]] = {}
    for problem in problems:
        line = problem.where.rsplit(":", 1)[-1]
        if problem.where.startswith(f"{path}:") and line.isdigit():
            by_line.setdefault(int(line), []).append(problem)
    dummy, tiny, outside = _wrong_boxes(annotation)
    lines: list[str] = []
    changes: list[Change] = []
    row = 0  # of the annotation: the lines without a problem
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        place, found = f"{path}:{number}", by_line.get(number, [])
        if not line.split():
            continue
        if found:
            kept, change = _mended_line(line, found, place, annotation)
        elif dummy[row] or tiny[row]:
            code = "label.dummy" if dummy[row] else "label.tiny"
            kept, change = "", Change(place, "dropped row", code, line.strip())
        elif outside[row] and len(line.split()) == 5:
            kept, change = _clipped(line, place, "label.outside", line.strip(), annotation)
        else:
            kept, change = line, None
        row += not found
        lines += [kept] if kept else []
        changes += [change] if change else []
    return "".join(f"{line}\n" for line in lines), changes


def refused_objects(problems: Iterable[Problem]) -> list[Change]:
    """Return the objects of VOC and COCO files that their readers left out: no copy has them."""
    return [
        Change(problem.where, "dropped row", problem.code, problem.what)
        for problem in problems
        if problem.code in _DROPPED and _OBJECT.search(problem.where)
    ]


def clean_annotations(data: DomainData) -> tuple[DomainData, list[Change]]:
    """Return a VOC or COCO data set without specks, its boxes clipped, and what was changed."""
    changes: list[Change] = []
    splits = {}
    for name, split in data.splits.items():
        annotations = []
        for image, annotation in zip(split.images, split.annotations, strict=True):
            dummy, tiny, outside = _wrong_boxes(annotation)
            kept = ~(dummy | tiny)
            boxes = annotation.boxes.copy()
            boxes[outside] = _inside(boxes[outside])
            for row in np.flatnonzero(~kept).tolist():
                code = "label.dummy" if dummy[row] else "label.tiny"
                changes.append(Change(str(image), "dropped row", code, f"object {row + 1}"))
            for row in np.flatnonzero(outside & kept).tolist():
                what = f"object {row + 1}"
                changes.append(Change(str(image), "clipped box", "label.outside", what))
            annotations.append(
                replace(
                    annotation,
                    class_ids=annotation.class_ids[kept],
                    boxes=boxes[kept],
                    ignored=annotation.ignored[kept],
                    crowds=annotation.crowds[kept],
                )
            )
        splits[name] = Split(name, split.images, tuple(annotations))
    return replace(data, splits=splits), changes


def _wrong_boxes(annotation: Annotation) -> tuple[Mask, Mask, Mask]:
    """Return ``(n,) bool`` each: placeholders, specks, boxes that stick out."""
    sizes = np.tile(
        np.array([annotation.width, annotation.height], np.float64), (len(annotation.boxes), 1)
    )
    boxes = (annotation.boxes, sizes)
    return dummies(*boxes), tinies(*boxes), overshooting(*boxes)


def _mended_line(
    line: str, problems: Sequence[Problem], place: str, annotation: Annotation
) -> tuple[str, Change | None]:
    """Return what to keep of a row with problems, empty for nothing."""
    codes = [problem.code for problem in problems]
    broken = next((problem for problem in problems if problem.code in _DROPPED), None)
    if "label.class" in codes or broken is None:
        return line, None  # what this object is, a person has to tell
    fields = line.split()
    if codes == ["label.range"] and len(fields) == 5:
        values = [float(field) for field in fields[1:]]
        if all(-SLIGHT <= value <= 1 + SLIGHT for value in values):
            return _clipped(line, place, "label.range", broken.what, annotation)
    return "", Change(place, "dropped row", broken.code, broken.what)


def _clipped(
    line: str, place: str, code: str, why: str, annotation: Annotation
) -> tuple[str, Change]:
    """Return a five-column row with its box cut at the image's edges."""
    fields = line.split()
    box = _inside(np.array([[float(field) for field in fields[1:]]]))
    if (box[0, 2:] * (annotation.width, annotation.height) < 1).any():
        return "", Change(place, "dropped row", code, f"{why}; nothing of it is inside")
    text = format_labels(np.array([int(float(fields[0]))]), box).strip()
    return text, Change(place, "clipped box", code, why)


def _inside(boxes: Boxes) -> Boxes:
    """Return ``(n, 4)`` normalised cxcywh boxes cut at the image's edges."""
    low = np.clip(boxes[:, :2] - boxes[:, 2:] / 2, 0, 1)
    high = np.clip(boxes[:, :2] + boxes[:, 2:] / 2, 0, 1)
    return np.asarray(np.concatenate([(low + high) / 2, high - low], axis=1), np.float64)
