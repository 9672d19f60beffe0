"""Is one picture a copy of the other? Lay it on top, equalise the light, look at what is left.

Two photographs of one place resemble each other as much as a photograph and its copy do, by any
measure of the whole picture. What tells them apart is local: where an object came, left or moved,
the difference is large in one place; where a copy was compressed, resized, brightened or cropped,
it is small everywhere.

Shapes: P pairs, S the side of the square pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.float32]
"""``(p, s, s) float32`` grey levels, 0..255."""

ROUGH, FINE = (0.03,), (0.03, 0.012)
"""Blurs, as a share of the side, under which two pictures are aligned one after the other."""

_STEPS = 4  # Gauss-Newton steps per blur
_MOST_SHIFT, _MOST_SCALE = 0.2, 0.25  # more is no longer a slight crop
_MOST_GAIN = 2.0  # between the contrasts of the two
_PATCH = 0.06  # of the side: what differs must be this large to count


@dataclass(frozen=True, eq=False)
class Laid:
    """First pictures laid on the second ones.

    Attributes:
        pictures: ``(p, s, s) float32``: moved, scaled, and in the light of the second.
        inside: ``(p, s, s) bool``: the pixels that came from inside the first picture.
        place: ``(p, 4) float64``: scale - 1 and shift along y, the same along x, in coordinates
            from -1 to 1: the pixel at ``v`` came from ``scale * v + shift``.
        light: ``(p, 2) float64``: gain, and offset in grey levels.
    """

    pictures: Pictures
    inside: NDArray[np.bool_]
    place: NDArray[np.float64]
    light: NDArray[np.float64]

    def take(self, pairs: NDArray[np.bool_]) -> Laid:
        """Return some of the pairs."""
        return Laid(self.pictures[pairs], self.inside[pairs], self.place[pairs], self.light[pairs])


def lay(
    first_PSS: Pictures,
    second_PSS: Pictures,
    cutouts_P3: NDArray[np.float64],
    blurs: Sequence[float] = FINE,
) -> Laid:
    """Shift, scale and light each first picture so that it fits the second best.

    Args:
        first_PSS: Grey levels, 0..255.
        second_PSS: Grey levels, 0..255.
        cutouts_P3: Share kept, top and left end of the part of the first picture with which to
            start (`duet.doctor.fingerprint.CUTOUTS`).
        blurs: From coarse to fine.
    """
    from scipy.ndimage import gaussian_filter

    side = first_PSS.shape[-1]
    scale, top, left = cutouts_P3.T
    # (scale - 1, shift) per axis, in coordinates from -1 to 1 around the centre.
    place = np.stack([scale - 1, 2 * top + scale - 1, scale - 1, 2 * left + scale - 1], axis=1)
    light = np.tile([1.0, 0.0], (len(place), 1))
    for blur in blurs:
        sigma = (0.0, blur * side, blur * side)
        a, b = gaussian_filter(first_PSS, sigma), gaussian_filter(second_PSS, sigma)
        for _ in range(_STEPS):
            _step(a, b, place, light)
    warped, inside = _warp(first_PSS, place)
    gain = light[:, :1, None].astype(np.float32)
    expected = (gain * warped + light[:, 1:, None].astype(np.float32)).clip(0, 255)
    return Laid(expected, inside, place, light)


def differences(laid: Laid, second_PSS: Pictures) -> NDArray[np.float64]:
    """Return how much each pair differs where it differs most.

    Returns:
        ``(p,) float64``: the largest mean difference of a patch of 6 % of the side, in grey
        levels of the pair's stronger contrast stretched to a standard deviation of 50; infinite
        where the two cannot be laid on top of each other.
    """
    from scipy.ndimage import uniform_filter

    size = max(3, round(_PATCH * second_PSS.shape[-1]))
    patches = uniform_filter(
        np.where(laid.inside, second_PSS - laid.pictures, 0.0), (0, size, size)
    )
    largest = np.abs(patches).max(axis=(1, 2)).astype(np.float64)
    contrasts = [picture.std(axis=(1, 2)) for picture in (second_PSS, laid.pictures)]
    contrast = np.maximum(*contrasts).astype(np.float64)
    scaled = largest * 50 / np.maximum(contrast, 10)
    moved = np.abs(laid.place).max(axis=1) / 2
    gain = laid.light[:, 0]
    fits = (laid.inside.mean(axis=(1, 2)) > 0.6) & (moved < max(_MOST_SHIFT, _MOST_SCALE))
    fits &= (gain < _MOST_GAIN) & (gain > 1 / _MOST_GAIN)
    return np.where(fits, scaled, np.inf)


def _step(a: Pictures, b: Pictures, place: NDArray[np.float64], light: NDArray[np.float64]) -> None:
    """Improve place and light of every pair by one damped Gauss-Newton step, in place."""
    side = a.shape[-1]
    warped, inside = _warp(a, place)
    down, across = np.gradient(warped, 2 / side, axis=(1, 2))
    y = _centres(side)[None, :, None]
    x = _centres(side)[None, None, :]
    gain = light[:, :1, None].astype(np.float32)
    ones = np.ones_like(warped)
    columns = np.stack(
        [gain * down * y, gain * down, gain * across * x, gain * across, warped, ones], axis=1
    ).reshape(len(a), 6, -1)
    residual = (b - gain * warped - light[:, 1:, None].astype(np.float32)).reshape(len(a), -1, 1)
    weight = inside & (b < 250) & (b > 5)  # what is over-exposed tells little
    weighted = columns * weight.reshape(len(a), 1, -1)
    normal = (weighted @ columns.transpose(0, 2, 1)).astype(np.float64)
    target = (weighted @ residual).astype(np.float64)
    diagonal = np.einsum("pkk->pk", normal)
    damping = 1e-3 * diagonal + 1e-6 * diagonal.max(axis=1, keepdims=True) + 1e-9
    normal += np.eye(6) * damping[:, :, None]
    delta = np.linalg.solve(normal, target)[..., 0]
    place += delta[:, :4]
    np.clip(place, -2 * _MOST_SCALE, 2 * _MOST_SCALE, out=place)
    light += delta[:, 4:]
    np.clip(light[:, 0], 0.2, 5.0, out=light[:, 0])


def _warp(a: Pictures, place: NDArray[np.float64]) -> tuple[Pictures, NDArray[np.bool_]]:
    """Return each picture moved to its place, and which of its pixels came from inside."""
    side = a.shape[-1]
    rows, rows_inside = _sampled(a, place[:, 0], place[:, 1], axis=1)
    both, columns_inside = _sampled(rows, place[:, 2], place[:, 3], axis=2)
    inside = rows_inside[:, :, None] & columns_inside[:, None, :]
    return both.reshape(len(a), side, side), inside


def _sampled(
    a: Pictures, scale: NDArray[np.float64], shift: NDArray[np.float64], *, axis: int
) -> tuple[Pictures, NDArray[np.bool_]]:
    """Return pictures sampled linearly along one axis at ``(1 + scale) * x + shift``."""
    side = a.shape[-1]
    centres = (1 + scale)[:, None] * _centres(side)[None] + shift[:, None]
    cells = (centres + 1) * side / 2 - 0.5
    inside = (cells >= -0.5) & (cells <= side - 0.5)
    cells = cells.clip(0, side - 1)
    below = np.minimum(cells.astype(np.int64), side - 2)
    share = (cells - below).astype(np.float32)
    shape = (len(a), side, 1) if axis == 1 else (len(a), 1, side)
    below, share = below.reshape(shape), share.reshape(shape)
    low = np.take_along_axis(a, below, axis=axis)
    high = np.take_along_axis(a, below + 1, axis=axis)
    return low + share * (high - low), inside


def _centres(side: int) -> NDArray[np.float32]:
    """Return the centres of the pixels of one axis, from -1 to 1."""
    return ((2 * np.arange(side) + 1) / side - 1).astype(np.float32)
