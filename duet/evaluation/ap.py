"""Average precision per class, as COCO defines it, from matches (`duet.evaluation.matching`).

COCO matches and accumulates every class on its own (``maxDets`` is per image *and class*), so the
mAP of any class subset is the mean over that subset of the per-class values: evaluating all classes
once and slicing equals one run per subset with ``params.catIds``, at no extra cost.

Source: Lin et al., Microsoft COCO, ECCV 2014; the numbers equal faster-coco-eval's to the bit and
pycocotools' within rounding (tests/evaluation/test_judges.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from duet.detections import Detections, check_class_ids, frozen_array, remapped_ids
from duet.errors import ConfigError, DataError, did_you_mean
from duet.evaluation.matching import (
    BLOCK,
    HIT,
    IGNORED,
    MAX_DETECTIONS,
    Found,
    Labelled,
    Outcome,
    match_blocks,
)
from duet.labels import LabelSpace

THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""COCO's smallest overlaps, computed as COCO does; the first is that of AP50."""

RECALLS = np.linspace(0.0, 1.0, 101)
"""COCO's recall points, computed as COCO does: comparisons with them must round alike."""


@dataclass(frozen=True, eq=False)
class Truth:
    """The labelled objects of one image.

    Attributes:
        xyxy: ``(m, 4)`` float64, left, top, right, bottom in absolute pixels of the original image.
        class_ids: ``(m,)`` int64, position of the class in the label space of the evaluation.
        height: Image height in pixels.
        width: Image width in pixels.
        ignored: ``(m,)`` bool, objects that are not scored; none by default. A detection of one
            counts neither way: it is no hit and no false alarm.
        crowds: ``(m,)`` bool, ignored regions of many objects. What overlaps is then measured by
            the share of the detection that lies in the region, as COCO does, else by IoU.
    """

    xyxy: npt.NDArray[np.float64]
    class_ids: npt.NDArray[np.int64]
    height: int
    width: int
    ignored: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    crowds: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __post_init__(self) -> None:
        xyxy = frozen_array("xyxy", self.xyxy, np.float64, columns=4)
        class_ids = frozen_array("class_ids", self.class_ids, np.int64)
        if len(class_ids) != len(xyxy):
            raise DataError(
                f"class_ids must have shape ({len(xyxy)},) like xyxy, but got {class_ids.shape}"
            )
        if self.height < 1 or self.width < 1:
            raise DataError(f"an image must be 1 x 1 or larger, got {self.height} x {self.width}")
        inverted = np.flatnonzero((xyxy[:, 2:] < xyxy[:, :2]).any(axis=1))
        if inverted.size:
            raise DataError(
                f"box {inverted[0]} ends before it begins: {xyxy[inverted[0]].tolist()}",
                remedy="boxes are left, top, right, bottom in pixels",
            )
        object.__setattr__(self, "xyxy", xyxy)
        object.__setattr__(self, "class_ids", class_ids)
        for name in ("ignored", "crowds"):
            object.__setattr__(self, name, _flags(name, getattr(self, name), len(class_ids)))
        if (self.crowds & ~self.ignored).any():
            raise DataError("a crowd is ignored: 'ignored' must be true where 'crowds' is")


@dataclass(frozen=True)
class ClassAP:
    """Average precision of every class of a label space; None where nothing is labelled.

    Ignored objects are not labelled in this sense.

    Attributes:
        ap50: Class name -> AP at IoU 0.50, a fraction in ``[0, 1]``.
        ap: Class name -> AP averaged over IoU 0.50:0.05:0.95.
        evidence: File of the matches behind it (`duet.evaluation.matches`), relative to the run
            folder; None where they are not kept.
        seen: File of what users are shown (`duet.evaluation.deployment`), likewise.
        objects: Class name -> labelled objects, ignored ones left out; empty where nobody counted.
    """

    ap50: Mapping[str, float | None]
    ap: Mapping[str, float | None] = field(repr=False)
    evidence: str | None = None
    seen: str | None = None
    objects: Mapping[str, int] = field(default_factory=dict)

    def map50(self, names: Iterable[str]) -> float:
        """Return the mean AP50 over those of ``names`` that have labelled objects.

        Raises:
            ConfigError: A name is not in the label space of the evaluation.
            DataError: None of the names has a labelled object.
        """
        return _mean(self.ap50, tuple(names))

    def map(self, names: Iterable[str]) -> float:
        """Return the mean AP50-95 over those of ``names`` that have labelled objects.

        Raises:
            ConfigError: A name is not in the label space of the evaluation.
            DataError: None of the names has a labelled object.
        """
        return _mean(self.ap, tuple(names))

    def covering(self, names: Iterable[str]) -> ClassAP:
        """Return the same with None for those of ``names`` that the data set does not have."""
        absent: dict[str, float | None] = dict.fromkeys(names)
        return replace(self, ap50={**absent, **self.ap50}, ap={**absent, **self.ap})

    def has_truth(self, names: Iterable[str]) -> bool:
        """Tell whether at least one of ``names`` has a labelled object."""
        return any(self.ap50.get(name) is not None for name in names)


def evaluate_ap(
    predictions: Sequence[Detections], truths: Sequence[Truth], labels: LabelSpace
) -> ClassAP:
    """Compare the detections of one model with the labels of one domain.

    Predicted classes are matched to ``labels`` by name. Predictions of classes outside ``labels``
    cannot change the AP of the classes inside, so they are left out.

    Ignored objects are matched last, as COCO matches crowds: a detection takes the free object that
    it overlaps most, and an ignored one only if there is no other; any number of detections may be
    on one ignored object. (VOC's own program takes the most overlapped object of all, so a
    detection between two objects may count differently there.)

    Args:
        predictions: One entry per image, in the order of ``truths``; any confidence, unfiltered.
        truths: One entry per image; ``class_ids`` refer to ``labels``.
        labels: The classes to evaluate.

    Returns:
        AP50 and AP50-95 per class as fractions, None for classes without a labelled object; and how
        many of these there are.

    Raises:
        DataError: The two sequences differ in length, are empty, a truth id is out of range, or
            a detector shares no class name with ``labels``.
    """
    return ap_of(compared(predictions, truths, labels, THRESHOLDS, common=True), labels)


def compared(
    predictions: Sequence[Detections],
    truths: Sequence[Truth],
    labels: LabelSpace,
    thresholds: Sequence[float],
    *,
    common: bool = False,
) -> Outcome:
    """Match the detections of one model with the labels of one domain; arguments as `evaluate_ap`.

    Args:
        predictions: One entry per image.
        truths: One entry per image.
        labels: The classes to evaluate; their positions are those of the outcome.
        thresholds: Smallest overlaps of a match, rising.
        common: Refuse a detector that knows none of the classes, and no image at all.

    Raises:
        DataError: The two sequences differ in length, a truth id is out of range, or ``common``.
    """
    if len(predictions) != len(truths) or (common and not truths):
        raise DataError(
            f"one prediction per labelled image is needed (1 or more), got {len(predictions)} "
            f"predictions and {len(truths)} images"
        )
    if common:
        _require_common(predictions, labels)
    return match_blocks(_blocks(predictions, truths, labels), len(labels), thresholds)


def ap_of(outcome: Outcome, labels: LabelSpace) -> ClassAP:
    """Return the AP of matches at `THRESHOLDS`."""
    ap50: dict[str, float | None] = {}
    ap: dict[str, float | None] = {}
    objects: dict[str, int] = {}
    for index, name in enumerate(labels):
        every, rows, theirs = outcome.of(index)
        objects[name] = int(theirs.stop - theirs.start)
        table = None
        if objects[name]:
            places = outcome.rows[rows] - every.start
            table = _interpolated(places, outcome.kinds[rows], objects[name])
        ap50[name] = None if table is None else float(table[0].mean())
        ap[name] = None if table is None else float(table.mean())
    return ClassAP(ap50, ap, objects=objects)


def _interpolated(
    places: npt.NDArray[Any], kinds: npt.NDArray[np.uint8], objects: int
) -> npt.NDArray[np.float64]:
    """Return ``(T, 101)``: the interpolated precision of one class at COCO's recall points.

    It rises only where an object is found, so that other detections only count.

    Args:
        places: ``(m,)`` rising positions of the matched detections among all of the class.
        kinds: ``(m, T)`` what the matches mean.
        objects: How many there are to find, 1 or more.
    """
    counted = places[:, None] + 1 - np.cumsum(kinds == IGNORED, axis=0)
    table = np.zeros((kinds.shape[1], len(RECALLS)))
    for level, row in enumerate(table):
        found = counted[kinds[:, level] == HIT, level]
        hits = np.arange(1, len(found) + 1)
        envelope = np.maximum.accumulate((hits / found)[::-1])[::-1]
        row[:] = np.append(envelope, 0.0)[np.searchsorted(hits / objects, RECALLS)]
    return table


def backend() -> dict[str, Any]:
    """Return the name, version and parameters of the AP computation, for `results.json`."""
    from importlib.metadata import version

    return {
        "name": "duet",
        "version": version("duet-detect"),
        "parameters": {
            "iou_thresholds": "0.50:0.05:0.95",
            "recall_points": 101,
            "max_detections": MAX_DETECTIONS,
            "area": "all",
            "ignored_objects": "difficult: neither way, by IoU; crowds: as COCO",
        },
    }


def _mean(values: Mapping[str, float | None], names: tuple[str, ...]) -> float:
    unknown = [name for name in names if name not in values]
    if unknown:
        raise ConfigError(
            f"unknown class '{unknown[0]}'{did_you_mean(unknown[0], values)}",
            remedy=f"evaluated classes: {', '.join(values)}",
        )
    present = [value for name in names if (value := values[name]) is not None]
    if not present:
        raise DataError(
            f"no labelled object of any of these classes: {', '.join(names) or '(none given)'}",
            remedy="choose classes that occur in the evaluation split, or another split",
        )
    return float(np.mean(present))


def _require_common(predictions: Sequence[Detections], labels: LabelSpace) -> None:
    for known in {id(item.labels): item.labels for item in predictions}.values():
        if not any(name in labels for name in known):
            raise DataError(
                f"the detector knows none of the evaluated classes: it knows "
                f"{', '.join(known) or 'no class'}; evaluated are {', '.join(labels)}",
                remedy="classes are matched by name: rename the classes of one side",
            )


def _blocks(
    predictions: Sequence[Detections], truths: Sequence[Truth], labels: LabelSpace
) -> Iterator[tuple[Found, Labelled]]:
    """Yield detections of ``labels`` and objects as columns, some images at a time."""
    new: dict[int, npt.NDArray[np.int64]] = {}  # of a label space, all of which stay alive
    for item in predictions:
        if id(item.labels) not in new:
            new[id(item.labels)] = remapped_ids(item.labels, labels)
    ends = np.cumsum([len(item) + 1 for item in predictions])  # an image without any counts, too
    begin = 0
    while begin < len(predictions):
        before = ends[begin - 1] if begin else 0
        end = max(int(np.searchsorted(ends, before + BLOCK, side="right")), begin + 1)
        found, there = predictions[begin:end], truths[begin:end]
        classes = np.concatenate([new[id(item.labels)][item.class_ids] for item in found])
        known = classes >= 0
        yield (
            Found(
                np.concatenate([item.xyxy for item in found])[known],
                classes[known],
                np.repeat(np.arange(begin, end), [len(item) for item in found])[known],
                np.concatenate([item.scores for item in found])[known],
            ),
            _labelled(there, begin, labels),
        )
        begin = end


def _labelled(truths: Sequence[Truth], first: int, labels: LabelSpace) -> Labelled:
    """Return the objects of some images, which count from ``first``, as columns."""
    classes = np.concatenate([truth.class_ids for truth in truths])
    check_class_ids(classes, labels)
    return Labelled(
        np.concatenate([truth.xyxy for truth in truths]),
        classes,
        np.repeat(np.arange(first, first + len(truths)), [len(t.class_ids) for t in truths]),
        np.concatenate([truth.ignored for truth in truths]),
        np.concatenate([truth.crowds for truth in truths]),
    )


def _flags(name: str, value: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.bool_]:
    """Return ``(count,)`` read-only bool; nothing stands for none."""
    flags = np.array(value, np.bool_) if len(value) else np.zeros(count, np.bool_)
    if flags.shape != (count,):
        raise DataError(f"{name} must have shape ({count},) like class_ids, but got {flags.shape}")
    flags.setflags(write=False)
    return flags
