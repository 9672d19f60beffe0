"""What a visual domain is: drawings, a background, and what happens to the finished picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from duet.emoji.backgrounds import Background
from duet.emoji.glyphs import Artwork
from duet.emoji.raster import Image, Rng
from duet.emoji.vocabulary import Pool


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """One look. The geometry of a scene is decided by `scenes`, never by a domain."""

    artworks: tuple[tuple[Artwork, float], ...]
    """How objects are drawn, each with its probability (they sum to 1); one choice per object."""

    background: Background
    """``(rng, size, pool) -> (size, size, 3)`` uint8 RGB."""

    finish: Callable[[Rng, Image, Pool], Image]
    """Light, weather, noise: same shape in and out. It must not move anything (boxes are exact)."""

    shadow: float = 0.0
    """Darkness of the soft shadow under each object, in range [0, 1]."""

    wobble: float = 0.0
    """Amplitude of the hand-drawn distortion of each object, pixels."""
