"""The flat domain in fog: contrast lost to a pale veil that is thicker in patches."""

from __future__ import annotations

import numpy as np

from duet.emoji.backgrounds import photo
from duet.emoji.domains.base import Domain
from duet.emoji.finishing import albumentations_functional, camera, sensor_noise
from duet.emoji.glyphs import Artwork
from duet.emoji.raster import Image, Rng
from duet.emoji.vocabulary import Pool

_PATCHES = 24  # a copy of the image each: 24 cost 0.5 ms at 160 px


def _finish(rng: Rng, image: Image, pool: Pool) -> Image:
    size = image.shape[0]
    veil = rng.uniform(0.3, 0.5)
    pale = np.float32(rng.uniform(195, 225)) + rng.uniform(-6, 6, 3).astype(np.float32)
    hazy = (camera(rng, image, pool) * np.float32(1 - veil) + pale * np.float32(veil)).astype(
        np.uint8
    )
    positions = [(int(x), int(y)) for x, y in rng.integers(0, size, (_PATCHES, 2))]
    radii = [int(radius) for radius in rng.integers(size // 8, size // 3, _PATCHES)]
    foggy: Image = albumentations_functional().add_fog(
        hazy, float(rng.uniform(0.5, 0.8)), 0.1, positions, radii
    )
    return sensor_noise(rng, foggy, pool, 3.0)


DOMAIN = Domain(
    artworks=((Artwork("twemoji"), 1.0),), background=photo, finish=_finish, shadow=0.25
)
