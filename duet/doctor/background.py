"""Background shift: objects of old classes on the images of a new increment, without labels.

Training takes what is not labelled for background, so these objects unlearn what came before. Some
are known from the label files, which may hold more classes than an increment learns; an earlier
detector finds others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from duet.aliases import meaning
from duet.images import read_image
from duet.inference.detector import LoadedDetector
from duet.series.model import Annotation, Slice
from duet.series.problems import Problem, note
from duet.series.series import Increment, Series
from duet.series.slices import train_slice

OVERLAP = 0.5
"""IoU from which a found object counts as labelled."""

Step = Callable[[int, int], None]
"""Called with images done and images in all."""

_GROUP = 8  # images held in memory at a time
_REMEDY = "distil, or label them by the old detector (strategy 'pseudo'); see docs/data.md"


@dataclass(frozen=True)
class Sighting:
    """A confident object of an old class that nobody labelled.

    Attributes:
        image: Where it was seen.
        xyxy: Left, top, right, bottom in pixels of the upright image.
        score: Confidence, in range [0, 1].
    """

    image: Path
    xyxy: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Shift:
    """What a detector saw of one old class on the training images of one increment.

    Attributes:
        increment: The new increment.
        name: The old class.
        trained: Training images of the increment.
        sightings: The most confident first.
        labelled: Further objects of the class that it saw and that the label files hold, although
            the increment does not learn them.
    """

    increment: str
    name: str
    trained: int
    sightings: tuple[Sighting, ...]
    labelled: int = 0

    @property
    def images(self) -> int:
        """Images with at least one sighting."""
        return len({item.image for item in self.sightings})

    @property
    def mean_score(self) -> float:
        """Mean confidence."""
        return float(np.mean([item.score for item in self.sightings]))

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
        others = f"; {self.labelled} more are in the label files" if self.labelled else ""
        what = (
            f"{len(self.sightings)} confident '{self.name}' without a label on {self.images} of "
            f"{self.trained} training images, mean score {self.mean_score:.2f}{others}"
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

    So a detector of the whole series counts, at each increment, what was learned before it. It may
    call the classes by other names than the series (`duet.aliases`).
    """
    steps = [{meaning(name) for name in item.classes} for item in series.increments]
    earlier, now_or_later = set().union(*steps[:t]), set().union(*steps[t:])
    return tuple(
        name
        for name in known
        if meaning(name) not in steps[t]
        and (meaning(name) in earlier or meaning(name) not in now_or_later)
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
        labelled: Counter[str] = Counter()
        split = increment.data.splits["train"]
        annotations = dict(zip(split.images, split.annotations, strict=True))
        for start in range(0, len(found), _GROUP):
            part = found.images[start : start + _GROUP]
            every = [annotations[image] for image in part]
            for name, sighting in _look(detector, increment, part, every, confidence):
                if name in old and sighting is None:
                    labelled[name] += 1
                elif name in old and sighting is not None:
                    seen[name].append(sighting)
            done += len(part)
            if progress is not None:
                progress(done, total)
        for name in sorted(seen, key=old.index):
            best = tuple(sorted(seen[name], key=lambda item: -item.score))
            shifts.append(Shift(increment.name, name, len(found), best, labelled[name]))
    return tuple(shifts)


def _slice(increment: Increment) -> Slice | None:
    """Return the training slice, or None where the data have problems that forbid one."""
    data = increment.data
    if "train" not in data.splits or any(name not in data.labels for name in increment.classes):
        return None
    return train_slice(data, increment.classes)


def _look(
    detector: LoadedDetector,
    increment: Increment,
    images: Sequence[Path],
    annotations: Sequence[Annotation],
    confidence: float,
) -> Iterator[tuple[str, Sighting | None]]:
    """Yield the confident objects that the increment does not learn; None for a labelled one.

    What it learns covers an object of any class, also where it is ignored: the detector mistook it
    for something else.
    """
    labels = increment.data.labels
    meanings = np.array([meaning(name) for name in labels], np.object_)
    learned = np.isin(np.arange(len(labels)), labels.indices(increment.classes))
    results = detector.many([read_image(image) for image in images], confidence=confidence)
    for image, annotation, result in zip(images, annotations, results, strict=True):
        near = _overlaps(result.xyxy, annotation) >= OVERLAP
        new = learned[annotation.class_ids]
        for index, name in enumerate(result.names):
            if (near[index] & new).any():
                continue
            if (near[index] & (meanings[annotation.class_ids] == meaning(name))).any():
                yield name, None
                continue
            left, top, right, bottom = (float(value) for value in result.xyxy[index])
            score = float(result.scores[index])
            yield name, Sighting(image, (left, top, right, bottom), score)


def _overlaps(found_N4: NDArray[np.float32], annotation: Annotation) -> NDArray[np.float64]:
    """Return ``(n, m) float64``: IoU with each label; of a crowd, the share that lies inside."""
    labels_M4 = annotation.xyxy
    low = np.maximum(found_N4[:, None, :2], labels_M4[None, :, :2])
    high = np.minimum(found_N4[:, None, 2:], labels_M4[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    own, other = (
        np.clip(box[:, 2:] - box[:, :2], 0, None).prod(axis=1) for box in (found_N4, labels_M4)
    )
    union = np.where(annotation.crowds, own[:, None], own[:, None] + other[None] - shared)
    return np.asarray(shared / np.maximum(union, 1e-9), np.float64)
