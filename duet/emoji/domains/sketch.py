"""Pencil drawings of both artworks on paper."""

from __future__ import annotations

from duet.emoji.backgrounds import paper
from duet.emoji.domains.base import Domain
from duet.emoji.finishing import graphite
from duet.emoji.glyphs import Artwork

DOMAIN = Domain(
    artworks=((Artwork("twemoji", "pencilled"), 0.6), (Artwork("openmoji", "pencilled"), 0.4)),
    background=paper,
    finish=graphite,
    wobble=0.8,
)
