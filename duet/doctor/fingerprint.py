"""Perceptual fingerprints of thumbnails, and the search for images with similar ones.

The fingerprint is that of pHash (the lowest coefficients of a discrete cosine transform), but kept
as numbers instead of one bit each: a coefficient near the median flips its bit when an image is
merely compressed again. Lengths are 1 and the mean is left out, so brightness and contrast do not
count. A k-d tree finds neighbours without comparing all pairs.

A cropped copy has another fingerprint. So every image asks with the fingerprints of its own
cut-outs, too: one of them is nearly that of the copy. The fingerprint of its mirror image is the
same but for signs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duet.series.images import THUMBNAIL_SIDE, Thumbnail
from duet.series.model import Ids

RADIUS = 0.5
"""Distance of fingerprints, in range [0, 2], up to which a pair is looked at more closely.

Of 300 photographs, 0.3 % of all pairs are nearer than that; so are 95 % of the copies with 5 %
cropped off each side and every copy that was compressed, resized or brightened.
"""

NEIGHBOURS = 2
"""Pairs an image may propose per cut-out, the nearest: a fixed camera has millions of them."""

CUTOUTS = (
    (1.0, 0.0, 0.0),
    *((0.94, top, left) for top in (0.0, 0.03, 0.06) for left in (0.0, 0.03, 0.06)),
    (0.87, 0.065, 0.065),
)
"""Share of each side that is kept, and where it begins (top, left); the whole image first."""

_COEFFICIENTS = 6  # per axis
# Of a mirrored image, the coefficients of odd waves along x change their sign.
_MIRROR = np.tile((-1.0) ** np.arange(_COEFFICIENTS), _COEFFICIENTS)[1:].astype(np.float32)
_BLANK = 3.0  # grey levels (standard deviation): all black frames look like each other
# The tree leaves out branches beyond RADIUS / (1 + slack): 3 s instead of 45 s for 20 000 images,
# and 99 of 100 neighbours are found all the same. Plain copies are near and looked for exactly.
_EXACT_RADIUS, _SLACK = 0.25, 2.0
_BLOCK = 4096  # thumbnails turned into float32 at a time


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of images that may show the same picture.

    Attributes:
        first: ``(p,) int64`` positions of images.
        second: ``(p,) int64`` positions of other images; no pair comes twice, in neither order.
        cutouts: ``(p,) int64`` positions in `CUTOUTS`: this part of ``first`` resembles ``second``.
        mirrored: ``(p,) bool``: it does so with left and right exchanged.
    """

    first: Ids
    second: Ids
    cutouts: Ids
    mirrored: NDArray[np.bool_]

    def take(self, pairs: Ids) -> Candidates:
        """Return some of the pairs, by position."""
        return Candidates(
            self.first[pairs], self.second[pairs], self.cutouts[pairs], self.mirrored[pairs]
        )


def fingerprints(stack: NDArray[np.uint8], cutout: int = 0) -> NDArray[np.float32]:
    """Return ``(n, 35) float32``, rows of length 1, of the same cut-out of each thumbnail.

    Args:
        stack: ``(n, 32, 32) uint8`` grey.
        cutout: Position in `CUTOUTS`.
    """
    scale, top, left = CUTOUTS[cutout]
    rows, columns = _transform(scale, top), _transform(scale, left)
    found = np.empty((len(stack), _COEFFICIENTS**2 - 1), np.float32)
    for start in range(0, len(stack), _BLOCK):
        block = stack[start : start + _BLOCK].astype(np.float32)
        coefficients = rows @ block @ columns.T
        found[start : start + _BLOCK] = coefficients.reshape(len(block), -1)[:, 1:]
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)
    return found


def similar_pairs(thumbnails: Sequence[Thumbnail]) -> Candidates:
    """Return the pairs of images that may show the same picture; blank ones resemble nothing."""
    from scipy.spatial import cKDTree

    usable = np.flatnonzero([thumbnail.std() >= _BLANK for thumbnail in thumbnails])
    if len(usable) < 2:
        empty = np.zeros(0, np.int64)
        return Candidates(empty, empty, empty, empty.astype(np.bool_))
    stack = np.stack([thumbnails[index] for index in usable.tolist()])
    prints = fingerprints(stack)
    tree = cKDTree(prints)
    count = min(NEIGHBOURS + 1, len(stack))  # the nearest is mostly the image itself
    workers = min(8, os.cpu_count() or 1)
    searches = [(0, False, _EXACT_RADIUS, 0.0), (0, True, _EXACT_RADIUS, 0.0)]
    searches += [(cutout, False, RADIUS, _SLACK) for cutout in range(len(CUTOUTS))]
    parts: list[tuple[Ids, Ids, Ids, NDArray[np.bool_], NDArray[np.float64]]] = []
    for cutout, mirrored, radius, slack in searches:
        distances, found = tree.query(
            prints * _MIRROR if mirrored else fingerprints(stack, cutout),
            k=count,
            distance_upper_bound=radius,
            eps=slack,
            workers=workers,
        )
        first = np.repeat(np.arange(len(stack)), count)
        second = np.asarray(found, np.int64).reshape(-1)
        kept = (second < len(stack)) & (second != first)  # the tree fills up with len(stack)
        first, second = usable[first[kept]], usable[second[kept]]
        kind = (np.full(len(first), cutout), np.full(len(first), mirrored))
        parts.append((first, second, *kind, distances.reshape(-1)[kept]))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return _nearest(Candidates(*columns[:4]), columns[4])


def _nearest(pairs: Candidates, distances: NDArray[np.float64]) -> Candidates:
    """Return each pair once, with the cut-out that resembles most."""
    low, high = np.minimum(pairs.first, pairs.second), np.maximum(pairs.first, pairs.second)
    order = np.lexsort((distances, high, low))
    same = (np.diff(low[order]) == 0) & (np.diff(high[order]) == 0)
    return pairs.take(order[np.concatenate([[True], ~same])] if len(order) else order)


def _transform(scale: float, offset: float) -> NDArray[np.float32]:
    """Return ``(6, 32)``: a cut along one axis, stretched to full length, then the cosines."""
    side = THUMBNAIL_SIDE
    edges = (offset + scale * np.arange(side + 1) / side) * side
    cells = np.arange(side)
    # Share of each source cell that lies in each target cell.
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    resample = np.maximum(overlap, 0.0) / scale
    phases = np.pi * (2 * cells + 1) / (2 * side)
    cosines = np.cos(phases * np.arange(_COEFFICIENTS)[:, None])
    cosines[0] *= 0.5**0.5
    return np.asarray(cosines @ resample * (2 / side) ** 0.5, np.float32)
