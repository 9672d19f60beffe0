"""Pretraining scenes: every drawing style of the series, on photographs and gradients."""

from __future__ import annotations

from duet.emoji.backgrounds import Rng, gradient, photo
from duet.emoji.domains.base import Domain
from duet.emoji.finishing import camera
from duet.emoji.glyphs import Artwork
from duet.emoji.raster import Image
from duet.emoji.vocabulary import Pool

# Photographs twice: the sharpest clutter teaches most about what is not an object. No halftone or
# paper: the series' later domains must be new to the pretrained detector.
_BACKGROUNDS = (photo, photo, gradient)


def _background(rng: Rng, size: int, pool: Pool) -> Image:
    return _BACKGROUNDS[int(rng.integers(len(_BACKGROUNDS)))](rng, size, pool)


DOMAIN = Domain(
    artworks=(
        (Artwork("twemoji"), 0.35),
        (Artwork("openmoji"), 0.3),
        (Artwork("twemoji", "inked"), 0.2),
        (Artwork("twemoji", "swapped"), 0.15),
    ),
    background=_background,
    finish=camera,
    shadow=0.3,
)
