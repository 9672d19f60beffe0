"""COCO's instance files: one JSON for a whole split, read as a stream."""

from __future__ import annotations

import json
import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from posixpath import normpath
from typing import Any, TypeAlias

import numpy as np

from duet.files import TwiceError, once
from duet.series.formats.boxes import PixelBoxes, shortened
from duet.series.formats.coco_stream import (
    NoStreamError,
    reason,
    stream,
    undecodable,
)
from duet.series.names import other_spelling
from duet.series.problems import Location, Problem, error, warning

_Items = Callable[[str], Iterator[Any]]
"""The elements of one of the document's lists, ``"images.item"``, or the one value of a key."""

_MAX_SIDE = 2**31

_MARKS = ("iscrowd", "ignore", "difficult")
_TRUE, _FALSE = ("1", "true", "1.0"), ("0", "false", "0.0", "none", "")

Id: TypeAlias = int | str
"""What a file calls an image or a category, see `_id`."""

_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,17}))(?:\.0+)?")

_BOX_REMEDY = "a bbox is [left, top, width, height] in pixels: correct it or delete the annotation"


@dataclass(frozen=True, eq=False)
class CocoFile:
    """What one JSON file says.

    Attributes:
        categories: Name of each class, by id, in the order of the ids. A category above others that
            has no object is none: Roboflow's files begin with one called like the project.
        files: File name of each image, in the order of the file.
        sizes: Stated width and height of each image, pixels; None where they are absent.
        objects: All annotations that can be read; ``class_ids`` are positions in ``categories``.
        problems: What is wrong.
        unused: Facts beyond boxes, with counts.
    """

    categories: dict[Id, str]
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

    try:
        return _Reader(path, partial(stream, path)).read()
    except (ijson.JSONError, NoStreamError) as failure:
        try:
            document = json.loads(path.read_bytes(), object_pairs_hook=once)
        except TwiceError as twice:
            remedy = "programs read the first, the last or both: leave one"
            return error("data.file", path, str(twice), remedy)
        except UnicodeDecodeError as wrong:
            return error("data.file", path, undecodable(wrong), "save the file as UTF-8")
        except (ValueError, RecursionError):
            what = f"not valid JSON: {reason(failure)}"
            return error("data.file", path, what, "take the file again from its source")
    except (OSError, ValueError) as failure:  # ValueError: a NUL in the path
        what, other = f"cannot read: {failure}", other_spelling(path)
        what += f"; the folder has '{other}'" if other not in (None, path.name) else ""
        return error("data.file", path, what, "check the path")
    keys = document if isinstance(document, dict) else {}

    def pick(prefix: str) -> Iterator[Any]:
        name, _, of = prefix.partition(".")
        value = keys.get(name)
        return iter(_as_list(value) if of else [value] if name in keys else ())

    return _Reader(path, pick).read()


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


@dataclass(frozen=True)
class _Category:
    """An entry of the list of categories, and the name of the one above it."""

    id: Id
    name: str
    parent: str


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
        objects = self._objects(places, {item.id: i for i, item in enumerate(categories)})
        names, objects = self._classes(categories, objects)
        for name, empty in (("annotations", not len(objects.images)), ("images", not files)):
            value = next(self.items(name), ()) if empty else None
            if value == () and name == "annotations" and files:
                what = "the file has no list 'annotations': all its images count as empty"
                remedy = "name the list so; leave it empty if nothing is on the images"
                self.problems.append(warning("data.images", self.path, what, remedy))
            if value not in (None, ()) and not isinstance(value, list):
                what = f"'{name}' must be a list, got {_short(value)}"
                remedy = "write it as COCO does"
                self.problems.append(error("data.images", self.path, what, remedy))
        if not files:
            what = "the file lists no images"
            remedy = "a COCO file has the lists 'images', 'annotations' and 'categories'"
            self.problems.append(error("data.images", self.path, what, remedy))
        return CocoFile(names, files, sizes, objects, self.problems, self.unused)

    def _categories(self) -> list[_Category]:
        """Return the entries in the order of their ids."""
        found: dict[Id, _Category] = {}
        texts: dict[Id, str] = {}
        for item in self.items("categories.item"):
            entry = item if isinstance(item, dict) else {}
            spelled, name, parent = (entry.get(key) for key in ("id", "name", "supercategory"))
            index = _id(spelled)
            if index is None or not isinstance(name, str) or not name.strip():
                self._bad_category(f"a category needs an 'id' and a 'name', got {_short(item)}")
            elif index in found:
                self._bad_category(f"category {index} '{name}' has the id of another")
            else:
                found[index] = _Category(index, name, parent if isinstance(parent, str) else "")
                texts |= {index: spelled} if isinstance(spelled, str) else {}
        for index, text in texts.items() if len(texts) < len(found) else ():
            name = found.pop(index).name
            self._bad_category(
                f"the id of category '{name}' is a text, {text!r}, others are numbers"
            )
        return sorted(found.values(), key=lambda item: (isinstance(item.id, str), item.id))

    def _bad_category(self, what: str) -> None:
        remedy = "give each category an id and a name that no other has"
        self.problems.append(error("data.names", self.path, what, remedy))

    def _classes(
        self, categories: list[_Category], objects: PixelBoxes
    ) -> tuple[dict[Id, str], PixelBoxes]:
        """Return the classes by id, and the objects with their positions among these."""
        used = set(np.unique(objects.class_ids).tolist())
        parents = Counter(_folded(item.parent) for item in categories)
        names: dict[Id, str] = {}
        first: dict[str, int] = {}
        places = np.zeros(len(categories), np.int64)
        for position, item in enumerate(categories):
            own = _folded(item.parent) == _folded(item.name)
            if position not in used and parents[_folded(item.name)] > own:
                continue
            if item.name in first:  # its objects go by the first: one error is enough
                self._bad_category(f"category {item.id} '{item.name}' has the name of another")
                places[position] = first[item.name]
                continue
            places[position] = first[item.name] = len(names)
            names[item.id] = item.name
        return names, replace(objects, class_ids=places[objects.class_ids])

    def _images(self) -> tuple[list[str], list[tuple[int, int] | None], dict[Id, int]]:
        files: list[str] = []
        sizes: list[tuple[int, int] | None] = []
        places: dict[Id, int] = {}
        listed: set[str] = set()
        remedy = "each image needs an 'id' and a 'file_name' that no other has"
        for item in self.items("images.item"):
            entry = item if isinstance(item, dict) else {}
            index, name = _id(entry.get("id")), entry.get("file_name")
            if not isinstance(name, str) or not name.strip("/. "):
                what = f"an image needs an 'id' and a 'file_name', got {_short(item)}"
            elif index is None:
                what = f"the 'id' of {name} must be a whole number or a text, "
                what += f"got {_short(entry.get('id'))}"
            elif index in places:
                what = f"image id {index} occurs twice, the second time for {name}"
            elif normpath(name) in listed:
                what = f"{name} is listed twice, the second time as image {index}"
            else:
                places[index] = len(files)
                listed.add(normpath(name))
                files.append(name)
                sizes.append(_size(entry.get("width"), entry.get("height")))
                continue
            self.problems.append(error("image.entry", self.path, what, remedy))
        return files, sizes, places

    def _objects(self, places: dict[Any, int], classes: dict[Any, int]) -> PixelBoxes:
        images, class_ids, numbers = array("q"), array("q"), array("q")
        boxes, ignored, crowds = array("d"), bytearray(), bytearray()
        for position, item in enumerate(self.items("annotations.item")):
            entry = item if isinstance(item, dict) else {}
            number = _id(entry.get("id"))
            number = number if isinstance(number, int) and abs(number) < 2**63 else position
            image = places.get(_id(entry.get("image_id")), -1)
            class_id = classes.get(_id(entry.get("category_id")), -1)
            found = self._box(entry, number, image, class_id)
            if found is None:
                continue
            images.append(image)
            class_ids.append(class_id)
            numbers.append(number)
            boxes.extend(found)
            marks = {key: _mark(entry.get(key)) for key in _MARKS}
            crowds.append(bool(marks["iscrowd"] and not marks["difficult"]))
            ignored.append(any(marks.values()))
            self.unused.update(_beyond(entry))
        self._repeated_ids(np.array(numbers, np.int64))
        objects = PixelBoxes.of(images, class_ids, boxes, ignored, crowds, numbers)
        with np.errstate(over="ignore"):  # an endless box is refused as one outside the image
            objects.xyxy[:, 2:] += objects.xyxy[:, :2]
        return objects

    def _box(
        self, entry: dict[str, Any], number: int, image: int, class_id: int
    ) -> list[float] | None:
        """Return left, top, width and height, or None after noting what is wrong."""
        where = Location(self.path, object=number, part="annotation")
        box = entry.get("bbox")
        if image < 0:
            what = f"image_id {_short(entry.get('image_id'))} is no listed image"
            code, remedy = "label.image", "delete the annotation, or list its image"
        elif class_id < 0:
            what = f"category_id {_short(entry.get('category_id'))} is no listed category"
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
            where = Location(self.path, object=int(value), part="annotation")
            self.problems.append(warning("label.id", where, what, "number the annotations anew"))


def _id(value: Any) -> Id | None:
    """Return an id in its one spelling: whole numbers are also written 1.0, "1" and "1.0".

    Anything else that is text stays what it is; None is for what is no id.
    """
    if type(value) is str:
        whole = _WHOLE.fullmatch(value.strip())
        return int(whole[1]) if whole else value.strip() or None
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _folded(name: str) -> str:
    return name.strip().casefold()


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
    return (
        (round(min(sides[0], _MAX_SIDE)), round(min(sides[1], _MAX_SIDE)))
        if len(sides) == 2
        else None
    )


def _finite(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 2**63  # a whole number may be too large for a float
    return type(value) is float and math.isfinite(value)


def _short(value: Any) -> str:
    return shortened(repr(value))
