"""Images in, `Detections` out, by an exported file; no torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from duet.defaults import IOU, Agnostic, Confidence
from duet.detections import Detections
from duet.families.arrays import decode
from duet.families.doubles import Rivals, one_each, rivals_of
from duet.families.exportable import ExportFacts
from duet.families.inputs import alike, stacked
from duet.families.outputs import View
from duet.families.runtimes import Run
from duet.images import Fitted
from duet.labels import LabelSpace


@dataclass(frozen=True)
class FileDetector:
    """An exported file that is ready to look at images, as `duet.families.detector.ImageDetector`.

    Attributes:
        run: Runs it.
        labels: Class names in the order of the outputs.
        increments: As of an `ImageDetector`.
        facts: What the file says of its input and outputs.
        batch: Largest batch.
    """

    run: Run
    labels: LabelSpace
    increments: tuple[str, ...]
    facts: ExportFacts
    batch: int = 1

    def __call__(
        self,
        images: Sequence[np.ndarray],
        *,
        confidence: Confidence = 0.001,
        iou: float = IOU,
        limit: int = 300,
        multi_label: bool = False,
        agnostic: Agnostic = "off",
    ) -> list[Detections]:
        """Detect on BGR uint8 images of any size; boxes are xyxy px of each original image."""
        view, facts = View(confidence, iou, limit, multi_label, agnostic), self.facts
        rivals = rivals_of(agnostic, self.labels, self.increments)
        found: dict[int, Detections] = {}
        for places, fitted in alike(images, facts.image_size, facts.fit, facts.stride, self.batch):
            rows = self.run(stacked(fitted))
            for place, row, one in zip(places, rows, fitted, strict=True):
                found[place] = self._seen(row, one, view, rivals)
        return [found[place] for place in range(len(images))]

    def _seen(self, row: np.ndarray, one: Fitted, view: View, rivals: Rivals | None) -> Detections:
        height, width = one.pixels.shape[:2]
        limit = view.limit if rivals is None else sys.maxsize  # it is for what remains
        boxes, scores, class_ids = decode(row, self.facts.layout, (height, width), view, limit)
        found = Detections(one.to_original(boxes), scores, class_ids, self.labels)
        return found if rivals is None else one_each(found, rivals, view.limit)
