"""COCO's instance files: one JSON for a whole split, read as a stream."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import normpath
from typing import IO, Any

import numpy as np

from duet.series.formats.boxes import PixelBoxes
from duet.series.problems import Problem, error, warning

_Items = Callable[[str], Iterator[Any]]
"""The elements of one of the document's lists."""

_BUFFER_BYTES = 1 << 14
_DEPTH = 1000

_MARKS = ("iscrowd", "ignore", "difficult")
_TRUE, _FALSE = ("1", "true", "1.0"), ("0", "false", "0.0", "none", "")

_BOX_REMEDY = "a bbox is [left, top, width, height] in pixels: correct it or delete the annotation"


@dataclass(frozen=True, eq=False)
class CocoFile:
    """What one JSON file says.

    Attributes:
        categories: Name of each category, by id, in the order of the ids.
        files: File name of each image, in the order of the file.
        sizes: Stated width and height of each image, pixels; None where they are absent.
        objects: All annotations that can be read; ``class_ids`` are positions in ``categories``.
        problems: What is wrong.
        unused: Facts beyond boxes, with counts.
    """

    categories: dict[int, str]
    files: list[str]
    sizes: list[tuple[int, int] | None]
    objects: PixelBoxes
    problems: list[Problem]
    unused: Counter[str]


def read_json(path: Path) -> CocoFile | Problem:
    """Read one instance file, or return why that is impossible.

    The file is read three times as a stream, because its lists may stand in any order; only the
    boxes are kept. One with NaN, which JSON does not know but Python writes, or with deeply nested
    parts is read in one piece.
    """
    import ijson  # type: ignore[import-untyped]

    def stream(name: str) -> Iterator[Any]:
        with path.open("rb") as file:
            yield from ijson.items(
                _Shallow(file), f"{name}.item", use_float=True, buf_size=_BUFFER_BYTES
            )

    try:
        return _Reader(path, stream).read()
    except (ijson.JSONError, _TooDeepError) as failure:
        try:
            document = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            what = f"not valid JSON: {' '.join(str(failure).split())[:200]}"
            return error("data.file", path, what, "take the file again from its source")
    except (OSError, ValueError) as failure:  # ValueError: a NUL in the path
        return error("data.file", path, f"cannot read: {failure}", "check the path")
    lists = document if isinstance(document, dict) else {}
    return _Reader(path, lambda name: iter(_as_list(lists.get(name)))).read()


class _TooDeepError(Exception):
    """A file is nested so deeply that a stream of it would need memory by the square of that."""


class _Shallow:
    """A file that is read only as long as few brackets are open; those in texts count, too."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.depth = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises:
            _TooDeepError: More than `_DEPTH` brackets are open after them.
        """
        block = self.file.read(size)
        self.depth += sum(block.count(sign) for sign in (b"[", b"{"))
        self.depth -= sum(block.count(sign) for sign in (b"]", b"}"))
        if self.depth > _DEPTH:
            raise _TooDeepError(f"more than {_DEPTH} brackets are open at once")
        return block


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


@dataclass
class _Reader:
    """Collects the parts of a file; the numbers of all boxes stand in flat arrays."""

    path: Path
    items: _Items
    problems: list[Problem] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)

    def read(self) -> CocoFile:
        categories = self._categories()
        files, sizes, places = self._images()
        objects = self._objects(places, {id_: index for index, id_ in enumerate(categories)})
        if not files:
            what = "the file lists no images"
            remedy = "a COCO file has the lists 'images', 'annotations' and 'categories'"
            self.problems.append(error("data.images", self.path, what, remedy))
        return CocoFile(categories, files, sizes, objects, self.problems, self.unused)

    def _categories(self) -> dict[int, str]:
        found: dict[int, str] = {}
        remedy = "give each category an id and a name that no other has"
        for item in self.items("categories"):
            entry = item if isinstance(item, dict) else {}
            index, name = entry.get("id"), entry.get("name")
            if type(index) is not int or not isinstance(name, str) or not name.strip():
                what = f"a category needs a whole number 'id' and a 'name', got {_short(item)}"
            elif index in found or name in found.values():
                what = f"category {index} '{name}' has the id or the name of another"
            else:
                found[index] = name
                continue
            self.problems.append(error("data.names", self.path, what, remedy))
        return dict(sorted(found.items()))

    def _images(self) -> tuple[list[str], list[tuple[int, int] | None], dict[Any, int]]:
        files: list[str] = []
        sizes: list[tuple[int, int] | None] = []
        places: dict[Any, int] = {}
        listed: set[str] = set()
        remedy = "each image needs an 'id' and a 'file_name' that no other has"
        for item in self.items("images"):
            entry = item if isinstance(item, dict) else {}
            index, name = entry.get("id"), entry.get("file_name")
            if type(index) not in (int, str) or not isinstance(name, str) or not name.strip("/. "):
                what = f"an image needs an 'id' and a 'file_name', got {_short(item)}"
            elif index in places:
                what = f"image id {index} occurs twice, the second time for {name}"
            elif normpath(name) in listed:
                what = f"{name} is listed twice, the second time as image {index}"
            else:
                places[index] = len(files)
                listed.add(normpath(name))
                files.append(name)
                width, height = entry.get("width"), entry.get("height")
                sizes.append(_size(width, height))
                continue
            self.problems.append(error("image.entry", self.path, what, remedy))
        return files, sizes, places

    def _objects(self, places: dict[Any, int], classes: dict[int, int]) -> PixelBoxes:
        images, class_ids, numbers = array("q"), array("q"), array("q")
        boxes, ignored, crowds = array("d"), bytearray(), bytearray()
        for position, item in enumerate(self.items("annotations")):
            entry = item if isinstance(item, dict) else {}
            number = entry.get("id")
            number = number if type(number) is int and abs(number) < 2**63 else position
            found = self._box(entry, number, places, classes)
            if found is None:
                continue
            images.append(places[entry["image_id"]])
            class_ids.append(classes[entry["category_id"]])
            numbers.append(number)
            boxes.extend(found)
            marks = {key: _mark(entry.get(key)) for key in _MARKS}
            crowds.append(bool(marks["iscrowd"] and not marks["difficult"]))
            ignored.append(any(marks.values()))
            self.unused.update(_beyond(entry))
        self._repeated_ids(np.array(numbers, np.int64))
        table = np.array(boxes, np.float64).reshape(-1, 4)
        table[:, 2:] += table[:, :2]
        return PixelBoxes(
            np.array(images, np.int64), np.array(class_ids, np.int64), table,
            np.frombuffer(bytes(ignored), np.bool_), np.frombuffer(bytes(crowds), np.bool_),
            np.array(numbers, np.int64),
        )  # fmt: skip

    def _box(
        self, entry: dict[str, Any], number: int, places: dict[Any, int], classes: dict[int, int]
    ) -> list[float] | None:
        """Return left, top, width and height, or None after noting what is wrong."""
        where = f"{self.path}: annotation {number}"
        box = entry.get("bbox")
        image, category = entry.get("image_id"), entry.get("category_id")
        if type(image) not in (int, str) or image not in places:
            what = f"image_id {_short(image)} is no listed image"
            code, remedy = "label.image", "delete the annotation, or list its image"
        elif type(category) is not int or category not in classes:
            what = f"category_id {_short(category)} is no listed category"
            code, remedy = "label.class", "delete the annotation, or list its category"
        elif not isinstance(box, list) or len(box) != 4:
            what, code, remedy = f"no bbox of 4 numbers: {_short(box)}", "label.fields", _BOX_REMEDY
        elif not all(_finite(value) for value in box):
            what = f"bbox must hold finite numbers, got {_short(box)}"
            code, remedy = "label.number", _BOX_REMEDY
        elif unclear := [key for key in _MARKS if _mark(entry.get(key)) is None]:
            what = f"'{unclear[0]}' must be 0 or 1, got {_short(entry[unclear[0]])}"
            code, remedy = "label.fields", "write 0 or 1"
        else:
            return [float(value) for value in box]
        self.problems.append(error(code, where, what, remedy))
        return None

    def _repeated_ids(self, numbers: np.ndarray[Any, Any]) -> None:
        values, counts = np.unique(numbers, return_counts=True)
        for value, count in zip(values[counts > 1], counts[counts > 1], strict=True):
            what = f"{count} annotations have this id; duet reads them all, others keep one"
            where = f"{self.path}: annotation {value}"
            self.problems.append(warning("label.id", where, what, "number the annotations anew"))


def _beyond(entry: dict[str, Any]) -> list[str]:
    """Return what an annotation holds beyond its box, one word per kind."""
    kinds = {"segmentation": "outlines", "keypoints": "keypoints", "attributes": "attributes"}
    return [word for key, word in kinds.items() if entry.get(key)]


def _mark(value: Any) -> bool | None:
    """Return what a flag says, also one that was written as text; None if that is unclear."""
    text = str(value).strip().casefold()
    return text in _TRUE if text in _TRUE + _FALSE else None


def _size(width: Any, height: Any) -> tuple[int, int] | None:
    sides = [value for value in (width, height) if _finite(value) and value > 0]
    return (round(sides[0]), round(sides[1])) if len(sides) == 2 else None


def _finite(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 2**63  # a whole number may be too large for a float
    return type(value) is float and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
