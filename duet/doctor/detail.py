"""Do two pictures laid on each other share their detail, or only how light is spread?

Two skies, two fogs or two gradients fit each other as well as a picture and its copy do: where
there is nothing to see, nothing can differ. Only fine structure tells that a picture is the same
one: it must be there, along both axes, in many places or at the very same one, and once only.

Shapes: P pairs, S the side of the square pictures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from duet.doctor.align import Laid, Pictures
from duet.series.model import Flags

Gradients = NDArray[np.float32]
"""``(p, s, s, 2) float32``: slope of the detail along x and y, 0 outside of the overlap."""

_FINE, _COARSE = 0.0105, 0.031  # of the side: detail is what one blur keeps and the other takes
_EDGE = 4  # pixels at the rim of the overlap that do not count
_LEAST = 0.45  # grey levels per pixel: below, detail is noise and rounding
_AGREEMENT = 0.7  # correlation of copies: JPEG quality 40 has 0.9, another scene less than 0.3
_TILES, _TEXTURED = 12, 1.0  # tiles per side; grey levels per pixel from which one has detail
_SPREAD = 0.4  # share of tiles with detail that makes up for an unknown place
_TILE_AGREEMENT, _AGREEING = 0.5, 0.95  # correlation of a tile, and share of the tiles with detail
_UNMOVED = 0.01  # half a pixel: a disc fits every other disc, but rarely in the same place
_BEYOND = 0.03  # a cut-out lies within its picture
_OVERLAP = 0.4  # of the area, in a place where a pattern may fit again
_AGAIN = 0.75  # a board of squares fits itself in many places, this well


def same_detail(laid: Laid, second_PSS: Pictures) -> Flags:
    """Return ``(p,) bool``: the pairs that share detail as only one and the same picture does.

    Args:
        laid: The first pictures on the second ones.
        second_PSS: Grey levels, 0..255.
    """
    first, second = _gradients(laid, laid.pictures), _gradients(laid, second_PSS)
    spread, agreeing = _tiles(first, second)
    found = _agree_along_both_axes(first, second) & (agreeing >= _AGREEING) & _cut_out(laid.place)
    moved = found & (np.abs(laid.place).max(axis=1) >= _UNMOVED)
    found[moved] = _once(first[moved], second[moved]) & (spread[moved] >= _SPREAD)
    return found


def _gradients(laid: Laid, pictures: Pictures) -> Gradients:
    from scipy.ndimage import binary_erosion, gaussian_filter

    side = pictures.shape[-1]
    fine, coarse = (
        gaussian_filter(pictures, (0, share * side, share * side)) for share in (_FINE, _COARSE)
    )
    down, across = np.gradient(fine - coarse, axis=(1, 2))
    width = 2 * _EDGE + 1
    core = binary_erosion(laid.inside, np.ones((1, width, width), np.bool_))
    return np.asarray(np.stack([across, down], axis=-1) * core[..., None], np.float32)


def _agree_along_both_axes(first: Gradients, second: Gradients) -> Flags:
    """Tell whether detail correlates along the direction in which there is least of it.

    The light of a horizon or of stripes correlates across them however they lie along them.
    """
    overlap = np.maximum((second != 0).any(axis=3).sum(axis=(1, 2)), 1)
    tensor = np.einsum("pijk,pijl->pkl", second, second) / overlap[:, None, None]
    strengths, directions = np.linalg.eigh(tensor.astype(np.float64))  # the weakest first
    a, b = (np.einsum("pijk,pk->pij", g, directions[:, :, 0]) for g in (first, second))
    norms = np.sqrt((a**2).sum(axis=(1, 2)) * (b**2).sum(axis=(1, 2)))
    correlation = (a * b).sum(axis=(1, 2)) / np.maximum(norms, 1e-9)
    enough = strengths[:, 0] >= _LEAST**2
    return np.asarray(enough & (correlation >= _AGREEMENT), np.bool_)


def _tiles(first: Gradients, second: Gradients) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``(p,)`` each: share of tiles with detail, and share of these in which it agrees."""

    def mean(product: Gradients) -> NDArray[np.float64]:
        size = product.shape[1] // _TILES
        cut = product[:, : size * _TILES, : size * _TILES].sum(axis=-1, dtype=np.float64)
        return np.asarray(cut.reshape(-1, _TILES, size, _TILES, size).mean(axis=(2, 4)), np.float64)

    own, other = mean(first**2), mean(second**2)
    textured = np.maximum(own, other) >= _TEXTURED**2
    agrees = mean(first * second) >= _TILE_AGREEMENT * np.sqrt(own * other)
    count = textured.sum(axis=(1, 2))
    shared = (textured & agrees).sum(axis=(1, 2)) / np.maximum(count, 1)
    return count / _TILES**2, np.where(count, shared, 1.0)


def _once(first: Gradients, second: Gradients) -> Flags:
    """Tell whether the pictures fit in one place only; patterns that repeat fit in many."""
    side = first.shape[1]
    size = (2 * side, 2 * side)  # zeros around, so that nothing comes in again from the other end

    def shifted(a: Gradients, b: Gradients) -> NDArray[np.float64]:
        spectra = [np.fft.rfft2(item, s=size, axes=(1, 2)) for item in (a, b)]
        product = (spectra[0] * spectra[1].conj()).sum(axis=-1)
        return np.fft.irfft2(product, s=size, axes=(1, 2))

    ones = np.ones((1, side, side, 1), np.float32)
    energies = shifted(first**2, np.broadcast_to(ones, first.shape)) * shifted(
        np.broadcast_to(ones, first.shape), second**2
    )
    fits = shifted(first, second) / np.sqrt(np.maximum(energies, 1e-6))
    distance = np.minimum(np.arange(2 * side), 2 * side - np.arange(2 * side))
    away = distance > 2 * _COARSE * side
    overlap = (side - distance)[:, None] * (side - distance)[None, :]
    looked = (away[:, None] | away[None, :]) & (overlap > _OVERLAP * side**2)
    elsewhere = np.where(looked, fits, -np.inf).max(axis=(1, 2))
    return np.asarray(elsewhere < _AGAIN * fits[:, 0, 0], np.bool_)


def _cut_out(place: NDArray[np.float64]) -> Flags:
    """Tell whether, along each axis, one picture lies within the other.

    Cutting off and framing do that; a camera that moved does not.
    """
    reach, shift = 1 + place[:, 0::2], place[:, 1::2]
    low, high = shift - reach, shift + reach
    beyond = np.maximum(np.maximum(-1 - low, high - 1), 0)
    within = np.maximum(np.maximum(low + 1, 1 - high), 0)
    return np.asarray((np.minimum(beyond, within) <= _BEYOND).all(axis=1), np.bool_)
