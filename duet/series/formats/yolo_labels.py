"""YOLO label files: one object per line, `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 ...`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duet.files import read_bytes
from duet.series.formats.boxes import DECIMALS, NOTHING, TOLERANCE, number, rounded, shortened
from duet.series.model import Boxes, Ids
from duet.series.problems import Location, Problem, error

_BOX_COLUMNS = 5
_POLYGON_MIN_COLUMNS = 7  # class and three points
_MAX_ID = 2**31  # ids stay exact as float and as int64
_FORMAT_REMEDY = (
    "write 'class cx cy w h' (a box) or 'class x1 y1 x2 y2 x3 y3 ...' (a polygon), "
    "normalised by the image's size"
)


@dataclass(frozen=True, eq=False)
class LabelFile:
    """The objects of one label file.

    Attributes:
        class_ids: ``(n,) int64`` ids of the rows without a problem.
        boxes: ``(n, 4) float64`` cxcywh, normalised, clipped to 0..1, see `boxes.rounded`.
        problems: What is wrong, by file and line.
        polygons: How many of the objects are given by their outline.
    """

    class_ids: Ids
    boxes: Boxes
    problems: tuple[Problem, ...] = ()
    polygons: int = 0


def read_labels(path: Path, *, class_count: int | None) -> LabelFile:
    """Read one label file; no file means an image without objects (Ultralytics' convention).

    Args:
        path: The label file.
        class_count: Number of classes; None leaves the upper bound of the ids unchecked, for a
            data set whose names are themselves wrong.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except FileNotFoundError:
        return _label_file([], [])
    except (OSError, ValueError) as failure:  # ValueError: not UTF-8, or a NUL in the path
        problem = error("label.file", path, f"cannot read: {failure}", "restore the label file")
        return _label_file([], [problem])
    return parse_labels(text, path, class_count=class_count)


def parse_labels(text: str, path: Path, *, class_count: int | None) -> LabelFile:
    """Parse the text of a label file.

    Args:
        text: One object per line; blank lines do not count.
        path: The file, for the problems.
        class_count: Number of classes, or None when unknown.
    """
    rows: list[tuple[float, ...]] = []
    problems: list[Problem] = []
    polygons = 0
    first_line: dict[tuple[float, ...], int] = {}
    for row, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        place = Location(path, row)
        values, found = _parse_row(fields, place, class_count)
        problems.extend(found)
        # What is rounded on reading cannot tell two objects apart.
        key = tuple(round(value, DECIMALS) for value in values)
        if key in first_line:
            what = f"the same object as line {first_line[key]}"
            problems.append(error("label.duplicate", place, what, "delete one of the two lines"))
        elif values:
            first_line[key] = row
            if not found:
                rows.append(values)
                polygons += len(fields) != _BOX_COLUMNS
    return _label_file(rows, problems, polygons)


def format_labels(class_ids: Ids, boxes: Boxes) -> str:
    """Return the text of a label file, one box per line, with as many decimals as are read."""
    return "".join(
        f"{index} {' '.join(_decimal(value) for value in box)}\n"
        for index, box in zip(class_ids.tolist(), boxes.tolist(), strict=True)
    )


def _decimal(value: float) -> str:
    return f"{value:.{DECIMALS}f}".rstrip("0").rstrip(".")


def _parse_row(
    fields: Sequence[str], place: Location, class_count: int | None
) -> tuple[tuple[float, ...], list[Problem]]:
    """Return ``(class, cx, cy, w, h)``, or ``()`` when these cannot be told, and the problems."""
    columns = len(fields)
    polygon = columns >= _POLYGON_MIN_COLUMNS and columns % 2 == 1
    if columns != _BOX_COLUMNS and not polygon:
        extra = " (the sixth may be a confidence: remove it)" if columns == 6 else ""
        what = f"expected 5 columns, or 7, 9, ... for a polygon, got {columns}{extra}"
        return (), [error("label.columns", place, what, _FORMAT_REMEDY)]
    try:
        numbers = [number(field) for field in fields]
    except ValueError as failure:
        return (), [error("label.number", place, f"not a number: {failure}", _FORMAT_REMEDY)]
    if not all(math.isfinite(value) for value in numbers):
        what = f"numbers must be finite, got '{shortened(' '.join(fields))}'"
        return (), [error("label.number", place, what, _FORMAT_REMEDY)]
    problems = _class_problems(numbers[0], place, class_count)
    coordinates = numbers[1:]
    box = _polygon_to_cxcywh(coordinates) if polygon else coordinates
    if box[2] <= NOTHING or box[3] <= NOTHING:
        what = f"width and height must be above 0, got {box[2]:g} x {box[3]:g}"
        problems.append(error("label.degenerate", place, what, "delete the row or draw it again"))
    # A negative width is one mistake, reported above; here count only values outside for real.
    checked = coordinates if polygon else [*box[:2], *(max(size, 0.0) for size in box[2:])]
    outside = [value for value in checked if not -TOLERANCE <= value <= 1 + TOLERANCE]
    if outside:
        got = shortened(", ".join(f"{value:g}" for value in outside))
        what = f"coordinates must be within 0..1, got {got}"
        remedy = "divide x and width by the image's width, y and height by its height"
        problems.append(error("label.range", place, what, remedy))
    return (numbers[0], *(min(max(value, 0.0), 1.0) for value in box)), problems


def _class_problems(value: float, place: Location, class_count: int | None) -> list[Problem]:
    known = _MAX_ID if class_count is None else class_count
    if value == int(value) and 0 <= value < known:
        return []
    bound = "0 or above" if class_count is None else f"0 to {class_count - 1}"
    what = f"the class id must be a whole number, {bound}, got {value:g}"
    return [error("label.class", place, what, "correct the id, or 'names' in data.yaml")]


def _polygon_to_cxcywh(coordinates: Sequence[float]) -> list[float]:
    """Return the bounding box of ``x1 y1 x2 y2 ...``, its corners clipped to the image."""
    xs = [min(max(x, 0.0), 1.0) for x in coordinates[0::2]]
    ys = [min(max(y, 0.0), 1.0) for y in coordinates[1::2]]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


def _label_file(
    rows: Sequence[tuple[float, ...]], problems: Sequence[Problem], polygons: int = 0
) -> LabelFile:
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    boxes = rounded(table[:, 1:])
    return LabelFile(table[:, 0].astype(np.int64), boxes, tuple(problems), polygons)
