"""Average precision per class, from one faster-coco-eval run per (model, domain).

COCO matches and accumulates every class on its own (``maxDets`` is per image *and class*), so the
mAP of any class subset is the mean over that subset of the per-class values: evaluating all classes
once and slicing equals one run per subset with ``params.catIds``, at no extra cost.

Source: Lin et al., Microsoft COCO, ECCV 2014; the numbers equal pycocotools' (tests/test_ap.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from duet.detections import Detections, check_class_ids, frozen_array, remapped_ids
from duet.errors import ConfigError, DataError, did_you_mean
from duet.labels import LabelSpace

MAX_DETECTIONS = 100
"""Detections counted per image and class, the most confident first (COCO's value)."""

_EVERY_AREA = (0.0, 1e5**2)


@dataclass(frozen=True, eq=False)
class Truth:
    """The labelled objects of one image.

    Attributes:
        xyxy: ``(m, 4)`` float64, left, top, right, bottom in absolute pixels of the original image.
        class_ids: ``(m,)`` int64, position of the class in the label space of the evaluation.
        height: Image height in pixels.
        width: Image width in pixels.
    """

    xyxy: npt.NDArray[np.float64]
    class_ids: npt.NDArray[np.int64]
    height: int
    width: int

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


@dataclass(frozen=True)
class ClassAP:
    """Average precision of every class of a label space; None where nothing is labelled.

    Attributes:
        ap50: Class name -> AP at IoU 0.50, a fraction in ``[0, 1]``.
        ap: Class name -> AP averaged over IoU 0.50:0.05:0.95.
    """

    ap50: Mapping[str, float | None]
    ap: Mapping[str, float | None] = field(repr=False)

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
        return ClassAP({**absent, **self.ap50}, {**absent, **self.ap})

    def has_truth(self, names: Iterable[str]) -> bool:
        """Tell whether at least one of ``names`` has a labelled object."""
        return any(self.ap50.get(name) is not None for name in names)


def evaluate_ap(
    predictions: Sequence[Detections], truths: Sequence[Truth], labels: LabelSpace
) -> ClassAP:
    """Compare the detections of one model with the labels of one domain.

    Predicted classes are matched to ``labels`` by name. Predictions of classes outside ``labels``
    cannot change the AP of the classes inside, so they are left out.

    Args:
        predictions: One entry per image, in the order of ``truths``; any confidence, unfiltered.
        truths: One entry per image; ``class_ids`` refer to ``labels``.
        labels: The classes to evaluate.

    Returns:
        AP50 and AP50-95 per class as fractions; None for classes without a labelled object.

    Raises:
        DataError: The two sequences differ in length, are empty, a truth id is out of range, or
            a detector shares no class name with ``labels``.
    """
    _check(predictions, truths, labels)
    precision = _precision(predictions, truths, labels)
    labelled = {int(index) for truth in truths for index in truth.class_ids}
    ap50: dict[str, float | None] = {}
    ap: dict[str, float | None] = {}
    for index, name in enumerate(labels):
        # (IoU threshold, recall point) of one class; every area, MAX_DETECTIONS.
        table = precision[:, :, index] if index in labelled else None
        ap50[name] = None if table is None else float(table[0].mean())
        ap[name] = None if table is None else float(table.mean())
    return ClassAP(ap50, ap)


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


def _precision(
    predictions: Sequence[Detections], truths: Sequence[Truth], labels: LabelSpace
) -> npt.NDArray[np.float64]:
    """Return ``(IoU thresholds, recall points, classes)`` float64; -1 where nothing is labelled."""
    found = _detection_records(predictions, labels)
    labelled = _truth_records(truths)
    if not found or not labelled:  # the library refuses an empty side
        return np.zeros((10, 101, len(labels)))
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
    run.params.areaRng, run.params.areaRngLbl = [list(_EVERY_AREA)], ["all"]
    run.evaluate()
    run.accumulate()
    precision = np.asarray(run.eval["precision"], np.float64)  # (T, R, K, areas, maxDets)
    return precision[:, :, :, 0, 0]


def _truth_records(truths: Sequence[Truth]) -> list[dict[str, Any]]:
    return _numbered(
        _record(image, index, box) | {"iscrowd": 0}
        for image, truth in enumerate(truths)
        for index, box in zip(truth.class_ids, truth.xyxy, strict=True)
    )


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


def _quiet(*_: object) -> None:
    """Swallow the library's progress lines: libraries return facts, they do not print."""
