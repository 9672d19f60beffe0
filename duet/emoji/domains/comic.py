"""OpenMoji, and Twemoji redrawn with flat colours and black outlines, on comic backgrounds.

The inked Twemoji share their shapes with `flat`, so that something can be transferred; the
OpenMoji share only the meaning.
"""

from __future__ import annotations

from duet.emoji.backgrounds import Rng, halftone, panels, rays
from duet.emoji.domains.base import Domain
from duet.emoji.finishing import printed
from duet.emoji.glyphs import Artwork
from duet.emoji.raster import Image
from duet.emoji.vocabulary import Pool


def _background(rng: Rng, size: int, pool: Pool) -> Image:
    return (halftone, rays, panels)[int(rng.integers(3))](rng, size, pool)


DOMAIN = Domain(
    artworks=((Artwork("openmoji"), 0.6), (Artwork("twemoji", "inked"), 0.4)),
    background=_background,
    finish=printed,
)
