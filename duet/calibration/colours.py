"""Images as if they had the colours of others: mean and spread of each channel are moved.

Reinhard et al., "Color transfer between images" (IEEE CG&A 2001), in RGB and for whole sets of
images: one image keeps what tells it from the others of its set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from duet.images import Image, read_image
from duet.increments.colours import Colours, Three

STRONGEST = 4.0
"""Largest factor by which the spread of a channel is stretched or shrunk."""


def colours_of(images: Iterable[Path]) -> Colours:
    """Return the colours of image files.

    Raises:
        DataError: One cannot be read.
    """
    sums = []
    for path in images:
        pixels = read_image(path)[..., ::-1].reshape(-1, 3).astype(np.int64)  # RGB
        # Whole numbers: the same on every processor.
        sums.append([*(pixels.sum(0) / len(pixels)), *((pixels**2).sum(0) / len(pixels))])
    means = [math.fsum(column) / len(sums) for column in zip(*sums, strict=True)]
    deviations = [math.sqrt(max(means[k + 3] - means[k] ** 2, 0.0)) for k in range(3)]
    return Colours(mean=_three(means), spread=_three(deviations))


def as_if(image_BGR: Image, own: Colours, wanted: Colours) -> Image:
    """Return an image of a set with colours ``own`` as one of a set with colours ``wanted``.

    Args:
        image_BGR: ``(H, W, 3)`` uint8; not changed.
        own: Of the set that it belongs to.
        wanted: Of the other set.
    """
    gains = [_gain(a, b) for a, b in zip(own.spread, wanted.spread, strict=True)]
    offsets = [b - gain * a for a, b, gain in zip(own.mean, wanted.mean, gains, strict=True)]
    levels = np.arange(256)[:, None] * np.array(gains) + np.array(offsets)
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)[:, ::-1]  # BGR
    return np.stack([table[image_BGR[..., k], k] for k in range(3)], axis=-1)


def _gain(own: float, wanted: float) -> float:
    if not own or not wanted:  # one colour all over
        return 1.0
    return min(max(wanted / own, 1 / STRONGEST), STRONGEST)


def _three(numbers: list[float]) -> Three:
    return round(numbers[0], 2), round(numbers[1], 2), round(numbers[2], 2)
