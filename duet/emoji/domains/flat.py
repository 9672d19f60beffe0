"""Twemoji with soft shadows on photographs, in varied light."""

from __future__ import annotations

from duet.emoji.backgrounds import photo
from duet.emoji.domains.base import Domain
from duet.emoji.finishing import camera
from duet.emoji.glyphs import Artwork

DOMAIN = Domain(artworks=((Artwork("twemoji"), 1.0),), background=photo, finish=camera, shadow=0.45)
