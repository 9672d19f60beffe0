"""What an increment did, seen on its own evaluation images: the earlier images may be gone.

Of the classes that it taught there are labels: what is found at the threshold in use, and AP. Of
the others the earlier detector tells: what it found must still be found.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from duet.detections import Detections
from duet.evaluation.agreement import Agreement, agreement
from duet.evaluation.ap import evaluate_ap
from duet.evaluation.matches import match
from duet.families.detector import ImageDetector
from duet.increments.state import DetectorState
from duet.labels import LabelSpace
from duet.runs.evaluate import detector_of, image_keys, looked_for, predict, shown_at, truths
from duet.series import Slice


@dataclass(frozen=True)
class Found:
    """What a detector finds of some classes.

    Attributes:
        objects: Labelled objects.
        found: Those of them that are found, at the thresholds in use.
        wrong: Detections as sure as that which find none.
        map50: mAP50, as a fraction; None without objects.
    """

    objects: int
    found: int
    wrong: int
    map50: float | None

    def as_text(self) -> str:
        """Return it for people, without the objects."""
        ap = "" if self.map50 is None else f", mAP50 {100 * self.map50:.1f}"
        return f"{self.found} found and {self.wrong} wrong{ap}"


@dataclass(frozen=True)
class Seen:
    """An increment's evaluation images through the detectors before and after it.

    Attributes:
        split: Of the images.
        classes: Classes of the increment.
        before: What the detector before it finds of them; None if it does not know them.
        after: What the one after it finds.
        kept: What became of the earlier detector's other detections.
    """

    split: str
    classes: tuple[str, ...]
    before: Found | None
    after: Found
    kept: Agreement

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {**asdict(self), "kept": self.kept.as_dict()}

    def as_lines(self) -> list[str]:
        """Return it for people."""
        was = f" (before: {self.before.as_text()})" if self.before else ""
        learned = (
            f"learned   of {self.after.objects} objects of its classes in the {self.split} split, "
            f"at the threshold in use: {self.after.as_text()}{was}"
        )
        return [learned, f"kept      {self.kept.as_text()}"]


def look_again(
    before: DetectorState,
    after: DetectorState,
    data: Slice,
    *,
    sizes: tuple[int, int],
    device: str = "cpu",
) -> Seen:
    """Look at the evaluation images of an increment with the detectors before and after it.

    Args:
        before: The earlier detector.
        after: The later one, which knows all classes of ``data``.
        data: The images, with the labels of the increment's classes.
        sizes: Longer side of what each fits images into, pixels.
        device: Where they run, torch's name.
    """
    pairs = [*zip((before, after), sizes, strict=True)]
    earlier, later = (detector_of(state, size, device) for state, size in pairs)
    was, now = (shown_at(state, data.images, size, device) for state, size in pairs)
    again = all(name in before.labels for name in data.classes)
    others = [name for name in before.labels if name not in data.classes]
    return Seen(
        data.split,
        data.classes,
        _found(earlier, was, data) if again else None,
        _found(later, now, data),
        agreement(was, now, others),
    )


def _found(detector: ImageDetector, seen: list[Detections], data: Slice) -> Found:
    """Count what users see of an increment's classes; AP wants every class of a place besides."""
    labels, labelled = LabelSpace(data.classes), truths(data)
    every = looked_for(predict(detector, data.images), data)
    keys = image_keys(data.images)
    matches = match(looked_for(seen, data), labelled, labels, keys).classes.values()
    scores = evaluate_ap(every, labelled, labels)
    there = [name for name in data.classes if scores.ap50.get(name) is not None]
    return Found(
        objects=sum(int(one.truths.sum()) for one in matches),
        found=sum(int(one.hit.sum()) for one in matches),
        wrong=sum(int((~one.hit & ~one.ignored).sum()) for one in matches),
        map50=scores.map50(there) if there else None,
    )
