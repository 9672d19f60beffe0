"""What detectors find in images, and what of it is right: nothing is kept here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duet.defaults import AGNOSTIC, CLEAR
from duet.detections import Detections
from duet.errors import DataError, DuetError, did_you_mean
from duet.evaluation.ap import ClassAP, Truth, evaluate_ap
from duet.evaluation.deployment import Deployed
from duet.evaluation.doubles import find_doubles
from duet.evaluation.matches import match
from duet.families.detector import ImageDetector
from duet.families.outputs import View
from duet.families.table import resolve_family, row_of
from duet.images import Image, read_groups, squared
from duet.increments.state import DetectorState
from duet.labels import LabelSpace
from duet.series import Series, Slice
from duet.series.images import image_sha256

CONFIDENCE, IOU, LIMIT = 0.001, 0.7, 300
"""Candidate confidence, suppression overlap and detections per image: the engine's validation."""

ONE_BOX = (AGNOSTIC, CLEAR, "calibrated classes")
"""Which box of an object is shown: answers that were kept under another rule are not used."""

Seen = Callable[[Image], Image]
"""Makes of an image, ``(H, W, 3)`` uint8 BGR, the one that a detector is shown."""


def truths(data: Slice) -> list[Truth]:
    """Return the labels of a slice as xyxy px of each original image, ignored ones marked."""
    return [
        Truth(item.xyxy, item.class_ids, item.height, item.width, item.ignored, item.crowds)
        for item in data.annotations
    ]


FOR_AP = View(CONFIDENCE, IOU, LIMIT, multi_label=True)
FOR_USERS = View(CONFIDENCE, IOU, LIMIT, agnostic=AGNOSTIC)
"""What is looked at: every class of a place; and the best one, down to scores nobody is shown, so
that what any threshold shows can be told."""


def predict(
    detector: ImageDetector,
    images: Sequence[Path],
    stopped: threading.Event | None = None,
    *,
    view: View = FOR_AP,
    seen: Seen | None = None,
) -> list[Detections]:
    """Run a detector over image files; see `predict_views`."""
    return predict_views(detector, images, stopped, views=(view,), seen=seen)[0]


def predict_views(
    detector: ImageDetector,
    images: Sequence[Path],
    stopped: threading.Event | None = None,
    *,
    views: Sequence[View],
    seen: Seen | None = None,
) -> tuple[list[Detections], ...]:
    """Run a detector over image files, a few dozen at a time; return what each view shows.

    Args:
        detector: Runs over them.
        images: The files.
        stopped: Ends it early when set.
        views: See `View`.
        seen: What is made of each image before the detector sees it.

    Raises:
        DuetError: ``stopped`` was set.
    """
    found: tuple[list[Detections], ...] = tuple([] for _ in views)
    for _, group in read_groups(images, 64):
        if stopped is not None and stopped.is_set():
            raise DuetError("stopped", remedy="the same command resumes")
        group = [seen(image) for image in group] if seen is not None else group
        for every, some in zip(found, detector.views(group, *views), strict=True):
            every += some
    return found


def evaluate_state(
    state: DetectorState, data: Slice, *, image_size: int, device: str = "cpu",
    stopped: threading.Event | None = None,
) -> ClassAP:  # fmt: skip
    """Return the AP of every class of ``data`` for one detector; ``device`` is torch's name."""
    found = predict(detector_of(state, image_size, device), data.images, stopped)
    return average_precision(found, data)


def average_precision(found: list[Detections], data: Slice) -> ClassAP:
    """Return the AP of every class of ``data`` for the detections on its images."""
    return evaluate_ap(*sides_of(found, data))


def shown(found: list[Detections], data: Slice, classes: Sequence[str]) -> Deployed:
    """Return what a detector of these classes shows its users: detections of `FOR_USERS`."""
    matches = match(*sides_of(found, data), image_keys(data.images))
    return Deployed(matches, find_doubles(found, classes))


def detector_of(state: DetectorState, image_size: int, device: str = "cpu") -> ImageDetector:
    """Return what runs a detector on images of that side; ``device`` is torch's name.

    Scores are raw: no score map changes what AP is made of.
    """
    return calibrated_detector_of(state.uncalibrated(), image_size, device)


def calibrated_detector_of(
    state: DetectorState, image_size: int, device: str = "cpu"
) -> ImageDetector:
    """Return what runs a detector as users have it, with its score maps."""
    return resolve_family(state.family).detector(state, image_size=image_size, device=device)


def looked_at(state: DetectorState, image_size: int) -> list[int | str]:
    """Return what a key of something kept says of how images reach a detector.

    Of squares it is the side alone: so it was before there were rectangles.
    """
    fit = row_of(state.family).fit
    return [image_size] if fit == squared(fit) else [image_size, fit]


def shown_to_users(
    detector: ImageDetector, state: DetectorState, images: Sequence[Path],
    stopped: threading.Event | None = None,
) -> tuple[list[Detections], list[Detections]]:  # fmt: skip
    """Return what AP is computed from, and what users see, down to scores nobody is shown.

    What scores above its class's threshold is just what users are shown: there a class below its
    own threshold hides no other one.
    """
    least = tuple(state.thresholds.values())
    exact = replace(FOR_USERS, confidence=least)
    views = (FOR_AP, FOR_USERS) if len(set(least)) == 1 else (FOR_AP, FOR_USERS, exact)
    every, shown, *others = predict_views(detector, images, stopped, views=views)
    for above in others:
        shown = [_over(one, other, least) for one, other in zip(above, shown, strict=True)]
    return every, shown


def shown_at(
    state: DetectorState, images: Sequence[Path], image_size: int, device: str = "cpu",
    stopped: threading.Event | None = None,
) -> list[Detections]:  # fmt: skip
    """Return what users of a detector are shown, at the thresholds in use."""
    view = replace(FOR_USERS, confidence=tuple(state.thresholds.values()))
    detector = calibrated_detector_of(state, image_size, device)
    return predict(detector, images, stopped, view=view)


def _over(above: Detections, every: Detections, least: Sequence[float]) -> Detections:
    """Return ``above``, and of ``every`` what scores no more than its class's threshold."""
    rest = every.scores <= np.array(least, np.float32)[every.class_ids]
    return Detections(
        np.concatenate([above.xyxy, every.xyxy[rest]]),
        np.concatenate([above.scores, every.scores[rest]]),
        np.concatenate([above.class_ids, every.class_ids[rest]]),
        above.labels,
    )


def sides_of(
    found: list[Detections], data: Slice
) -> tuple[list[Detections], list[Truth], LabelSpace]:
    """Return what `evaluate_ap` compares: detections, labels, and the classes of ``data``."""
    return looked_for(found, data), truths(data), LabelSpace(data.classes)


def looked_for(found: list[Detections], data: Slice) -> list[Detections]:
    """Leave out what nobody looked for: it is neither a hit nor a false alarm."""
    if not data.labelled:
        return found
    return [one.of(names) for one, names in zip(found, data.labelled, strict=True)]


def image_keys(images: Sequence[Path]) -> npt.NDArray[np.uint64]:
    """Return ``(images,)`` numbers that tell images apart by content."""
    return np.array([int(image_sha256(path)[:16], 16) for path in images], np.uint64)


def require_split(series: Series, split: str) -> None:
    """Refuse a split that a data set does not have; none chosen is always there.

    Raises:
        DataError: Names all data sets without it.
    """
    sources = {item.data.source: item.data for item in series.increments}
    missing = {path: data for path, data in sources.items() if split not in data.splits}
    if split and missing:
        there = list(dict.fromkeys(name for data in missing.values() for name in data.splits))
        hint = did_you_mean(split, there)
        raise DataError(
            f"no split '{split}'{hint} in {', '.join(map(str, missing))}",
            where="--split",
            remedy=f"there are: {', '.join(there)}",
        )


def no_common_class(known: Iterable[str], there: Iterable[str]) -> DataError:
    """Return the error of a detector that knows some classes of a series that has others."""
    return DataError(
        f"the detector knows no class of this series: it knows {', '.join(known)}; the series has "
        f"{', '.join(there)}",
        remedy="classes are matched by name: rename the classes of one side",
    )
