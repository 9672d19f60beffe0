"""Greedy suppression in numpy: the best box stays and hides others, then the next of the rest.

Shape legend: N boxes of one image, best first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.intp]

_BLOCK = 64  # boxes that are compared with each other at once; 512 took 10 times as long


def staying(
    count: int, hidden: Callable[[Places, Places], npt.NDArray[np.bool_]], limit: int
) -> Places:
    """Return which boxes no better one that stays hides; rising, at most ``limit``.

    In blocks: all pairs of thousands of boxes would take gigabytes, and most are never needed.

    Args:
        count: Number of boxes; they are 0 to count - 1, best first.
        hidden: ``hidden(n, m)``: ``(n, m)``, whether each of the second boxes hides each of the
            first.
        limit: At most this many stay.
    """
    kept: Places = np.zeros(0, np.intp)
    for start in range(0, count, _BLOCK):
        block: Places = np.arange(start, min(start + _BLOCK, count))
        if len(kept):
            block = block[~hidden(block, kept).any(1)]
        better = np.tril(hidden(block, block), -1)
        stays: npt.NDArray[np.bool_] = np.ones(len(block), bool)
        before: npt.NDArray[np.bool_] = np.zeros(len(block), bool)
        # Each round settles at least one box more; as a rule three are enough.
        while not np.array_equal(stays, before):
            before, stays = stays, np.asarray(~(better & stays).any(1))
        kept = np.concatenate((kept, block[stays]))
        if len(kept) >= limit:
            break
    return kept[:limit]


def overlaps(one_N4: npt.NDArray[Any], other_M4: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return ``(N, M)``: intersection over union of xyxy boxes, to the bit as torchvision has it.

    Of empty boxes 0 / 0 is NaN, which is more than no threshold.
    """
    ours, theirs = one_N4.T[:, :, None], np.ascontiguousarray(other_M4.T)
    wide = np.minimum(ours[2], theirs[2]) - np.maximum(ours[0], theirs[0])
    high = np.minimum(ours[3], theirs[3]) - np.maximum(ours[1], theirs[1])
    both = np.maximum(wide, 0, out=wide) * np.maximum(high, 0, out=high)
    union = (ours[2] - ours[0]) * (ours[3] - ours[1])
    union = union + (theirs[2] - theirs[0]) * (theirs[3] - theirs[1]) - both
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: npt.NDArray[Any] = np.divide(both, union, out=both)
    return ratio
