"""The visual domains as rows of data: how objects are drawn, on what, and how the picture ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from duet.emoji.backgrounds import (
    Background,
    board,
    gradient,
    halftone,
    one_of,
    panels,
    paper,
    photo,
    rays,
    washes,
)
from duet.emoji.finishing import at_night, camera, dried, dusty, graphite, in_fog, printed
from duet.emoji.glyphs import Artwork
from duet.emoji.raster import Image, Rng
from duet.emoji.styles import chalked, inked, painted, pencilled, sticker
from duet.emoji.vocabulary import Pool


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One domain. The geometry of a scene is decided by `scenes`, never by a look.

    Attributes:
        artworks: How objects are drawn, each with its probability (they sum to 1); one choice per
            object.
        background: ``(rng, size, pool) -> (size, size, 3)`` uint8 RGB.
        finish: Light, weather, noise: same shape in and out. It must not move anything (boxes are
            exact).
        shadow: Darkness of the soft shadow under each object, in range [0, 1].
        wobble: Amplitude of the hand-drawn distortion of each object, pixels.
    """

    artworks: tuple[tuple[Artwork, float], ...]
    background: Background
    finish: Callable[[Rng, Image, Pool], Image]
    shadow: float = 0.0
    wobble: float = 0.0


_TWEMOJI = ((Artwork("twemoji"), 1.0),)
_INKS = ((196, 48, 43), (28, 98, 178), (32, 124, 70), (224, 140, 20), (112, 60, 150), (40, 40, 46))
_CHALKS = ((240, 240, 232), (246, 224, 130), (244, 176, 186))

LOOKS: Mapping[str, Look] = {
    "flat": Look(artworks=_TWEMOJI, background=photo, finish=camera, shadow=0.45),
    # The inked Twemoji share their shapes with `flat`, so that something can be transferred; the
    # OpenMoji share only the meaning.
    "comic": Look(
        artworks=((Artwork("openmoji"), 0.6), (Artwork("twemoji", inked), 0.4)),
        background=one_of(halftone, rays, panels),
        finish=printed,
    ),
    "watercolor": Look(
        artworks=((Artwork("twemoji", painted), 1.0),),
        background=washes,
        finish=dried,
        wobble=1.6,
    ),
    "sketch": Look(
        artworks=((Artwork("twemoji", pencilled), 0.6), (Artwork("openmoji", pencilled), 0.4)),
        background=paper,
        finish=graphite,
        wobble=0.8,
    ),
    "night": Look(artworks=_TWEMOJI, background=photo, finish=at_night, shadow=0.2),
    "fog": Look(artworks=_TWEMOJI, background=photo, finish=in_fog, shadow=0.25),
    "sticker": Look(
        artworks=tuple((Artwork("fontawesome", sticker(*ink)), 1 / len(_INKS)) for ink in _INKS),
        background=one_of(photo, gradient),
        finish=camera,
        shadow=0.35,
    ),
    "chalk": Look(
        artworks=tuple(
            (Artwork("fontawesome", chalked(*chalk)), 1 / len(_CHALKS)) for chalk in _CHALKS
        ),
        background=board,
        finish=dusty,
        wobble=1.2,
    ),
}
"""Every domain of `plan.DOMAINS`."""
