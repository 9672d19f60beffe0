"""Which detection finds which object, as COCO matches them, in arrays: no record per box.

The most confident detection of an image and class chooses first: the free object that it overlaps
most, and only if there is none an ignored one, which any number of detections may lie on. All
images and classes are matched at once, one detection of each at a time, at every threshold side by
side. faster-coco-eval and pycocotools are the judges: what is computed here is bit-equal to the
first and within rounding of the second (tests/evaluation/test_judges.py).

Memory is bounded by blocks of images (`BLOCK`) and of pairs (`PAIRS`): beside a block and some 40
bytes per detection nothing is held.

Shape legend: n detections, m of them with a match, P pairs, T thresholds, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_DETECTIONS = 100
"""Detections counted per image and class, the most confident first (COCO's value)."""

LARGEST = 1e5**2
"""Square pixels: COCO ignores objects and unmatched detections that are larger."""

BLOCK = 200_000
"""Detections that are matched at a time."""

PAIRS = 1_000_000
"""Pairs of a detection and an object whose overlap is computed at a time."""

HIT, IGNORED = 1, 2
"""What a match means: an object is found, or the detection counts neither way."""

Ints = npt.NDArray[np.integer[Any]]
Flags = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Boxes:
    """Detections or labelled objects of a block of images, image by image.

    Attributes:
        xyxy: ``(n, 4)`` px; a box that ends before it begins has no area.
        classes: ``(n,)`` positions of the classes, 0..K-1.
        images: ``(n,)`` positions of the images, rising.
    """

    xyxy: npt.NDArray[Any]
    classes: Ints
    images: Ints


@dataclass(frozen=True, eq=False)
class Found(Boxes):
    """Detections, with ``(n,)`` float32 confidence."""

    scores: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Labelled(Boxes):
    """Objects; ``(n,)`` flags of those that are not scored, and of those of them that are crowds.

    A crowd's overlap with a detection is the share of the detection in it, others' is IoU.
    """

    ignored: Flags
    crowds: Flags


@dataclass(frozen=True, eq=False)
class Outcome:
    """The counted detections of all classes, in the order in which COCO adds them up.

    Class by class; the most confident first, equal ones in the order of the images.

    Attributes:
        edges: ``(K + 1,)`` where each class begins.
        scores: ``(n,)`` float32.
        images: ``(n,)`` int32.
        rows: ``(m,)`` rising positions of the detections that any match was made for.
        kinds: ``(m, T)`` uint8: `HIT`, `IGNORED`, or 0 for none.
        overlap: ``(m,)`` float64, with the object of the first threshold; 0 where there is none.
        object_edges: ``(K + 1,)`` where the objects of each class begin.
        objects: Image of each object that is scored, int32, rising within a class.
    """

    edges: Ints
    scores: npt.NDArray[np.float32]
    images: npt.NDArray[np.int32]
    rows: Ints
    kinds: npt.NDArray[np.uint8]
    overlap: Doubles
    object_edges: Ints
    objects: npt.NDArray[np.int32]

    def of(self, index: int) -> tuple[slice, slice, slice]:
        """Return what belongs to one class: detections, rows of matches, and objects."""
        begin, end = self.edges[index : index + 2]
        first, last = np.searchsorted(self.rows, (begin, end))
        return slice(begin, end), slice(first, last), slice(*self.object_edges[index : index + 2])


def match_blocks(
    blocks: Iterable[tuple[Found, Labelled]], classes: int, thresholds: Sequence[float]
) -> Outcome:
    """Match detections with objects.

    Args:
        blocks: Images in order, each in one block.
        classes: How many there are, K.
        thresholds: Smallest overlaps of a match, rising.
    """
    small = np.min_scalar_type(max(classes - 1, 0))
    levels = np.minimum(np.asarray(thresholds, np.float64), 1 - 1e-10)  # COCO's bound
    parts: list[tuple[Any, ...]] = []
    total = 0
    for found, labelled in blocks:
        labelled, scored = _scored_first(labelled, classes)
        found = _counted(found, classes)
        rows, kinds, overlap = _matches(found, labelled, scored, classes, levels)
        parts.append((
            found.scores, found.images.astype(np.int32), found.classes.astype(small),
            rows + total, kinds, overlap,
            labelled.images[scored].astype(np.int32), labelled.classes[scored].astype(small),
        ))  # fmt: skip
        total += len(found.scores)
    return _ordered(parts, classes, small, len(levels))


def overlaps(one: Doubles, other: Doubles, crowds: Flags) -> Doubles:
    """Return ``(P,)`` overlaps of pairs of boxes, computed in COCO's order of operations.

    Args:
        one: ``(4, P)`` left, top, width, height of detections.
        other: ``(4, P)`` of objects.
        crowds: ``(P,)`` whether the object is a crowd.
    """
    width, height = (
        np.minimum(one[axis] + one[axis + 2], other[axis] + other[axis + 2])
        - np.maximum(one[axis], other[axis])
        for axis in (0, 1)
    )
    apart = (width <= 0) | (height <= 0)
    shared = width * height
    area = one[2] * one[3]
    union = np.where(crowds, area, area + other[2] * other[3] - shared)
    found = np.zeros(len(shared))
    np.divide(shared, union, out=found, where=~apart)
    return found


def _sides(xyxy: npt.NDArray[Any]) -> Doubles:
    """Return ``(4, n)`` float64 left, top, width, height."""
    left, top, right, bottom = xyxy.T.astype(np.float64)
    return np.stack([left, top, np.maximum(right - left, 0), np.maximum(bottom - top, 0)])


def _groups(boxes: Boxes, classes: int) -> npt.NDArray[np.int64]:
    """Return ``(n,)`` one number per image and class."""
    groups: npt.NDArray[np.int64] = boxes.images.astype(np.int64) * classes + boxes.classes
    return groups


def _counted(found: Found, classes: int) -> Found:
    """Return the detections that count, by image and class, the most confident first."""
    groups = _groups(found, classes)
    order = np.lexsort((-found.scores, groups))  # stable: equal scores as they were found
    order = order[_ranks(groups[order]) < MAX_DETECTIONS]
    return Found(found.xyxy[order], found.classes[order], found.images[order], found.scores[order])


def _scored_first(labelled: Labelled, classes: int) -> tuple[Labelled, Flags]:
    """Return the objects by image and class, those that are not scored last, and which are."""
    _, _, width, height = _sides(labelled.xyxy)
    scored = ~labelled.ignored & (width * height <= LARGEST)
    order = np.lexsort((~scored, _groups(labelled, classes)))
    ordered = Labelled(
        labelled.xyxy[order], labelled.classes[order], labelled.images[order],
        labelled.ignored[order], labelled.crowds[order],
    )  # fmt: skip
    return ordered, scored[order]


def _ranks(groups: Ints) -> npt.NDArray[np.int64]:
    """Return the position of each row within its run of equal groups."""
    places = np.arange(len(groups))
    new = np.ones(len(groups), np.bool_)
    new[1:] = groups[1:] != groups[:-1]
    ranks: npt.NDArray[np.int64] = places - np.maximum.accumulate(np.where(new, places, 0))
    return ranks


def _matches(
    found: Found, labelled: Labelled, scored: Flags, classes: int, levels: Doubles
) -> tuple[Ints, npt.NDArray[np.uint8], Doubles]:
    """Return which detections of a block are matched, what that means, and how they overlap."""
    groups = _groups(found, classes)
    sides = _sides(found.xyxy)
    rows, objects, shared = _near(groups, sides, labelled, classes, levels[0])
    outside = np.flatnonzero(sides[2] * sides[3] > LARGEST)
    pairs = rows, objects, shared
    one, kinds, overlap = _chosen(groups, *pairs, scored, labelled.ignored, levels)
    if len(outside):
        every = np.union1d(one, outside)
        wide, iou = np.zeros((len(every), len(levels)), np.uint8), np.zeros(len(every))
        places = np.searchsorted(every, one)
        wide[places], iou[places] = kinds, overlap
        large = np.searchsorted(every, outside)
        wide[large] = np.where(wide[large] == 0, IGNORED, wide[large])
        return every, wide, iou
    return one, kinds, overlap


def _near(
    groups: Ints, sides: Doubles, labelled: Labelled, classes: int, least: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Doubles]:
    """Return all pairs of an image and class that overlap enough: detection, object, overlap."""
    others, theirs = _groups(labelled, classes), _sides(labelled.xyxy)
    first, last = (np.searchsorted(others, groups, side) for side in ("left", "right"))  # type: ignore[call-overload]
    some = np.flatnonzero(last > first)
    counts = (last - first)[some]
    ends = np.cumsum(counts)
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    begin = 0
    while begin < len(some):
        before = ends[begin - 1] if begin else 0
        end = max(int(np.searchsorted(ends, before + PAIRS, side="right")), begin + 1)
        few = counts[begin:end]
        rows = np.repeat(some[begin:end], few)
        step = np.arange(len(rows)) - np.repeat(np.cumsum(few) - few, few)
        objects = first[rows] + step
        shared = overlaps(sides[:, rows], theirs[:, objects], labelled.crowds[objects])
        near = shared >= least
        parts.append((rows[near], objects[near], shared[near]))
        begin = end
    rows, objects, shared = (np.concatenate(column) for column in zip(*parts, strict=True))
    return rows, objects, shared


def _chosen(
    groups: Ints, rows: Ints, objects: Ints, shared: Doubles, scored: Flags, ignored: Flags,
    levels: Doubles,
) -> tuple[Ints, npt.NDArray[np.uint8], Doubles]:  # fmt: skip
    """Let the detections of every image and class choose in turn, all images and classes at once.

    Args:
        groups: ``(n,)`` image and class of each detection.
        rows: ``(P,)`` detection of each pair that overlaps enough, rising.
        objects: ``(P,)`` its object.
        shared: ``(P,)`` its overlap.
        scored: Of the objects, those that can be found.
        ignored: Those that any number of detections may lie on.
        levels: ``(T,)`` thresholds.

    Returns:
        ``(m,)`` rising detections, ``(m, T)`` what was chosen, ``(m,)`` overlap at the first level.
    """
    those, pair = np.unique(rows, return_inverse=True)
    turns = _ranks(groups[those])
    # By turn and detection; within one the best is last: scored, closest, and of equals the last.
    order = np.lexsort((objects, shared, scored[objects], pair, turns[pair]))
    pair, objects, shared = pair[order], objects[order], shared[order]
    taken = np.zeros((len(ignored), len(levels)), np.bool_)
    kinds = np.zeros((len(those), len(levels)), np.uint8)
    overlap = np.zeros(len(those))
    ends = np.searchsorted(turns[pair], np.arange(turns.max(initial=-1) + 1), side="right")
    begin = 0
    for end in ends.tolist():
        own, near = pair[begin:end], objects[begin:end]
        free = (shared[begin:end, None] >= levels) & ~taken[near]
        places = np.where(free, np.arange(end - begin)[:, None], -1)
        starts = np.flatnonzero(np.diff(own, prepend=-1))
        best = np.maximum.reduceat(places, starts, axis=0)
        which, level = np.nonzero(best >= 0)
        place = best[which, level]
        chosen = near[place]
        once = ~ignored[chosen]
        taken[chosen[once], level[once]] = True
        kinds[own[starts[which]], level] = np.where(scored[chosen], HIT, IGNORED)
        first = level == 0
        overlap[own[starts[which[first]]]] = shared[begin + place[first]]
        begin = end
    return those, kinds, overlap


def _ordered(
    parts: Sequence[tuple[Any, ...]], classes: int, small: np.dtype[Any], levels: int
) -> Outcome:
    """Join blocks and put the detections of all images in COCO's order."""
    empty = (
        np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(0, small), np.zeros(0, np.int64),
        np.zeros((0, levels), np.uint8), np.zeros(0), np.zeros(0, np.int32), np.zeros(0, small),
    )  # fmt: skip
    columns = zip(empty, *parts, strict=True)
    scores, images, kind, rows, kinds, overlap, objects, theirs = map(np.concatenate, columns)
    order = np.argsort(kind, kind="stable")
    edges = _edges(kind[order], classes)
    for index in range(classes):
        cut = slice(*edges[index : index + 2])
        own = order[cut]
        order[cut] = own[np.argsort(-scores[own], kind="stable")]
    matched = np.zeros(len(scores), np.bool_)
    matched[rows] = True
    places = np.flatnonzero(matched[order])
    at = np.searchsorted(rows, order[places])
    by_class = np.argsort(theirs, kind="stable")
    return Outcome(
        edges, scores[order], images[order], places, kinds[at], overlap[at],
        _edges(theirs[by_class], classes), objects[by_class],
    )  # fmt: skip


def _edges(kinds: Ints, classes: int) -> Ints:
    """Return ``(K + 1,)`` where each of the classes begins in a sorted column of them."""
    names = np.arange(classes, dtype=kinds.dtype)  # of one type: else the column is copied
    return np.append(np.searchsorted(kinds, names), len(kinds))
