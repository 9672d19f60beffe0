"""Which detection found an object, image by image: what AP50 is made of, kept beside it.

AP of any re-weighting of the images can be computed from a `Matches` without a detector, which is
what a paired bootstrap needs (`duet.evaluation.bootstrap`). The matching is faster-coco-eval's own;
with every image counting once the file gives the AP50 of `evaluate_ap` again.
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
from duet.evaluation.ap import EVERY_AREA, MAX_DETECTIONS, Truth, coco_run
from duet.files import atomic_path, require_file
from duet.labels import LabelSpace

# What numpy and zipfile raise over damaged archives, and what arrays of other shapes lead to.
_DAMAGE = (
    OSError, ValueError, TypeError, IndexError, KeyError, EOFError, MemoryError, RuntimeError,
    zipfile.BadZipFile, zlib.error, DataError,
)  # fmt: skip

Parsed = TypeVar("Parsed")

IOU = 0.5
"""Smallest overlap of a detection with the object that it finds."""


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """The counted detections of one class, in the order in which COCO adds them up.

    Most confident first; equal confidences in the order of the images. At most `MAX_DETECTIONS` of
    an image.

    Attributes:
        scores: ``(n,)`` float32, confidence in ``[0, 1]``, falling.
        images: ``(n,)`` int64, position of the image.
        hit: ``(n,)`` bool, whether it found a labelled object at IoU 0.5.
        ignored: ``(n,)`` bool, neither right nor wrong: it lies on an ignored object.
        truths: ``(images,)`` int64, labelled objects per image, ignored ones left out.
        iou: ``(n,)`` float32, overlap with the object that it found; 0 where it found none.
    """

    scores: npt.NDArray[np.float32]
    images: npt.NDArray[np.int64]
    hit: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_]
    truths: npt.NDArray[np.int64]
    iou: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        n = len(self.scores)
        lengths = {len(self.images), len(self.hit), len(self.ignored), len(self.iou)}
        if lengths != {n} or (n and not 0 <= self.images.min() <= self.images.max() < self.total):
            raise DataError(
                f"matches need equally long columns ({n}) and images below {self.total}"
            )
        if self.truths.min(initial=0) < 0:
            raise DataError("matches cannot hold fewer than 0 objects in an image")
        if not (np.diff(self.scores) <= 0).all() or (self.hit & self.ignored).any():
            raise DataError("matches must be ordered by score, and a hit is not ignored")

    @property
    def total(self) -> int:
        """Number of images."""
        return len(self.truths)


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
    counts = np.zeros((len(truths), len(labels)), np.int64)
    for image, truth in enumerate(truths):
        np.add.at(counts[image], truth.class_ids[~truth.ignored], 1)
    run = coco_run(predictions, truths, labels, [IOU])
    scores, classes, images, hit, ignored, iou = _columns(run)
    order = np.lexsort((-scores, classes))  # stable: ties keep the image order
    parts = np.split(order, np.searchsorted(classes[order], np.arange(len(labels))))[1:]
    found = {
        name: ClassMatches(
            scores[rows], images[rows], hit[rows], ignored[rows], counts[:, index], iou[rows]
        )
        for index, (name, rows) in enumerate(zip(labels, parts, strict=True))
    }
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
        "truths": _small(_joined([item.truths for item in found], np.int64)),
        "scores": _joined([item.scores for item in found], np.float32),
        "images": _small(_joined([item.images for item in found], np.int64), total),
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


def _columns(run: Any) -> tuple[npt.NDArray[Any], ...]:
    """Return what `coco_run` found: scores, classes, images, hits, ignored, IoU; by image.

    Args:
        run: With one IoU threshold; None where one side was empty, so that nothing is matched.
    """
    found = [] if run is None else run.cocoDt.dataset["annotations"]
    ids = np.array([item["id"] for item in found], np.int64)
    images = np.array([item["image_id"] for item in found], np.int64)
    classes = np.array([item["category_id"] for item in found], np.int64)
    scores = np.array([item["score"] for item in found], np.float32)
    area = np.array([item["area"] for item in found], np.float64)
    # The library gives its matches as "detection_truth" -> IoU.
    matched_iou = {} if run is None else run.eval["matched"]
    pairs = np.array([key.split("_") for key in matched_iou], np.int64).reshape(-1, 2)
    truths = [] if run is None else run.cocoGt.dataset["annotations"]
    skipped = [truth["id"] for truth in truths if truth["ignore"]]
    matched = np.isin(ids, pairs[:, 0])
    on_ignored = np.isin(ids, pairs[np.isin(pairs[:, 1], skipped), 0])
    outside = ~matched & ((area < EVERY_AREA[0]) | (area > EVERY_AREA[1]))
    ranked = np.lexsort((-scores, classes, images))  # stable: equal scores as they were found
    kept = ranked[_rank_in_group(images[ranked], classes[ranked]) < MAX_DETECTIONS]
    hit = matched & ~on_ignored
    iou = np.zeros(len(ids), np.float32)
    iou[np.searchsorted(ids, pairs[:, 0])] = list(matched_iou.values())  # ids rise
    columns = (scores, classes, images, hit, on_ignored | outside, np.where(hit, iou, 0))
    return tuple(column[kept] for column in columns)


def _rank_in_group(
    images: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the position of each row within its run of equal (image, class)."""
    rows = np.arange(len(images))
    new = np.ones(len(images), np.bool_)
    new[1:] = (np.diff(images) != 0) | (np.diff(classes) != 0)
    ranks: npt.NDArray[np.int64] = rows - np.maximum.accumulate(np.where(new, rows, 0))
    return ranks


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts])


def _small(values: npt.NDArray[np.int64], limit: int | None = None) -> npt.NDArray[Any]:
    """Return non-negative integers in the smallest type that holds them."""
    largest = limit if limit is not None else int(values.max(initial=0))
    return values.astype(np.min_scalar_type(largest))


def parse_matches(stored: Mapping[str, npt.NDArray[Any]]) -> Matches:
    """Return the matches of `match_arrays`; files of older versions hold no IoU."""
    keys, names, counts = stored["keys"], stored["classes"], stored["counts"]
    truths = stored["truths"].astype(np.int64).reshape(len(names), len(keys))
    total = len(stored["scores"])
    if {len(stored["hit"]), len(stored["ignored"])} != {-(-total // 8)}:
        raise DataError(f"matches need a flag for each of {total} detections")
    hit, ignored = (
        np.unpackbits(stored[name], count=total).astype(np.bool_) for name in ("hit", "ignored")
    )
    images = stored["images"].astype(np.int64)
    iou = stored.get("iou", np.zeros(total, np.float32))
    edges = np.concatenate([[0], np.cumsum(counts)])
    cuts = [slice(begin, end) for begin, end in itertools.pairwise(edges)]
    return Matches(
        keys,
        {
            str(name): ClassMatches(
                stored["scores"][cut], images[cut], hit[cut], ignored[cut], truths[index], iou[cut]
            )
            for index, (name, cut) in enumerate(zip(names, cuts, strict=True))
        },
    )
