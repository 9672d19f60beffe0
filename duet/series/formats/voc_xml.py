"""PASCAL VOC annotation files: one XML per image."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from duet.files import read_bytes
from duet.series.formats.boxes import number
from duet.series.names import other_spelling
from duet.series.problems import Location, Problem, error

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = ("difficult", "crowd")
_TRUE, _FALSE = ("1", "true"), ("0", "false", "unspecified", "")
_FIELDS_REMEDY = (
    "an object needs a <name> and a <bndbox> with <xmin>, <ymin>, <xmax> and <ymax>: "
    "complete it or delete it"
)


@dataclass(frozen=True, slots=True)
class VocObject:
    """One ``<object>``.

    Attributes:
        number: Its position in the file, from 1.
        name: Class.
        corners: xmin, ymin, xmax, ymax as written: pixels from 1, the last one inclusive.
        difficult: VOC's flag.
        crowd: duet's own flag for a region of many objects, see `format_xml`.
    """

    number: int
    name: str
    corners: tuple[float, float, float, float]
    difficult: bool = False
    crowd: bool = False


@dataclass(frozen=True)
class VocFile:
    """What one XML file says.

    Attributes:
        objects: The objects that can be used.
        size: Width and height as ``<size>`` states them; None where it does not.
        problems: What is wrong, by file and object.
        unused: Facts beyond boxes, with counts.
        readable: Whether the file as a whole could be read.
    """

    objects: tuple[VocObject, ...]
    size: tuple[int, int] | None
    problems: tuple[Problem, ...]
    unused: Counter[str]
    readable: bool = True


def read_xml(path: Path) -> VocFile:
    """Read one annotation file; entities are refused, never expanded."""
    from defusedxml import DefusedXmlException  # type: ignore[import-untyped]
    from defusedxml.ElementTree import ParseError, fromstring  # type: ignore[import-untyped]

    remedy = "write the file anew with its labelling tool, or take the image out of the list"
    try:
        root: Element = fromstring(read_bytes(path))
    except FileNotFoundError:
        advice = "label the image (an image without objects has a file without <object>), or "
        what, advice = "no such file", advice + "take it out of the list"
        if other := other_spelling(path):
            what, advice = f"no such file; the folder has '{other}'", f"rename it to '{path.name}'"
        return _unusable(error("label.missing", path, what, advice))
    except DefusedXmlException as failure:
        what = f"refused: the file declares entities ({type(failure).__name__})"
        return _unusable(error("label.file", path, what, remedy))
    # ValueError and LookupError: an encoding that the parser does not know
    except (OSError, ParseError, ValueError, LookupError) as failure:
        return _unusable(error("label.file", path, f"cannot read: {failure}", remedy))
    if root.tag != "annotation":
        what = f"the outermost element must be <annotation>, got <{root.tag}>"
        return _unusable(error("label.file", path, what, remedy))
    objects: list[VocObject] = []
    problems: list[Problem] = []
    unused: Counter[str] = Counter()
    elements = root.findall("object")
    if stray := _stray(root, len(elements)):
        what = f"<{stray}> stands elsewhere, or is spelled otherwise, than <object> in <annotation>"
        return _unusable(error("label.file", path, what, remedy))
    for position, element in enumerate(elements, start=1):
        found = _object(element, position, object_at(path, position))
        if isinstance(found, VocObject):
            objects.append(found)
        else:
            problems.append(found)
        unused.update(_beyond(element))
    return VocFile(tuple(objects), _size(root), tuple(problems), unused)


def object_at(path: Path, number: int) -> Location:
    """Return the place of an ``<object>``, by its position in the file from 1."""
    return Location(path, object=number, part="object")


def _unusable(problem: Problem) -> VocFile:
    return VocFile((), None, (problem,), Counter(), readable=False)


def _stray(root: Element, objects: int) -> str | None:
    """Return the tag of an object that is none of the ``objects`` children, or None."""
    tags = [tag for item in root.iter() if isinstance(tag := item.tag, str)]
    alike = [tag for tag in tags if tag.rpartition("}")[2].casefold() == "object"]
    if len(alike) == objects:
        return None
    return next((tag for tag in alike if tag != "object"), "object")


def _object(element: Element, position: int, where: Location) -> VocObject | Problem:
    name = (element.findtext("name") or "").strip()
    box = element.find("bndbox")
    counts = Counter(child.tag for child in (*element, *(box if box is not None else ())))
    repeated = [tag for tag in ("name", "bndbox", *CORNERS, *_FLAGS) if counts[tag] > 1]
    if repeated:
        what = f"<{repeated[0]}> stands there {counts[repeated[0]]} times"
        return error("label.fields", where, what, "an <object> has one box: write several objects")
    texts = [box.findtext(tag) for tag in CORNERS] if box is not None else [None]
    if not name or None in texts:
        missing = "<name>" if not name else "<bndbox> or a corner of it"
        return error("label.fields", where, f"no {missing}", _FIELDS_REMEDY)
    try:
        corners = [number(text) for text in texts if text is not None]
    except ValueError as failure:
        return error("label.number", where, f"not a number: {failure}", _FIELDS_REMEDY)
    if not all(math.isfinite(value) for value in corners):
        what = f"numbers must be finite, got {', '.join(f'{value:g}' for value in corners)}"
        return error("label.number", where, what, _FIELDS_REMEDY)
    if len(set(corners)) == 1 and corners[0] <= 1:
        what = f"a dummy box, all four corners are {corners[0]:g}"
        remedy = "the list is one of images without real boxes (VOC's 'extra'): use another list"
        return error("label.dummy", where, what, remedy)
    flags: list[bool] = []
    for tag in _FLAGS:
        text = (element.findtext(tag) or "").strip().casefold()
        if text not in _TRUE + _FALSE:
            return error("label.fields", where, f"<{tag}> must be 0 or 1, got '{text}'", "write 0")
        flags.append(text in _TRUE)
    left, top, right, bottom = corners
    # Few names occur in all files together: each stays in memory once.
    return VocObject(position, sys.intern(name), (left, top, right, bottom), *flags)


def _size(root: Element) -> tuple[int, int] | None:
    """Return the stated width and height, unless they are absent or the 0 of some tools."""
    try:
        width, height = (
            int(float(root.findtext(f"size/{tag}") or "0")) for tag in ("width", "height")
        )
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def _beyond(element: Element) -> list[str]:
    """Return what an object holds beyond its box, one word per kind."""
    kinds = {
        "parts": element.find("part") is not None,
        "outlines": element.find("polygon") is not None or element.find("segm") is not None,
        "poses": (element.findtext("pose") or "Unspecified").strip() not in ("Unspecified", ""),
        "truncated flags": (element.findtext("truncated") or "").strip() == "1",
        "occluded flags": (element.findtext("occluded") or "").strip() == "1",
    }
    return [kind for kind, present in kinds.items() if present]


def format_xml(image: str, size: tuple[int, int], objects: Iterable[VocObject]) -> str:
    """Return the text of an annotation file.

    An ignored object is ``difficult``; a region of many objects has ``<crowd>`` beside it, which
    other programs pass over.

    Args:
        image: File name.
        size: Width and height in pixels.
        objects: Their numbers do not count.
    """
    lines = [
        "<annotation>",
        f"  <filename>{escape(image)}</filename>",
        f"  <size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>",
    ]
    for item in objects:
        corners = zip(CORNERS, item.corners, strict=True)
        box = "".join(f"<{tag}>{_number(value)}</{tag}>" for tag, value in corners)
        crowd = "<crowd>1</crowd>" if item.crowd else ""
        flags = f"<difficult>{int(item.difficult)}</difficult>{crowd}"
        name = f"<name>{escape(item.name)}</name>"
        lines.append(f"  <object>{name}{flags}<bndbox>{box}</bndbox></object>")
    return "\n".join([*lines, "</annotation>", ""])


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
