"""Background shift: objects of old classes on the images of a new increment, without labels.

Training takes what is not labelled for background, so these objects unlearn what came before. Some
are known from the label files, which may hold more classes than an increment learns; an earlier
detector finds others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from duet.images import read_image
from duet.inference.detector import LoadedDetector
from duet.labels import LabelSpace
from duet.series.model import Annotation, Increment, Series, Slice
from duet.series.problems import Problem, note
from duet.series.slices import train_slice

OVERLAP = 0.5
"""IoU from which a found object counts as labelled."""

Step = Callable[[int, int], None]
"""Called with images done and images in all."""

_GROUP = 8  # images held in memory at a time
_REMEDY = "distil, or label them by the old detector (method 'pseudo'); see docs/data.md"


@dataclass(frozen=True)
class Sighting:
    """A confident object of an old class that no label of the increment covers.

    Attributes:
        image: Where it was seen.
        xyxy: Left, top, right, bottom in pixels of the upright image.
        score: Confidence, in range [0, 1].
        labelled: Whether the label file holds it, as an object of the same class that the increment
            does not learn.
    """

    image: Path
    xyxy: tuple[float, float, float, float]
    score: float
    labelled: bool


@dataclass(frozen=True)
class Shift:
    """What a detector saw of one old class on the training images of one increment.

    Attributes:
        increment: The new increment.
        name: The old class.
        trained: Training images of the increment.
        sightings: The most confident first.
    """

    increment: str
    name: str
    trained: int
    sightings: tuple[Sighting, ...]

    @property
    def images(self) -> int:
        """Images with at least one sighting."""
        return len({item.image for item in self.sightings})

    @property
    def mean_score(self) -> float:
        """Mean confidence."""
        return float(np.mean([item.score for item in self.sightings]))

    @property
    def labelled(self) -> int:
        """Sightings that the label files confirm."""
        return sum(item.labelled for item in self.sightings)

    def as_dict(self) -> dict[str, object]:
        """Return the counts as JSON-ready data."""
        return {
            "increment": self.increment,
            "class": self.name,
            "objects": len(self.sightings),
            "images": self.images,
            "training_images": self.trained,
            "mean_score": round(self.mean_score, 4),
            "labelled_in_files": self.labelled,
        }

    def as_problem(self) -> Problem:
        """Return the shift in one sentence."""
        confirmed = f", {self.labelled} of them in the label files" if self.labelled else ""
        what = (
            f"{len(self.sightings)} confident '{self.name}' without a label on {self.images} of "
            f"{self.trained} training images, mean score {self.mean_score:.2f}{confirmed}"
        )
        return note("background.unlabelled", f"increment '{self.increment}'", what, _REMEDY)


def known_shift(series: Series) -> Iterator[Problem]:
    """Yield, per increment and old class, the objects that its label files hold and it drops."""
    for t, increment in enumerate(series.increments[1:], start=1):
        data = increment.data
        found = _slice(increment)
        if found is None:
            continue
        old = [name for name in series.classes_until(t - 1) if name in data.labels]
        old = [name for name in old if name not in increment.classes]
        split = data.splits["train"]
        used = set(found.images)
        counts = np.zeros((2, len(data.labels)), np.int64)  # objects, images
        for image, annotation in zip(split.images, split.annotations, strict=True):
            if image in used:
                here = np.bincount(annotation.object_ids, minlength=len(data.labels))
                counts += np.stack([here, here > 0])
        for name in old:
            objects, images = counts[:, data.labels.index(name)].tolist()
            if objects:
                what = (
                    f"{objects} objects of the old class '{name}' are labelled in the files on "
                    f"{images} of {len(used)} training images, but not learned here"
                )
                yield note("background.labelled", f"increment '{increment.name}'", what, _REMEDY)


def old_classes(series: Series, t: int, known: Sequence[str]) -> tuple[str, ...]:
    """Return the classes that a detector knows and that are neither new in increment t nor later.

    So a detector of the whole series counts, at each increment, what was learned before it.
    """
    earlier = series.classes_until(t - 1) if t else ()
    now_or_later = {name for item in series.increments[t:] for name in item.classes}
    now = set(series.increments[t].classes)
    return tuple(
        name for name in known if name not in now and (name in earlier or name not in now_or_later)
    )


def unlabelled(
    series: Series, detector: LoadedDetector, *, confidence: float, progress: Step | None = None
) -> tuple[Shift, ...]:
    """Look for old objects on the training images of every increment.

    Args:
        series: As read.
        detector: Knows old classes.
        confidence: Lowest score that counts, in range [0, 1].
        progress: Called after each group of images.
    """
    slices = [_slice(increment) for increment in series.increments]
    looked = [
        (increment, found, old)
        for t, (increment, found) in enumerate(zip(series.increments, slices, strict=True))
        if found is not None and (old := old_classes(series, t, detector.labels.names))
    ]
    total = sum(len(found) for _, found, _ in looked)
    shifts: list[Shift] = []
    done = 0
    for increment, found, old in looked:
        seen: dict[str, list[Sighting]] = defaultdict(list)
        split = increment.data.splits["train"]
        annotations = dict(zip(split.images, split.annotations, strict=True))
        for part in _groups(found):
            every = [annotations[image] for image in part.images]
            for name, sighting in _look(detector, increment.data.labels, part, every, confidence):
                if name in old:
                    seen[name].append(sighting)
            done += len(part)
            if progress is not None:
                progress(done, total)
        for name in sorted(seen, key=old.index):
            best = tuple(sorted(seen[name], key=lambda item: -item.score))
            shifts.append(Shift(increment.name, name, len(found), best))
    return tuple(shifts)


def _slice(increment: Increment) -> Slice | None:
    """Return the training slice, or None where the data have problems that forbid one."""
    data = increment.data
    if "train" not in data.splits or any(name not in data.labels for name in increment.classes):
        return None
    return train_slice(data, increment.classes)


def _groups(found: Slice) -> Iterator[Slice]:
    """Yield a slice a few images at a time."""
    columns = ("images", "boxes", "class_ids", "sizes")
    for start in range(0, len(found), _GROUP):
        part = {name: getattr(found, name)[start : start + _GROUP] for name in columns}
        yield Slice(found.domain, found.split, found.classes, **part)


def _look(
    detector: LoadedDetector,
    labels: LabelSpace,
    found: Slice,
    annotations: Sequence[Annotation],
    confidence: float,
) -> Iterator[tuple[str, Sighting]]:
    """Yield the confident objects that no label of the slice covers.

    Args:
        detector: Looks.
        labels: The classes of the label files.
        found: A few images and their labels in the slice.
        annotations: All that the files hold of the same images.
        confidence: Lowest score that counts.
    """
    pictures = [read_image(image) for image in found.images]
    results = detector.many(pictures, confidence=confidence)
    for row, (annotation, result) in enumerate(zip(annotations, results, strict=True)):
        size = (annotation.width, annotation.height)
        covered = _iou(result.xyxy, _xyxy(found.boxes[row], *size))
        in_files = _iou(result.xyxy, _xyxy(annotation.boxes, *size))
        for index, name in enumerate(result.names):
            if covered[index].max(initial=0.0) >= OVERLAP:
                continue
            id_ = labels.index(name) if name in labels else -1
            same = in_files[index][annotation.class_ids == id_]
            left, top, right, bottom = (float(value) for value in result.xyxy[index])
            yield (
                name,
                Sighting(
                    found.images[row],
                    (left, top, right, bottom),
                    float(result.scores[index]),
                    bool(same.max(initial=0.0) >= OVERLAP),
                ),
            )


def _xyxy(boxes: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """Return normalised cxcywh as left, top, right, bottom in pixels."""
    scale = np.array([width, height, width, height], np.float64)
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    return np.asarray(np.concatenate([low, high], axis=1) * scale, np.float64)


def _iou(a_N4: NDArray[np.float32], b_M4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``(n, m) float64`` overlaps of xyxy boxes."""
    low = np.maximum(a_N4[:, None, :2], b_M4[None, :, :2])
    high = np.minimum(a_N4[:, None, 2:], b_M4[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(box[:, 2:] - box[:, :2], 0, None).prod(axis=1) for box in (a_N4, b_M4)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float64)
