"""Random scenes for AP: objects, and detections that are nearly right."""

from __future__ import annotations

import numpy as np

from duet.detections import Detections
from duet.evaluation.ap import Truth
from duet.labels import LabelSpace

LABELS = LabelSpace.of(["ant", "bee", "cow", "dog", "elk"])


def make_truth(
    boxes: object = (), ids: object = (), size: int = 100, ignored: object = (), crowds: object = ()
) -> Truth:
    flags = (np.asarray(ignored, bool), np.asarray(crowds, bool))
    return Truth(np.asarray(boxes, float), np.asarray(ids, np.int64), size, size, *flags)


def make_scene(
    random: np.random.Generator,
    images: int,
    classes: int,
    crowd: int,
    ignored: float = 0.0,
    crowds: float = 0.0,
) -> tuple[list[Detections], list[Truth]]:
    """Return noisy detections of random labels; scores collide on purpose.

    ``ignored`` of the objects are ignored, and ``crowds`` of these are crowds.
    """
    predictions, truths = [], []
    for _ in range(images):
        corner = random.uniform(0, 80, (random.integers(0, 6), 2))
        boxes = np.hstack([corner, corner + random.uniform(2, 30, corner.shape)])
        ids = random.integers(0, classes, len(boxes))
        flags = random.uniform(size=len(boxes)) < ignored
        truths.append(
            make_truth(boxes, ids, 100, flags, flags & (random.uniform(size=len(boxes)) < crowds))
        )
        copies = int(random.integers(0, crowd))
        noisy = np.repeat(boxes, copies, axis=0) + random.normal(0, 2, (len(boxes) * copies, 4))
        stray = random.uniform(-20, 120, (int(random.integers(0, 5)), 4))
        found = np.vstack([noisy, stray])
        guess = np.concatenate([np.repeat(ids, copies), random.integers(0, 5, len(stray))])
        scores = np.round(random.uniform(0, 1, len(found)), 1)
        predictions.append(Detections(found, scores, guess, LABELS))
    return predictions, truths
