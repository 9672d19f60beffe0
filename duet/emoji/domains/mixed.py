"""Pretraining scenes: every drawing style of the series, on photographs and gradients."""

from __future__ import annotations

from duet.emoji.backgrounds import gradient, one_of, photo
from duet.emoji.domains.base import Domain
from duet.emoji.finishing import camera
from duet.emoji.glyphs import Artwork

DOMAIN = Domain(
    artworks=(
        (Artwork("twemoji"), 0.35),
        (Artwork("openmoji"), 0.3),
        (Artwork("twemoji", "inked"), 0.2),
        (Artwork("twemoji", "swapped"), 0.15),
    ),
    # Photographs twice: the sharpest clutter teaches most about what is not an object. No halftone
    # or paper: the series' later domains must be new to the pretrained detector.
    background=one_of(photo, photo, gradient),
    finish=camera,
    shadow=0.3,
)
