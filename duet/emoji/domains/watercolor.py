"""Painted Twemoji on washes: soft colours that dry darker at the rim, wobbly shapes, grain."""

from __future__ import annotations

from duet.emoji.backgrounds import washes
from duet.emoji.domains.base import Domain
from duet.emoji.finishing import dried
from duet.emoji.glyphs import Artwork

DOMAIN = Domain(
    artworks=((Artwork("twemoji", "painted"), 1.0),),
    background=washes,
    finish=dried,
    wobble=1.6,
)
