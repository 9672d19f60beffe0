"""AP50 and recall over resampled images: a paired bootstrap that needs no detector.

A resample draws as many images as there are, with replacement; it is a row of weights, how often
each image was drawn. All models that are compared get the same rows, so that what makes an image
easy or hard for all of them cancels in their difference (Efron and Tibshirani, 1993; Koehn, 2004).

**Exact and linear.** Interpolated precision rises only where an object is found, so it is enough to
know, at each true positive, how many detections and how many hits came before. What lies between
two true positives is a row of a sparse matrix, (true positives, images), whose product with the
weights costs one addition per detection and resample. True positives are walked through in blocks,
the least confident first, because what is reached later decides what counts before. Weights are
whole numbers, of which a block holds less than 2^24: float32 products are exact.

Shape legend: B resamples, I images, P true positives of a class.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from duet.errors import ConfigError
from duet.evaluation.ap import RECALLS
from duet.evaluation.matches import ClassMatches

Weights = npt.NDArray[np.float32]
"""``(B, I)``: how often each image was drawn. Fastest where an image's weights are neighbours."""

Sampled = npt.NDArray[np.float64]
"""``(B,)``: one value per resample; NaN where it is not defined."""

BLOCK = 64
"""True positives at a time: a few arrays of (BLOCK, B) are in a core's cache."""

DRAWN = 2_000_000
"""Weights that are drawn at a time: bounds memory."""


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
    weights = np.ones((images, count + 1), np.float32).T
    step = max(DRAWN // images, 1)
    for begin in range(1, count + 1, step):
        rows = weights[begin : begin + step]
        rows[:] = random.multinomial(images, np.full(images, 1 / images), size=len(rows))
    return weights


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
    truths = _drawn(found.owners, weights)
    total = np.zeros(len(weights))
    divisor = np.maximum(truths, 1)  # nothing is found where no object was drawn
    later: Any = 0.0  # largest precision of what is less confident
    for before, hits, counted in _backwards(found, weights):
        counted += np.spacing(1)
        precision = np.divide(hits, counted, out=counted)
        for row in precision[::-1]:  # from here on: the largest of this one and those after it
            np.maximum(row, later, out=row)
            later = row
        # Recall points reached at each true positive; each belongs to the first that reaches it.
        hits /= divisor
        points = reached(hits)
        points[1:] -= points[:-1].copy()
        points[0] -= 0 if before is None else reached(before / divisor)
        total += np.einsum("pb,pb->b", precision, points.astype(np.float64))
    ap50: Sampled = np.where(truths > 0, total / len(RECALLS), np.nan)
    return ap50


def weighted_share(part: npt.NDArray[Any], whole: npt.NDArray[Any], weights: Weights) -> Sampled:
    """Return ``(B,)``: a count over another one, each summed over images; NaN where that is 0.

    Args:
        part: ``(I,)`` counts per image.
        whole: ``(I,)`` counts per image.
        weights: ``(B, I)`` whole numbers.
    """
    above, below = (_drawn(np.repeat(np.arange(len(n)), n), weights) for n in (part, whole))
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
    truths = _drawn(found.owners, weights)
    recall = np.zeros(len(weights))
    for _, hits, counted in _backwards(found, weights):  # cuts elsewhere: recall of the one before
        enough = hits >= precision * counted - np.spacing(counted)
        recall = np.maximum(recall, np.where(enough, hits, 0).max(axis=0))
    undefined = (truths == 0) | np.isnan(precision)
    return np.where(undefined, np.nan, recall / np.maximum(truths, 1))


def _drawn(images: npt.NDArray[Any], weights: Weights) -> Sampled:
    """Return ``(B,)``: how often what lies in ``images``, one entry each, was drawn in all."""
    there, counts = np.unique(images, return_counts=True)
    total = np.zeros(len(weights))
    step = max(DRAWN // len(weights), 1)
    for begin in range(0, len(there), step):
        rows = slice(begin, begin + step)
        total += counts[rows].astype(np.float64) @ weights.T[there[rows]]
    return total


def _backwards(
    found: ClassMatches, weights: Weights
) -> Iterator[tuple[Sampled | None, Sampled, Sampled]]:
    """Yield what lies before the true positives of a class, some at a time, the last ones first.

    Yields:
        ``(B,)`` hits before the block, None if it is the first; ``(p, B)`` hits up to each true
        positive of the block, itself included; ``(p, B)`` detections likewise, ignored ones left
        out. The latter two may be written to.
    """
    positives = np.flatnonzero(found.hit)
    # Detections below the last true positive change no interpolated precision.
    upto = slice(0, positives[-1] + 1 if len(positives) else 0)
    counted = found.images[upto][~found.ignored[upto]]
    ends = np.append(0, np.cumsum(~found.ignored[upto])[positives])
    owners = found.images[positives]
    by_image = np.ascontiguousarray(weights.T)
    hits, seen = _drawn(owners, weights), _drawn(counted, weights)
    for begin in reversed(range(0, len(positives), BLOCK)):
        end = min(begin + BLOCK, len(positives))
        some = _running(by_image[owners[begin:end]])
        every = _running(_summed(counted, ends[begin : end + 1], by_image))
        hits, seen = hits - some[-1], seen - every[-1]
        some += hits
        every += seen
        yield hits if begin else None, some, every


def _summed(
    images: npt.NDArray[Any], edges: npt.NDArray[Any], by_image: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return ``(p, B)``: the weights of the images from each edge to the next, summed."""
    from scipy.sparse import csr_array

    own = images[edges[0] : edges[-1]]
    shape = (len(edges) - 1, len(by_image))
    rows = csr_array((np.ones(len(own), np.float32), own, edges - edges[0]), shape)
    summed: npt.NDArray[np.float32] = rows @ by_image
    return summed


def _running(rows: npt.NDArray[np.float32]) -> Sampled:
    """Return running sums over ``(p, B)`` rows; row by row, because numpy's are slow that way."""
    sums = rows.astype(np.float64)
    for one, following in itertools.pairwise(sums):
        following += one
    return sums


def reached(recall: Sampled) -> npt.NDArray[np.int64]:
    """Return how many of the recall points each recall reaches, as `np.searchsorted` tells.

    The points are so regular that only the nearest one has to be looked at.
    """
    most = len(RECALLS) - 1
    nearest = (recall * most + 0.5).astype(np.int64)
    np.minimum(nearest, most, out=nearest)
    points: npt.NDArray[np.int64] = nearest + (RECALLS.take(nearest) <= recall)
    return points
