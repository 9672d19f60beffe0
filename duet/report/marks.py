"""Which boxes of a gallery image are right, which are wrong, and which objects were missed.

The rule is that of AP at IoU 0.5 (Lin et al., Microsoft COCO, ECCV 2014): the most confident
detection chooses first and takes the free object of its class that it overlaps most. Boxes are
``(left, top, right, bottom)`` in px of the original image.
"""

from __future__ import annotations

from dataclasses import dataclass

from duet.evaluation.matches import IOU
from duet.report.phrases import count_of
from duet.results.boxes import FoundBox, GalleryImage, GallerySide, TruthBox


@dataclass(frozen=True)
class Marks:
    """What became of the objects and the detections of one image with one model.

    Attributes:
        right: Detections that find an object, the most confident first, as below.
        wrong: Detections that find none, of classes that are labelled in the image.
        open: Those that nobody can judge: their class is not labelled there, or they lie on an
            object that counts neither way.
        missed: Objects that are not found, of classes that the model knows.
    """

    right: tuple[FoundBox, ...]
    wrong: tuple[FoundBox, ...]
    open: tuple[FoundBox, ...]
    missed: tuple[TruthBox, ...]

    def as_text(self) -> str:
        """Return the counts for people."""
        also = f", {count_of(len(self.open), 'box', 'boxes')} not judged" if self.open else ""
        return f"{len(self.right)} right, {len(self.wrong)} wrong, {len(self.missed)} missed{also}"


def marks(image: GalleryImage, side: GallerySide) -> Marks:
    """Judge what one model shows in an image."""
    right: list[FoundBox] = []
    wrong: list[FoundBox] = []
    unjudged: list[FoundBox] = []
    free = [truth for truth in image.truths if not truth.ignored]
    skipped = [truth for truth in image.truths if truth.ignored]
    for box in sorted(side.detections, key=lambda one: -one.score):
        places = [place for place, truth in enumerate(free) if truth.name == box.name]
        best = max(places, key=lambda place: _overlap(box, free[place]), default=None)
        if best is not None and _overlap(box, free[best]) >= IOU:
            right.append(box)
            del free[best]
        elif box.name not in image.labelled or any(_lies_on(box, truth) for truth in skipped):
            unjudged.append(box)
        else:
            wrong.append(box)
    missed = [truth for truth in free if not side.classes or truth.name in side.classes]
    return Marks(tuple(right), tuple(wrong), tuple(unjudged), tuple(missed))


def _lies_on(box: FoundBox, truth: TruthBox) -> bool:
    """Tell whether half of a box, or more, lies on an object of its class: that may be a crowd."""
    area = _area(box.xyxy)
    return box.name == truth.name and area > 0 and _common(box, truth) / area >= IOU


def _overlap(box: FoundBox, truth: TruthBox) -> float:
    """Return the IoU."""
    common = _common(box, truth)
    union = _area(box.xyxy) + _area(truth.xyxy) - common
    return common / union if union > 0 else 0.0


def _common(box: FoundBox, truth: TruthBox) -> float:
    """Return the px² that both cover."""
    pairs = list(zip(box.xyxy, truth.xyxy, strict=True))
    return _area((max(pairs[0]), max(pairs[1]), min(pairs[2]), min(pairs[3])))


def _area(xyxy: tuple[float, float, float, float]) -> float:
    return max(0.0, xyxy[2] - xyxy[0]) * max(0.0, xyxy[3] - xyxy[1])
