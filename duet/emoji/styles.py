"""Redraw a rasterised emoji: posterised with outlines, watercolour, pencil, tinted.

Every style maps ``(h, w, 4)`` uint8 straight RGBA to the same shape. It runs once per emoji and
is cached, so it may be slow; it must use no randomness.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np

from duet.emoji.raster import SOLID, Image

Style: TypeAlias = Callable[[Image], Image]


def plain(rgba: Image) -> Image:
    """The artwork as published."""
    return rgba


def inked(rgba: Image) -> Image:
    """Few flat colours and black lines around and inside: the shape of `plain`, comic colours."""
    alpha = rgba[..., 3]
    posterised = np.minimum(_filled(rgba) // 64 * 85, 255).astype(np.uint8)
    width = _line_width(rgba)
    outline = cv2.dilate(alpha, _disc(width))
    inner = cv2.dilate(_edges(_filled(rgba), alpha), _disc(max(1, width // 2)))
    ink = np.maximum(255 - cv2.erode(alpha, _disc(1)), inner)
    colour = posterised * (1 - ink[..., None] / 255.0) + 20 * (ink[..., None] / 255.0)
    return _rgba(colour, outline)


def painted(rgba: Image) -> Image:
    """Soft washes: blurred bleeding colours, paler inside, a darker rim where pigment gathers."""
    alpha = rgba[..., 3]
    sigma = max(1.0, rgba.shape[0] / 60)
    wash = cv2.bilateralFilter(np.ascontiguousarray(_filled(rgba)), 9, 60, 7)
    wash = cv2.GaussianBlur(wash, (0, 0), sigma).astype(np.float64)
    depth = cv2.distanceTransform((alpha >= SOLID).astype(np.uint8), cv2.DIST_L2, 3)
    rim = np.exp(-depth / (2.0 * sigma))[..., None]
    colour = (255 - (255 - wash) * (0.62 + 0.3 * rim)) * (1 - 0.25 * rim)
    return _rgba(colour, cv2.GaussianBlur(alpha, (0, 0), 0.8))


def pencilled(rgba: Image) -> Image:
    """Dark lines on paper white, with hatching where the artwork is dark."""
    alpha, width = rgba[..., 3], _line_width(rgba)
    colour = _filled(rgba)
    grey = cv2.cvtColor(np.ascontiguousarray(colour), cv2.COLOR_RGB2GRAY).astype(np.int64)
    outline = cv2.subtract(cv2.dilate(alpha, _disc(1)), cv2.erode(alpha, _disc(width)))
    lines = np.maximum(outline, cv2.dilate(_edges(colour, alpha), _disc(max(1, width // 2))))
    rows, columns = np.indices(grey.shape)
    pitch = max(4, rgba.shape[0] // 20)
    once, twice = (rows + columns) % pitch < 1.5, (rows - columns) % pitch < 1.5
    hatch = ((grey < 150) & once) | ((grey < 80) & twice)
    ink = np.maximum(lines, np.where(hatch, 150, 0).astype(np.uint8))[..., None] / 255.0
    shade = 246 - (255 - grey[..., None]) * 0.12
    return _rgba(shade * (1 - ink) + 45 * ink + np.zeros(3), cv2.dilate(alpha, _disc(1)))


def sticker(red: int, green: int, blue: int) -> Style:
    """Return a style: one colour for the whole shape, a paler inner light, a white rim around."""

    def style(rgba: Image) -> Image:
        alpha, width = rgba[..., 3], _line_width(rgba)
        depth = cv2.distanceTransform((alpha >= SOLID).astype(np.uint8), cv2.DIST_L2, 3)
        light = np.clip(depth / (4.0 * width), 0, 1)[..., None] * 0.25
        colour = np.array([red, green, blue]) * (1 - light) + 255 * light
        inside = alpha[..., None] / 255.0
        return _rgba(colour * inside + 250 * (1 - inside), cv2.dilate(alpha, _disc(width)))

    return style


def chalked(red: int, green: int, blue: int) -> Style:
    """Return a style: a rough outline, and strokes that leave half of the inside open."""

    def style(rgba: Image) -> Image:
        alpha, width = rgba[..., 3], _line_width(rgba)
        lines = cv2.subtract(cv2.dilate(alpha, _disc(1)), cv2.erode(alpha, _disc(width + 1)))
        rows, columns = np.indices(alpha.shape)
        pitch = max(5, rgba.shape[0] // 16)
        strokes = np.where((rows + 2 * columns) % pitch < 0.45 * pitch, alpha, 0)
        chalk = np.maximum(lines, (strokes * 0.6).astype(np.uint8))[..., None] / 255.0
        # Between the strokes lies the board, a little rubbed: the shape stays solid.
        colour = np.array([red, green, blue]) * chalk + np.array([58, 68, 64]) * (1 - chalk)
        return _rgba(colour, cv2.dilate(alpha, _disc(1)))

    return style


def swapped(rgba: Image) -> Image:
    """The artwork with its hues turned by 110 degrees."""
    hsv = cv2.cvtColor(np.ascontiguousarray(_filled(rgba)), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int64) + 55) % 180
    return _rgba(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), rgba[..., 3])


def _filled(rgba: Image) -> Image:
    """Return ``(h, w, 3)`` colours on white.

    Otherwise a filter would pull the meaningless colour of transparent pixels into the drawing.
    """
    alpha = rgba[..., 3:] / 255.0
    return (rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _edges(colour: Image, alpha: Image) -> Image:
    """Return ``(h, w)`` uint8 lines, 0 or 255, between differently coloured parts."""
    smooth = cv2.GaussianBlur(np.ascontiguousarray(colour), (0, 0), 1.0)
    lines = np.max([cv2.Canny(smooth[..., channel], 60, 140) for channel in range(3)], axis=0)
    return np.where(alpha >= SOLID, lines, 0).astype(np.uint8)


def _line_width(rgba: Image) -> int:
    return max(1, round(len(rgba) / 48))


def _disc(radius: int) -> Image:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2), np.uint8)


def _rgba(colour: np.ndarray, alpha: np.ndarray) -> Image:
    return np.dstack([np.clip(colour, 0, 255), alpha]).astype(np.uint8)
