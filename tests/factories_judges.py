"""The two programs that judge AP and matches: faster-coco-eval and pycocotools, box by box."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from duet.detections import Detections
from duet.evaluation.ap import Truth
from duet.labels import LabelSpace

Row = tuple[int, int, int, bool, bool, float]
"""(image, class, rank in both, hit, ignored, IoU of a hit) of one counted detection."""


def records(items: Sequence[Detections | Truth]) -> list[dict[str, Any]]:
    """Return a COCO record per box; ``ignored`` and ``crowd`` beside COCO's own keys."""
    made: list[dict[str, Any]] = []
    for image, item in enumerate(items):
        for row, (box, index) in enumerate(zip(item.xyxy, item.class_ids, strict=True)):
            left, top, right, bottom = (float(value) for value in box)
            width, height = max(0.0, right - left), max(0.0, bottom - top)
            entry: dict[str, Any] = {
                "id": len(made) + 1, "image_id": image, "category_id": int(index),
                "bbox": [left, top, width, height], "area": width * height, "iscrowd": 0,
            }  # fmt: skip
            if isinstance(item, Truth):
                entry["ignored"] = int(item.ignored[row])
                entry["crowd"] = int(item.crowds[row])
            else:
                entry["score"] = float(item.scores[row])
            made.append(entry)
    return made


def pycocotools(
    predictions: Sequence[Detections],
    truths: Sequence[Truth],
    labels: LabelSpace,
    subset: Sequence[int] | None = None,
) -> tuple[list[float | None], list[float | None], list[Row]]:
    """Return AP50 and AP50-95 per class, None where nothing is scored, and matches at IoU 0.5.

    Of all classes, or with ``params.catIds = subset`` of those.

    All ignored objects are ``iscrowd``; those that are no crowds get the IoU of other objects.
    """
    from pycocotools import mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    class PlainIoU(COCOeval):
        def computeIoU(self, image: int, category: int) -> object:  # noqa: N802
            labelled, found = self._gts[image, category], self._dts[image, category]
            order = np.argsort([-item["score"] for item in found], kind="mergesort")
            boxes = [found[index]["bbox"] for index in order[: self.params.maxDets[-1]]]
            crowds = [item["crowd"] for item in labelled]
            return mask.iou(boxes, [item["bbox"] for item in labelled], crowds)

    annotations = records(truths)
    for entry in annotations:
        entry["iscrowd"] = entry["ignored"]
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for made in (annotations, records(predictions)):
            side = COCO()
            side.dataset = {**_frame(truths, labels), "annotations": made}
            side.createIndex()
            sides.append(side)
        run = PlainIoU(*sides, iouType="bbox")
        run.params.maxDets = [100]
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e5**2]], ["all"]
        if subset is not None:
            run.params.catIds = list(subset)
        run.evaluate()
        run.accumulate()
    rows: list[Row] = []
    for entry in filter(None, run.evalImgs):
        image, index = entry["image_id"], entry["category_id"]
        for rank, (match, ignored) in enumerate(
            zip(entry["dtMatches"][0], entry["dtIgnore"][0], strict=True)
        ):
            hit = bool(match) and not ignored
            iou = 0.0
            if hit:
                place = [item["id"] for item in run._gts[image, index]].index(int(match))
                iou = float(run.ious[image, index][rank][place])
            rows.append((image, index, rank, hit, bool(ignored), iou))
    return *_per_class(run.eval["precision"]), sorted(rows)


def faster_coco_eval(
    predictions: Sequence[Detections], truths: Sequence[Truth], labels: LabelSpace
) -> tuple[list[float | None], list[float | None]]:
    """Return AP50 and AP50-95 per class, None where nothing is scored.

    An ignored object that is no crowd gets an area that no area range holds, which COCO ignores at
    plain IoU. As that lets one detection match it, there is a copy for each that could.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    found = records(predictions)
    guesses = Counter((entry["image_id"], entry["category_id"]) for entry in found)
    labelled: list[dict[str, Any]] = []
    for entry in records(truths):
        entry["iscrowd"] = entry["crowd"]
        copies = 1
        if entry["ignored"] and not entry["crowd"]:
            entry["area"] = 3 * 1e5**2
            copies = min(guesses[entry["image_id"], entry["category_id"]], 100)
        labelled += [dict(entry) for _ in range(copies)]
    labelled = [{**entry, "id": number} for number, entry in enumerate(labelled, start=1)]
    if not found or not labelled:  # which it refuses
        scored = {entry["category_id"] for entry in labelled if not entry["ignored"]}
        nothing = [0.0 if index in scored else None for index in range(len(labels))]
        return nothing, nothing
    frame = _frame(truths, labels)
    run = COCOeval_faster(
        COCO({**frame, "annotations": labelled}, print_function=_quiet),
        COCO({**frame, "annotations": found}, print_function=_quiet),
        iouType="bbox", print_function=_quiet,
    )  # fmt: skip
    run.params.maxDets = [100]
    run.params.areaRng, run.params.areaRngLbl = [[0, 1e5**2]], ["all"]
    run.evaluate()
    run.accumulate()
    return _per_class(run.eval["precision"])


def _per_class(precision: Any) -> tuple[list[float | None], list[float | None]]:
    table = np.asarray(precision, np.float64)[..., 0, 0]  # IoU, recall, class, area, detections
    there = (table > -1).all(axis=(0, 1))
    ap50, ap = (
        [
            float(table[cut, :, index].mean()) if there[index] else None
            for index in range(len(there))
        ]
        for cut in (0, slice(None))
    )
    return ap50, ap


def _frame(truths: Sequence[Truth], labels: LabelSpace) -> dict[str, Any]:
    return {
        "images": [{"id": i, "height": t.height, "width": t.width} for i, t in enumerate(truths)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(labels)],
    }


def _quiet(*_: object) -> None:
    """Swallow progress lines."""
