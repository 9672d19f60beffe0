"""Average precision per class, from one faster-coco-eval run per (model, domain).

COCO matches and accumulates every class on its own (``maxDets`` is per image *and class*), so the
mAP of any class subset is the mean over that subset of the per-class values: evaluating all classes
once and slicing equals one run per subset with ``params.catIds``, at no extra cost.

Source: Lin et al., Microsoft COCO, ECCV 2014; the numbers equal pycocotools'
(tests/evaluation/test_ap.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from duet.detections import Detections, check_class_ids, frozen_array, remapped_ids
from duet.errors import ConfigError, DataError, did_you_mean
from duet.labels import LabelSpace

MAX_DETECTIONS = 100
"""Detections counted per image and class, the most confident first (COCO's value)."""

EVERY_AREA = (0.0, 1e5**2)
"""Square pixels: COCO ignores unmatched detections outside, and objects."""

_NO_AREA = 2 * EVERY_AREA[1]


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
    _check(predictions, truths, labels)
    run = coco_run(predictions, truths, labels)
    precision = np.zeros((10, 101, len(labels)))  # IoU threshold, recall point, class
    if run is not None:  # (..., areas, maxDets)
        precision = np.asarray(run.eval["precision"], np.float64)[..., 0, 0]
    labelled = Counter(int(i) for truth in truths for i in truth.class_ids[~truth.ignored])
    ap50: dict[str, float | None] = {}
    ap: dict[str, float | None] = {}
    for index, name in enumerate(labels):
        table = precision[:, :, index] if index in labelled else None
        ap50[name] = None if table is None else float(table[0].mean())
        ap[name] = None if table is None else float(table.mean())
    objects = {name: labelled[index] for index, name in enumerate(labels)}
    return ClassAP(ap50, ap, objects=objects)


def backend() -> dict[str, Any]:
    """Return the name, version and parameters of the AP computation, for `results.json`."""
    from importlib.metadata import version

    return {
        "name": "faster-coco-eval",
        "version": version("faster-coco-eval"),
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


def _check(predictions: Sequence[Detections], truths: Sequence[Truth], labels: LabelSpace) -> None:
    if len(predictions) != len(truths) or not truths:
        raise DataError(
            f"one prediction per labelled image is needed (1 or more), got {len(predictions)} "
            f"predictions and {len(truths)} images"
        )
    for truth in truths:
        check_class_ids(truth.class_ids, labels)
    for known in {id(item.labels): item.labels for item in predictions}.values():
        if not remapped_ids(known, labels):
            raise DataError(
                f"the detector knows none of the evaluated classes: it knows "
                f"{', '.join(known) or 'no class'}; evaluated are {', '.join(labels)}",
                remedy="classes are matched by name: rename the classes of one side",
            )


def coco_run(
    predictions: Sequence[Detections],
    truths: Sequence[Truth],
    labels: LabelSpace,
    thresholds: Sequence[float] | None = None,
) -> Any:
    """Return a finished `COCOeval_faster`, or None where one side is empty: it refuses that.

    Args:
        predictions: One entry per image.
        truths: One entry per image.
        labels: The classes to evaluate; their positions are the category ids.
        thresholds: IoU thresholds; default COCO's ten.
    """
    found = _detection_records(predictions, labels)
    labelled = _truth_records(truths, found)
    if not found or not labelled:
        return None
    from faster_coco_eval import COCO, COCOeval_faster

    frame = {
        "images": [
            {"id": index, "height": truth.height, "width": truth.width}
            for index, truth in enumerate(truths)
        ],
        "categories": [{"id": index, "name": name} for index, name in enumerate(labels)],
    }
    run = COCOeval_faster(
        COCO({**frame, "annotations": labelled}, print_function=_quiet),
        COCO({**frame, "annotations": found}, print_function=_quiet),
        iouType="bbox",
        print_function=_quiet,
    )
    run.params.maxDets = [MAX_DETECTIONS]
    run.params.areaRng, run.params.areaRngLbl = [list(EVERY_AREA)], ["all"]
    if thresholds is not None:
        run.params.iouThrs = np.asarray(thresholds, np.float64)
    run.evaluate()
    run.accumulate()
    for truth in run.cocoGt.dataset["annotations"]:  # the library marks crowds only
        truth["ignore"] = int(truth["ignore"] or truth["area"] == _NO_AREA)
    return run


def _truth_records(
    truths: Sequence[Truth], found: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return COCO annotations of the objects, ignored ones marked so that they do not count.

    COCO's only mark is ``iscrowd``, which also replaces IoU. A single ignored object is therefore
    given an area that no area range holds, which COCO ignores at plain IoU. As that lets only one
    detection match it, there is a copy for each detection that could.
    """
    guesses = Counter((record["image_id"], record["category_id"]) for record in found)
    records: list[dict[str, Any]] = []
    for image, truth in enumerate(truths):
        columns = (truth.class_ids, truth.xyxy, truth.ignored, truth.crowds)
        for index, box, ignored, crowd in zip(*columns, strict=True):
            record = _record(image, index, box) | {"iscrowd": int(crowd)}
            if not ignored or crowd:
                records.append(record)
                continue
            copies = min(guesses[image, int(index)], MAX_DETECTIONS)
            records += [{**record, "area": _NO_AREA} for _ in range(copies)]
    return _numbered(records)


def _detection_records(
    predictions: Sequence[Detections], labels: LabelSpace
) -> list[dict[str, Any]]:
    return _numbered(
        _record(image, ids[int(index)], box) | {"score": float(score)}
        for image, item in enumerate(predictions)
        for ids in (remapped_ids(item.labels, labels),)
        for index, score, box in zip(item.class_ids, item.scores, item.xyxy, strict=True)
        if int(index) in ids
    )


def _record(image: int, index: int, box: npt.NDArray[Any]) -> dict[str, Any]:
    left, top, right, bottom = (float(value) for value in box)
    # An inverted box has no area: a negative one would fall outside every COCO area range and
    # silently stop counting as a false positive.
    width, height = max(0.0, right - left), max(0.0, bottom - top)
    return {
        "image_id": image,
        "category_id": int(index),
        "bbox": [left, top, width, height],
        "area": width * height,
    }


def _numbered(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    # Ids start at 1: the evaluators read a match with id 0 as "no match".
    return [{"id": number, **record} for number, record in enumerate(records, start=1)]


def _flags(name: str, value: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.bool_]:
    """Return ``(count,)`` read-only bool; nothing stands for none."""
    flags = np.array(value, np.bool_) if len(value) else np.zeros(count, np.bool_)
    if flags.shape != (count,):
        raise DataError(f"{name} must have shape ({count},) like class_ids, but got {flags.shape}")
    flags.setflags(write=False)
    return flags


def _quiet(*_: object) -> None:
    """Swallow the library's progress lines: libraries return facts, they do not print."""
