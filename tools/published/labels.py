"""One VOC label file: are its names known, are its boxes real?

Boxes are 1-based inclusive pixels ``xmin ymin xmax ymax``, as VOC writes them; 0 is tolerated
(BDD100K counts from 0). A file is written as it came unless a name or an object of it changes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from duet.aliases import same_class
from duet.errors import DuetError
from duet.series.formats.boxes import TOLERANCE
from duet.series.problems import Problem, error

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_DUMMY = (1.0, 1.0, 1.0, 1.0)
_SIDES = tuple(f"bndbox/{side}" for side in ("xmin", "ymin", "xmax", "ymax"))
_IDENTITY = ("difficult", *_SIDES)
_NAMES_REMEDY = "--drop-name NAME leaves such objects out, which no detector will then learn"
_BOXES_REMEDY = "--drop-broken-boxes leaves such objects out"
_SUFFIX = re.compile(r"\.(jpe?g|png)$", re.IGNORECASE)
_FILE_REMEDY = "get the archive again from its authors"


@dataclass(frozen=True)
class LabelRules:
    """What to accept.

    Attributes:
        names: Classes of the data set.
        drop_names: Names of objects that are left out.
        drop_broken_boxes: Leave objects out whose box cannot be one, or that are there twice.
    """

    names: tuple[str, ...]
    drop_names: frozenset[str] = frozenset()
    drop_broken_boxes: bool = False


@dataclass(frozen=True)
class Labels:
    """One checked label file.

    Attributes:
        content: The XML to write.
        problems: What is wrong with it.
        objects: Objects per class, after renaming.
        renamed: (name found, class) -> objects.
        dropped: Why -> objects left out.
        size: ``(width, height)`` in pixels that the file states; None where it states none.
        image: Name of the image that the file states, without suffix; may be empty.
    """

    content: bytes
    problems: tuple[Problem, ...] = ()
    objects: Counter[str] = field(default_factory=Counter)
    renamed: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    size: tuple[int, int] | None = None
    image: str = ""


def check_labels(content: bytes, *, where: str, rules: LabelRules) -> Labels:
    """Check one label file.

    Args:
        content: The XML.
        where: Its name, for the problems.
        rules: What to accept.
    """
    from xml.etree.ElementTree import ParseError, tostring

    from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped]
    from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]

    try:
        root = fromstring(content, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as failure:
        # LookupError: an encoding that nobody knows
        what = f"not usable as XML: {' '.join(str(failure).split())}"
        return Labels(content, (error("label.xml", where, what, _FILE_REMEDY),))
    if root.tag != "annotation":
        what = f"not a VOC label file: expected <annotation>, got <{root.tag}>"
        return Labels(content, (error("label.xml", where, what, _FILE_REMEDY),))
    size = _size(root)
    objects = root.findall("object")
    if (alike := _objects_anywhere(root)) != len(objects):
        what = f"{alike - len(objects)} of {alike} <object> are not directly in <annotation>"
        return Labels(content, (error("label.xml", where, what, _FILE_REMEDY),))
    found = Labels(content, size=size)
    problems: list[Problem] = []
    changed = False
    seen: set[tuple[str, ...]] = set()
    for item in objects:
        problem, drop = _check_object(item, where, rules, size, seen)
        if drop:
            found.dropped[drop] += 1
            root.remove(item)
            changed = True
        elif problem is not None:
            problems.append(problem)
        else:
            changed |= _count(item, rules, found)
    if changed:
        try:
            content = tostring(root, encoding="utf-8")
        except RecursionError:
            problems.append(error("label.xml", where, "nested too deeply", _FILE_REMEDY))
    image = _SUFFIX.sub("", _text(root, "filename").replace("\\", "/").rsplit("/", 1)[-1])
    return replace(found, content=content, problems=tuple(problems), image=image)


def _objects_anywhere(root: Element) -> int:
    tags = (item.tag for item in root.iter() if isinstance(item.tag, str))
    return sum(tag.rpartition("}")[2].casefold() == "object" for tag in tags)


def _check_object(
    item: Element,
    where: str,
    rules: LabelRules,
    size: tuple[int, int] | None,
    seen: set[tuple[str, ...]],
) -> tuple[Problem | None, str]:
    """Return what is wrong with an object, or why it is left out (empty: it stays).

    Objects that stay are added to ``seen``.
    """
    name = _text(item, "name")
    if name in rules.drop_names:
        return None, f"named '{name}'"
    try:
        known = _class_of(name, rules.names)
    except DuetError as failure:  # several classes are equally near
        return error("label.class", where, failure.what, _NAMES_REMEDY), ""
    if known is None:
        what = f"unknown name '{name}'; known: {', '.join(rules.names)}"
        return error("label.class", where, what, _NAMES_REMEDY), ""
    broken = _broken_box(item, size)
    if broken and rules.drop_broken_boxes:
        return None, "broken box"
    if broken:
        code = "label.dummy" if broken.startswith("dummy") else "label.box"
        return error(code, where, f"'{name}': {broken}", _BOXES_REMEDY), ""
    key = (known, *(_text(item, path) for path in _IDENTITY))
    if key in seen and rules.drop_broken_boxes:
        return None, "the same object twice"
    if key in seen:
        what = f"'{name}': the same object twice, box {' '.join(key[2:])}"
        return error("label.duplicate", where, what, _BOXES_REMEDY), ""
    seen.add(key)
    return None, ""


def _count(item: Element, rules: LabelRules, found: Labels) -> bool:
    """Count an object that stays, under its class; return whether its name changed."""
    name = _text(item, "name")
    known = _class_of(name, rules.names)
    assert known is not None  # checked before
    found.objects[known] += 1
    element = item.find("name")
    assert element is not None
    if name == known:
        return False
    found.renamed[name, known] += 1
    element.text = known
    return True


def _broken_box(item: Element, size: tuple[int, int] | None) -> str:
    """Return why the box of an object cannot be one, or nothing."""
    try:
        box = tuple(float(_text(item, path)) for path in _SIDES)
    except ValueError:
        return "no box of four numbers"
    left, top, right, bottom = box
    shown = f"{left:g} {top:g} {right:g} {bottom:g}"
    if not all(map(math.isfinite, box)):
        return f"box {shown} is not finite"
    if box == _DUMMY:
        return "dummy box 1 1 1 1: image-level labels only (as in the lists called 'extra')"
    if right < left or bottom < top:
        return f"box {shown} ends before it begins"
    if right < 1 or bottom < 1 or (size and _strays(box, size)):
        return f"box {shown} lies outside the image or is larger"
    return ""


def _strays(box: tuple[float, ...], size: tuple[int, int]) -> bool:
    """Tell whether the centre lies outside or a side is too long: what the reader refuses, too."""
    left, top, right, bottom = box
    return any(
        not -TOLERANCE <= (low - 1 + high) / 2 / length <= 1 + TOLERANCE
        or (high - low + 1) / length > 1 + TOLERANCE
        for low, high, length in ((left, right, size[0]), (top, bottom, size[1]))
    )


def _size(root: Element) -> tuple[int, int] | None:
    try:
        width, height = (int(float(_text(root, f"size/{side}"))) for side in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def _text(item: Element, path: str) -> str:
    return (item.findtext(path) or "").strip()


@lru_cache(maxsize=4096)
def _class_of(name: str, names: Sequence[str]) -> str | None:
    return same_class(name, names) if name else None
