"""Which detection found an object, image by image: what AP50 is made of, kept beside it.

AP of any re-weighting of the images can be computed from a `Matches` without a detector, which is
what a paired bootstrap needs (`duet.evaluation.bootstrap`). With every image counting once the file
gives the AP50 of `evaluate_ap` again.
"""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from duet.detections import Detections
from duet.errors import DataError
from duet.evaluation.ap import THRESHOLDS, ClassAP, Truth, ap_of, compared
from duet.evaluation.matching import HIT, IGNORED, Outcome
from duet.files import atomic_path, require_file
from duet.labels import LabelSpace

# What numpy and zipfile raise over damaged archives, and what arrays of other shapes lead to.
_DAMAGE = (
    OSError, ValueError, TypeError, IndexError, KeyError, EOFError, MemoryError, RuntimeError,
    zipfile.BadZipFile, zlib.error, DataError,
)  # fmt: skip

Parsed = TypeVar("Parsed")

IOU = THRESHOLDS[0]
"""Smallest overlap of a detection with the object that it finds."""

MOST_OBJECTS = 10**8
"""Labelled objects of a file; the largest data sets have some 10 to 30 millions."""


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """The counted detections of one class, in the order in which COCO adds them up.

    Most confident first; equal confidences in the order of the images. At most `MAX_DETECTIONS` of
    an image.

    Attributes:
        scores: ``(n,)`` float32, confidence in ``[0, 1]``, falling.
        images: ``(n,)`` integers, position of the image.
        hit: ``(n,)`` bool, whether it found a labelled object at IoU 0.5.
        ignored: ``(n,)`` bool, neither right nor wrong: it lies on an ignored object.
        iou: ``(n,)`` float32, overlap with the object that it found; 0 where it found none.
        owners: Position of the image of each labelled object, rising, ignored ones left out: most
            images hold no object of a class.
        total: Number of images.
    """

    scores: npt.NDArray[np.float32]
    images: npt.NDArray[np.integer[Any]]
    hit: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_]
    iou: npt.NDArray[np.float32]
    owners: npt.NDArray[np.integer[Any]]
    total: int

    def __post_init__(self) -> None:
        n = len(self.scores)
        lengths = {len(self.images), len(self.hit), len(self.ignored), len(self.iou)}
        if lengths != {n} or not (self._within(self.images) and self._within(self.owners)):
            raise DataError(
                f"matches need equally long columns ({n}) and images below {self.total}"
            )
        if not (np.diff(self.scores) <= 0).all() or (self.hit & self.ignored).any():
            raise DataError("matches must be ordered by score, and a hit is not ignored")

    def _within(self, images: npt.NDArray[np.integer[Any]]) -> bool:
        return not len(images) or bool(0 <= images.min() <= images.max() < self.total)

    @classmethod
    def counted(
        cls,
        scores: npt.NDArray[np.float32],
        images: npt.NDArray[np.integer[Any]],
        hit: npt.NDArray[np.bool_],
        ignored: npt.NDArray[np.bool_],
        truths: npt.NDArray[np.integer[Any]],
        iou: npt.NDArray[np.float32],
    ) -> ClassMatches:
        """Build from ``(images,)`` counts of labelled objects; the other columns as they are.

        Raises:
            DataError: The columns do not fit each other, or a count is below 0.
        """
        if truths.min(initial=0) < 0:
            raise DataError("matches cannot hold fewer than 0 objects in an image")
        some = np.flatnonzero(truths)
        owners = np.repeat(some.astype(np.int32), truths[some])
        return cls(scores, images, hit, ignored, iou, owners, len(truths))

    @property
    def truths(self) -> npt.NDArray[np.int64]:
        """``(total,)`` labelled objects per image, ignored ones left out."""
        return np.bincount(self.owners, minlength=self.total)


@dataclass(frozen=True, eq=False)
class Matches:
    """All detections of one model on one domain, matched with the labels.

    Attributes:
        keys: ``(images,)`` uint64, tells the images apart by content, so that evaluations of
            several models pair up whatever the order of their files.
        classes: Class name -> its detections.
    """

    keys: npt.NDArray[np.uint64]
    classes: Mapping[str, ClassMatches]

    def __post_init__(self) -> None:
        wrong = [name for name, found in self.classes.items() if found.total != len(self.keys)]
        if wrong:
            raise DataError(f"matches of '{wrong[0]}' speak of other images than the file")


def match(
    predictions: Sequence[Detections],
    truths: Sequence[Truth],
    labels: LabelSpace,
    keys: npt.NDArray[np.uint64],
) -> Matches:
    """Match the detections of one model with the labels of one domain at IoU 0.5.

    Args:
        predictions: One entry per image, in the order of ``truths``.
        truths: One entry per image; ``class_ids`` refer to ``labels``.
        labels: The classes to evaluate.
        keys: ``(images,)`` uint64, see `Matches`.
    """
    return matches_of(compared(predictions, truths, labels, [IOU]), labels, keys)


def measure(
    predictions: Sequence[Detections],
    truths: Sequence[Truth],
    labels: LabelSpace,
    keys: npt.NDArray[np.uint64],
) -> tuple[ClassAP, Matches]:
    """Return what `evaluate_ap` and `match` do, matched once; arguments and errors as theirs."""
    outcome = compared(predictions, truths, labels, THRESHOLDS, common=True)
    return ap_of(outcome, labels), matches_of(outcome, labels, keys)


def matches_of(outcome: Outcome, labels: LabelSpace, keys: npt.NDArray[np.uint64]) -> Matches:
    """Return the matches at the first threshold of an outcome, which is to be `IOU`.

    Args:
        outcome: Of ``labels``.
        labels: The evaluated classes.
        keys: ``(images,)`` uint64, see `Matches`.
    """
    n = len(outcome.scores)
    hit, ignored = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    iou = np.zeros(n, np.float32)
    kinds = outcome.kinds[:, 0]
    hit[outcome.rows[kinds == HIT]] = True
    ignored[outcome.rows[kinds == IGNORED]] = True
    iou[outcome.rows] = np.where(kinds == HIT, outcome.overlap, 0)
    found = {}
    for index, name in enumerate(labels):
        cut, _, objects = outcome.of(index)
        found[name] = ClassMatches(
            outcome.scores[cut], outcome.images[cut], hit[cut], ignored[cut], iou[cut],
            outcome.objects[objects], len(keys),
        )  # fmt: skip
    return Matches(np.asarray(keys, np.uint64), found)


def save_matches(path: Path, matches: Matches) -> None:
    """Write the matches as one compressed ``.npz``, atomically."""
    save_arrays(path, match_arrays(matches))


def save_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays as one compressed ``.npz``, atomically."""
    named: dict[str, Any] = dict(arrays)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **named)


def match_arrays(matches: Matches) -> dict[str, npt.NDArray[Any]]:
    """Return the matches as arrays, see `parse_matches`."""
    found = list(matches.classes.values())
    total = len(matches.keys)
    return {
        "keys": matches.keys,
        "classes": np.array(list(matches.classes), dtype=np.str_),
        "counts": np.array([len(item.scores) for item in found], np.int64),
        "truths": _truths(found, total),
        "scores": _joined([item.scores for item in found], np.float32),
        "images": _joined([item.images for item in found], np.min_scalar_type(total)),
        "hit": np.packbits(_joined([item.hit for item in found], np.bool_)),
        "ignored": np.packbits(_joined([item.ignored for item in found], np.bool_)),
        "iou": _joined([item.iou for item in found], np.float32),
    }


def load_matches(path: Path) -> Matches:
    """Read what `save_matches` wrote; errors as `load_arrays`."""
    return load_arrays(path, parse_matches)


def load_arrays(path: Path, parse: Callable[[Mapping[str, npt.NDArray[Any]]], Parsed]) -> Parsed:
    """Return what ``parse`` makes of the arrays that `save_arrays` wrote.

    Raises:
        DataError: The file is missing, damaged or something else.
    """
    try:
        require_file(path)
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
            if len(arrays) < len(stored.files):
                raise DataError("an array stands there twice")
            if odd := [name for name, item in arrays.items() if not isinstance(item, np.ndarray)]:
                raise DataError(f"'{odd[0]}' is no array")  # numpy hands out other members as bytes
            return parse(arrays)
    except _DAMAGE as error:
        raise DataError(
            f"the matches cannot be read: {error.what if isinstance(error, DataError) else error}",
            where=str(path),
            remedy="remove the file and give the `duet run` command again; it evaluates anew",
        ) from None


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts], dtype=dtype, casting="unsafe")


def _truths(found: Sequence[ClassMatches], total: int) -> npt.NDArray[Any]:
    """Return ``(classes * total,)`` counts, in the smallest type that holds them."""
    most = max((int(item.truths.max(initial=0)) for item in found), default=0)
    table = np.zeros((len(found), total), np.min_scalar_type(most))
    for row, item in zip(table, found, strict=True):
        row[:] = item.truths
    return table.reshape(-1)


def parse_matches(stored: Mapping[str, npt.NDArray[Any]]) -> Matches:
    """Return the matches of `match_arrays`; files of older versions hold no IoU."""
    keys, names, counts = stored["keys"], stored["classes"], stored["counts"]
    truths = stored["truths"].reshape(len(names), len(keys))
    if truths.sum(dtype=np.float64) > MOST_OBJECTS:  # a few bytes of a file can say so
        raise DataError(f"matches cannot hold more than {MOST_OBJECTS} objects")
    total = len(stored["scores"])
    if {len(stored["hit"]), len(stored["ignored"])} != {-(-total // 8)}:
        raise DataError(f"matches need a flag for each of {total} detections")
    hit, ignored = (
        np.unpackbits(stored[name], count=total).astype(np.bool_) for name in ("hit", "ignored")
    )
    images = stored["images"].astype(np.int32)
    iou = stored.get("iou", np.zeros(total, np.float32))
    edges = np.concatenate([[0], np.cumsum(counts)])
    cuts = [slice(begin, end) for begin, end in itertools.pairwise(edges)]
    return Matches(
        keys,
        {
            str(name): ClassMatches.counted(
                stored["scores"][cut], images[cut], hit[cut], ignored[cut], truths[index], iou[cut]
            )
            for index, (name, cut) in enumerate(zip(names, cuts, strict=True))
        },
    )
