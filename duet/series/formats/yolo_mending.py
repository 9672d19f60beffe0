"""Mending YOLO's label files row by row: outlines, digits and what needs a person stay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from duet.files import read_bytes
from duet.series.formats.mending import DROPPED, Change, inside, wrong_boxes
from duet.series.formats.yolo_labels import format_labels, parse_labels
from duet.series.model import Annotation
from duet.series.problems import Location, Problem

SLIGHT = 0.05
"""How far a row may leave the range 0..1 to be clipped and kept; beyond, it is left out."""


def mended_text(
    path: Path, annotation: Annotation, *, class_count: int
) -> tuple[str, list[Change]]:
    """Return the repaired text of a label file, and what was changed.

    Args:
        path: The file; it can be read.
        annotation: Its rows without a problem, in their order, and the size of the image.
        class_count: Number of classes of the data set: in another that shares the file, other rows
            may be wrong.
    """
    content = read_bytes(path).decode("utf-8-sig")
    problems: dict[Location, list[Problem]] = defaultdict(list)
    for problem in parse_labels(content, path, class_count=class_count).problems:
        problems[problem.where].append(problem)
    dummy, tiny, outside = wrong_boxes(annotation)
    lines: list[str] = []
    changes: list[Change] = []
    row = 0  # of the annotation: the lines without a problem
    for number, line in enumerate(content.splitlines(), start=1):
        place = Location(path, number)
        found = problems.get(place, ())
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


def _mended_line(
    line: str, problems: Sequence[Problem], place: Location, annotation: Annotation
) -> tuple[str, Change | None]:
    """Return what to keep of a row with problems, empty for nothing."""
    codes = [problem.code for problem in problems]
    broken = next((problem for problem in problems if problem.code in DROPPED), None)
    if "label.class" in codes or broken is None:
        return line, None  # what this object is, a person has to tell
    fields = line.split()
    if codes == ["label.range"] and len(fields) == 5:
        values = [float(field) for field in fields[1:]]
        if all(-SLIGHT <= value <= 1 + SLIGHT for value in values):
            return _clipped(line, place, "label.range", broken.what, annotation)
    return "", Change(place, "dropped row", broken.code, broken.what)


def _clipped(
    line: str, place: Location, code: str, why: str, annotation: Annotation
) -> tuple[str, Change]:
    """Return a five-column row with its box cut at the image's edges."""
    fields = line.split()
    box = inside(np.array([[float(field) for field in fields[1:]]]))
    if (box[0, 2:] * (annotation.width, annotation.height) < 1).any():
        return "", Change(place, "dropped row", code, f"{why}; nothing of it is inside")
    text = format_labels(np.array([int(float(fields[0]))]), box).strip()
    return text, Change(place, "clipped box", code, why)
