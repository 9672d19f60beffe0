"""`duet.families.decode` in numpy, for exported files: from a network's outputs to objects.

It gives what torch and torchvision give, to the bit, where the outputs are the same; ties are
settled as they lie.

Shape legend: C classes; A anchors; Q queries; N candidates, n objects.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from duet.defaults import CANDIDATES
from duet.families.greedy import overlaps, staying
from duet.families.outputs import Layout, View

Floats = npt.NDArray[np.float32]
Arrays = tuple[Floats, Floats, npt.NDArray[np.int64]]
"""``(n, 4)`` xyxy in input pixels, ``(n,)`` scores, ``(n,)`` class ids; best first."""


def decode(output: Floats, layout: Layout, size: tuple[int, int], view: View, limit: int) -> Arrays:
    """Return the objects in one image's output.

    Args:
        output: Without the batch dimension, see `duet.families.outputs`.
        layout: What the numbers mean.
        size: Height and width of the input in pixels.
        view: What counts; of it neither ``limit`` nor ``agnostic``.
        limit: At most this many objects remain.
    """
    least = np.asarray(view.confidence, np.float32)
    if layout == "anchors":
        return _suppressed(output, least, view, limit)
    if layout == "queries":
        scores_QC = output[:, 4:]
        queries, class_ids = np.nonzero(scores_QC > least)
        boxes, scores = output[queries, :4], scores_QC[queries, class_ids]
    else:
        class_ids = output[:, 5].astype(np.int64)  # `Detections` refuses ids that no class has
        if least.ndim:
            least = least[np.clip(class_ids, 0, len(least) - 1)]
        counts = output[:, 4] > least
        boxes, scores, class_ids = output[counts, :4], output[counts, 4], class_ids[counts]
    best = _best(scores, limit)
    boxes, scores, class_ids = boxes[best], scores[best], class_ids[best]
    if layout != "picked":
        boxes = _corners(boxes) * np.array((size[1], size[0]) * 2, np.float32)
    return boxes, scores, class_ids.astype(np.int64)


def _suppressed(y_XA: Floats, least: Any, view: View, limit: int) -> Arrays:
    """Return the objects of the layout ``anchors``: class-wise suppression of overlapping boxes."""
    scores_CA, least = y_XA[4:], least.reshape(-1, 1)
    counts_CA = scores_CA > least
    if view.multi_label:
        class_ids, anchors = np.nonzero(counts_CA)
    else:  # the best class of those that count; most anchors are nothing, and soon out of the way
        anchors = np.flatnonzero(counts_CA.any(0))
        class_ids = np.where(counts_CA[:, anchors], scores_CA[:, anchors], 0).argmax(0)
        order = np.argsort(class_ids, kind="stable")  # of equal scores the first class is first
        class_ids, anchors = class_ids[order], anchors[order]
    scores = scores_CA[class_ids, anchors]
    best = _best(scores, CANDIDATES)
    boxes, scores, class_ids = _corners(y_XA[:4, anchors[best]].T), scores[best], class_ids[best]
    kept = suppress(boxes, class_ids, view.iou, limit)
    return boxes[kept], scores[kept], class_ids[kept].astype(np.int64)


def suppress(
    boxes_N4: Floats, class_ids_N: npt.NDArray[Any], iou: float, limit: int
) -> npt.NDArray[np.intp]:
    """Return which boxes stay where none may overlap a better one of its class by more.

    Args:
        boxes_N4: xyxy float32, best first.
        class_ids_N: Their classes.
        iou: The most that two may overlap; compared in float64, as torchvision does it.
        limit: At most this many stay, the best.
    """
    most = np.float32(iou)
    if float(most) > iou:
        most = np.nextafter(most, np.float32(-1))
    places = np.argsort(class_ids_N, kind="stable")
    ends = np.flatnonzero(np.diff(class_ids_N[places])) + 1

    def staying_of(boxes: Floats) -> npt.NDArray[np.intp]:
        return staying(len(boxes), lambda n, m: overlaps(boxes[n], boxes[m]) > most, limit)

    kept = []
    for own in np.split(places, ends):
        kept.append(own[staying_of(boxes_N4[own])])
    return np.sort(np.concatenate(kept))[:limit]


def _best(scores_N: Floats, limit: int) -> npt.NDArray[np.intp]:
    """Return the places of the best scores, best first."""
    return np.argsort(-scores_N, kind="stable")[:limit]


def _corners(boxes_N4: Floats) -> Floats:
    """Return cxcywh boxes as xyxy, in the same unit."""
    half = boxes_N4[:, 2:] / 2
    return np.concatenate((boxes_N4[:, :2] - half, boxes_N4[:, :2] + half), 1)
