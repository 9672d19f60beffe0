"""How much of what one detector finds another one finds too, on images that nobody labelled.

Retention as AP needs the labels of the old classes. Where their images are gone, the earlier
detector is the only witness: what it found on the pictures at hand, at the threshold in use, must
still be found.

Shape legend: n boxes of one image, ``xyxy`` px of the original image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from duet.detections import Detections
from duet.errors import DataError

CONFIDENCE, IOU = 0.25, 0.5
"""Lowest score that counts, as when predicting; smallest overlap of two boxes of one object."""


@dataclass(frozen=True)
class Agreement:
    """What became of the detections of an earlier detector.

    Attributes:
        images: Images that both looked at.
        before: Detections of the earlier one.
        kept: Those of them that the later one finds: same class, overlap of `IOU` or more.
        added: Detections of the same classes that only the later one makes.
        per_class: Class name -> (before, kept, added), of classes that either found.
    """

    images: int
    before: int
    kept: int
    added: int
    per_class: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def share(self) -> float | None:
        """Kept detections over all of the earlier detector; None if it found nothing."""
        return self.kept / self.before if self.before else None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {**asdict(self), "share": self.share, "confidence": CONFIDENCE, "iou": IOU}

    def as_text(self) -> str:
        """Return one line for people."""
        share = "" if self.share is None else f" ({100 * self.share:.1f} %)"
        return (
            f"{self.kept} of {self.before} detections of the other classes{share}, {self.added} "
            f"added, on {self.images} images (IoU {IOU}, score {CONFIDENCE} or more)"
        )


def agreement(before: Sequence[Detections], after: Sequence[Detections]) -> Agreement:
    """Compare two detectors on the same images, in the classes that the earlier one knows.

    Args:
        before: Of the earlier detector, one entry per image.
        after: Of the later one, which may know more classes.

    Raises:
        DataError: They are not of equally many images.
    """
    if len(before) != len(after):
        raise DataError(f"expected detections of {len(before)} images, got {len(after)}")
    counts: dict[str, list[int]] = {}
    for old, new in zip(before, after, strict=True):
        old, new = old.above(CONFIDENCE), new.above(CONFIDENCE)
        for name in dict.fromkeys((*old.names, *new.names)):
            if name in old.labels:
                pair = (one.of([name]) for one in (old, new))
                found = counts.setdefault(name, [0, 0, 0])
                for place, number in enumerate(_matched(*pair)):
                    found[place] += number
    rows = {name: (a, b, c) for name, (a, b, c) in counts.items()}
    totals = [sum(row[place] for row in rows.values()) for place in range(3)]
    return Agreement(len(before), totals[0], totals[1], totals[2], rows)


def _matched(old: Detections, new: Detections) -> tuple[int, int, int]:
    """Return how many detections of one class the old side has, how many are kept, how many new."""
    from scipy.optimize import linear_sum_assignment
    from supervision import box_iou_batch

    kept = 0
    if len(old) and len(new):
        overlaps = np.asarray(box_iou_batch(old.xyxy, new.xyxy))
        # As many pairs as possible first, then the closest.
        rows, columns = linear_sum_assignment((overlaps >= IOU) + overlaps / 1e4, maximize=True)
        kept = int((overlaps[rows, columns] >= IOU).sum())
    return len(old), kept, len(new) - kept
