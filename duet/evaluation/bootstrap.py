"""AP50 and recall over resampled images: a paired bootstrap that needs no detector.

A resample draws as many images as there are, with replacement; it is a row of weights, how often
each image was drawn. All models that are compared get the same rows, so that what makes an image
easy or hard for all of them cancels in their difference (Efron and Tibshirani, 1993; Koehn, 2004).

**Exact and fast.** Interpolated precision rises only where an object is found, so it is enough to
know, at each true positive, how many detections and how many hits came before. Both are sums over
images: one matrix product per class, (resamples, images) x (images, true positives). Weights are
whole numbers below 2^24, so float32 products are exact.

Shape legend: B resamples, I images, P true positives of a class.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from duet.errors import ConfigError
from duet.evaluation.matches import ClassMatches

Weights = npt.NDArray[np.float32]
"""``(B, I)``: how often each image was drawn."""

Sampled = npt.NDArray[np.float64]
"""``(B,)``: one value per resample; NaN where it is not defined."""

RECALLS = np.linspace(0.0, 1.0, 101)
"""COCO's recall points, computed as COCO does: comparisons with them must round alike."""

BLOCK = 256
"""True positives per matrix product: bounds the (I, P) matrix."""

ROWS = 4_000_000
"""Elements of a (B, P) array at a time: bounds memory to some 100 MB."""


def resamples(images: int, count: int, *, seed: int, name: str) -> Weights:
    """Return ``(count + 1, images)`` weights; the first row takes every image once.

    Args:
        images: Number of images, 1 or more.
        count: Number of resamples, 0 or more.
        seed: Of all resamples.
        name: Of the set of images, such as its domain: each set has a stream of its own, so that
            adding another does not change the first.

    Raises:
        ConfigError: ``images`` or ``count`` is out of range.
    """
    if images < 1 or count < 0:
        raise ConfigError(f"1 image and 0 resamples at least, got {images} and {count}")
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    drawn = random.multinomial(images, np.full(images, 1 / images), size=count)
    return np.vstack([np.ones((1, images)), drawn]).astype(np.float32)


def weighted_ap50(found: ClassMatches, weights: Weights) -> Sampled:
    """Return ``(B,)`` AP50 of one class per resample; NaN where none of its objects was drawn.

    With all weights 1 it is COCO's AP50. With other weights it is that of a data set in which every
    image occurs as often as its weight says, its detections of equal confidence side by side.

    Args:
        found: The class's detections.
        weights: ``(B, I)`` whole numbers.

    Raises:
        ConfigError: The weights are for another number of images.
    """
    if weights.shape[1] != found.total:
        raise ConfigError(f"weights for {found.total} images are needed, got {weights.shape[1]}")
    truths = (weights @ found.truths.astype(np.float32)).astype(np.float64)
    ap50 = np.zeros(len(weights))
    positives = np.flatnonzero(found.hit)
    if len(positives):
        step = max(ROWS // len(positives), 1)
        for begin in range(0, len(weights), step):
            rows = slice(begin, begin + step)
            # Where no object was drawn nothing was found: any divisor above 0 will do.
            objects = np.maximum(truths[rows], 1)
            ap50[rows] = _interpolated(found, positives, weights[rows], objects)
    ap50[truths == 0] = np.nan
    return ap50


def weighted_share(part: npt.NDArray[Any], whole: npt.NDArray[Any], weights: Weights) -> Sampled:
    """Return ``(B,)``: a count over another one, each summed over images; NaN where that is 0.

    Args:
        part: ``(I,)`` counts per image.
        whole: ``(I,)`` counts per image.
        weights: ``(B, I)`` whole numbers.
    """
    above, below = (weights @ counts.astype(np.float64) for counts in (part, whole))
    share = np.full(len(weights), np.nan)
    np.divide(above, below, out=share, where=below > 0)
    return share


def recall_at_precision(found: ClassMatches, weights: Weights, precision: Sampled) -> Sampled:
    """Return ``(B,)``: the largest recall of any threshold whose precision is that or higher.

    0 where no threshold reaches it, NaN where no object was drawn or no precision is asked for.

    Args:
        found: Detections.
        weights: ``(B, I)`` whole numbers.
        precision: ``(B,)`` wanted.
    """
    truths = weights @ found.truths.astype(np.float64)
    recall = np.zeros(len(weights))
    positives = np.flatnonzero(found.hit)  # cuts elsewhere have the recall of the one before
    if len(positives):
        step = max(ROWS // len(positives), 1)
        for begin in range(0, len(weights), step):
            rows = slice(begin, begin + step)
            hits = np.cumsum(weights[rows][:, found.images[positives]], axis=1, dtype=np.float64)
            counted = _counted_before(found, positives, weights[rows])
            reached = hits >= precision[rows, None] * counted - np.spacing(counted)
            recall[rows] = np.where(reached, hits, 0).max(axis=1)
    undefined = (truths == 0) | np.isnan(precision)
    return np.where(undefined, np.nan, recall / np.maximum(truths, 1))


def _interpolated(
    found: ClassMatches,
    positives: npt.NDArray[np.int64],
    weights: Weights,
    truths: Sampled,
) -> Sampled:
    """Return the mean of the interpolated precision over the 101 recall points, ``(B,)``."""
    hits = np.cumsum(weights[:, found.images[positives]], axis=1, dtype=np.float64)
    precision = hits / (_counted_before(found, positives, weights) + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # Recall points reached at each true positive; each belongs to the first that reaches it.
    reached = np.searchsorted(RECALLS, hits / truths[:, None], side="right")
    first = np.diff(reached, axis=1, prepend=0)
    mean: Sampled = np.einsum("bp,bp->b", envelope, first) / len(RECALLS)
    return mean


def _counted_before(
    found: ClassMatches, positives: npt.NDArray[np.int64], weights: Weights
) -> npt.NDArray[np.float64]:
    """Return ``(B, P)``: detections up to each true positive, itself included, ignored ones not."""
    # Detections below the last true positive change no interpolated precision.
    upto = slice(0, positives[-1] + 1)
    counted = ~found.ignored[upto]
    # Detections belong to the next true positive: earlier ones are those that come before them.
    earlier: npt.NDArray[np.int64] = np.cumsum(found.hit[upto]) - found.hit[upto]
    segment = earlier[counted]
    images = found.images[upto][counted]
    before = np.zeros(found.total)  # detections per image in earlier blocks
    parts = []
    for begin in range(0, len(positives), BLOCK):
        width = min(BLOCK, len(positives) - begin)
        lo, hi = np.searchsorted(segment, (begin, begin + width))
        cells = images[lo:hi] * width + (segment[lo:hi] - begin)
        added = np.bincount(cells, minlength=found.total * width).reshape(found.total, width)
        upto_IP = before[:, None] + np.cumsum(added, axis=1)
        before = upto_IP[:, -1]
        parts.append(weights @ upto_IP.astype(np.float32))
    return np.concatenate(parts, axis=1).astype(np.float64)
