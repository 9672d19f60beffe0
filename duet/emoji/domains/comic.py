"""OpenMoji, and Twemoji redrawn with flat colours and black outlines, on comic backgrounds.

The inked Twemoji share their shapes with `flat`, so that something can be transferred; the
OpenMoji share only the meaning.
"""

from __future__ import annotations

from duet.emoji.backgrounds import halftone, one_of, panels, rays
from duet.emoji.domains.base import Domain
from duet.emoji.finishing import printed
from duet.emoji.glyphs import Artwork

DOMAIN = Domain(
    artworks=((Artwork("openmoji"), 0.6), (Artwork("twemoji", "inked"), 0.4)),
    background=one_of(halftone, rays, panels),
    finish=printed,
)
