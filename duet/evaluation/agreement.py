"""How much of what one detector finds another one finds too, on images that nobody labelled.

Retention as AP needs the labels of the old classes. Where their images are gone, the earlier
detector is the only witness: what it found on the pictures at hand, at the threshold in use, must
still be found.

Shape legend: n boxes of one image, ``xyxy`` px of the original image.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from duet.detections import Detections
from duet.errors import DataError

IOU = 0.5
"""Smallest overlap of two boxes of one object."""


@dataclass(frozen=True)
class Agreement:
    """What became of the detections of an earlier detector.

    Attributes:
        images: Images that both looked at.
        before: Detections of the earlier one.
        kept: Those of them that the later one finds: same class, overlap of `IOU` or more.
        renamed: Those that are not kept, where it sees a class that the earlier one does not know.
        added: Detections of the earlier one's classes that only the later one makes.
        per_class: Class name -> (before, kept, renamed, added), of classes that either found.
    """

    images: int
    before: int
    kept: int
    renamed: int
    added: int
    per_class: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def share(self) -> float | None:
        """Kept detections over all of the earlier detector; None if it found nothing."""
        return self.kept / self.before if self.before else None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {**asdict(self), "share": self.share, "iou": IOU}

    def as_text(self) -> str:
        """Return one line for people."""
        share = "" if self.share is None else f" ({100 * self.share:.1f} %)"
        renamed = f", {self.renamed} are a new class now" if self.renamed else ""
        return (
            f"{self.kept} of {self.before} detections of the other classes{share}{renamed}, "
            f"{self.added} added, on {self.images} images (IoU {IOU}, at the threshold in use)"
        )


def agreement(
    before: Sequence[Detections],
    after: Sequence[Detections],
    classes: Collection[str] | None = None,
) -> Agreement:
    """Compare two detectors on the same images.

    Args:
        before: Of the earlier detector, what its users are shown, one entry per image.
        after: Of the later one, which may know more classes.
        classes: Those of the earlier one that count; by default all.

    Raises:
        DataError: They are not of equally many images.
    """
    if len(before) != len(after):
        raise DataError(f"expected detections of {len(before)} images, got {len(after)}")
    rows: dict[str, tuple[int, ...]] = {}
    for old, new in zip(before, after, strict=True):
        fresh = new.of([name for name in new.labels if name not in old.labels])
        for name in dict.fromkeys((*old.names, *new.names)):
            if name in old.labels and (classes is None or name in classes):
                found = _matched(old.of([name]), new.of([name]), fresh)
                rows[name] = tuple(map(sum, zip(rows.get(name, (0,) * 4), found, strict=True)))
    totals = [sum(row[place] for row in rows.values()) for place in range(4)]
    return Agreement(len(before), totals[0], totals[1], totals[2], totals[3], rows)


def _matched(old: Detections, new: Detections, fresh: Detections) -> tuple[int, int, int, int]:
    """Return how many detections of one class there were, are kept, are another class, are new."""
    from scipy.optimize import linear_sum_assignment

    shared = overlaps(old, new)
    # As many pairs as possible first, then the closest.
    rows, columns = linear_sum_assignment((shared >= IOU) + shared / 1e4, maximize=True)
    kept = rows[shared[rows, columns] >= IOU]
    lost = np.setdiff1d(np.arange(len(old)), kept)
    renamed = np.count_nonzero((overlaps(old, fresh)[lost] >= IOU).any(axis=1))
    return len(old), len(kept), int(renamed), len(new) - len(kept)


def overlaps(old: Detections, new: Detections) -> npt.NDArray[np.float64]:
    """Return the ``(n, m)`` IoU of two sets of boxes."""
    from supervision import box_iou_batch

    if not len(old) or not len(new):
        return np.zeros((len(old), len(new)))
    return np.asarray(box_iou_batch(old.xyxy, new.xyxy), np.float64)
