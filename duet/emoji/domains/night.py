"""The flat domain at night: little bluish light, one or two lamps, the noise of a high ISO."""

from __future__ import annotations

import numpy as np

from duet.emoji.backgrounds import photo
from duet.emoji.domains.base import Domain
from duet.emoji.finishing import albumentations_functional, camera, sensor_noise
from duet.emoji.glyphs import Artwork
from duet.emoji.raster import Image, Rng, as_uint8
from duet.emoji.vocabulary import Pool

_LAMP = np.array([255.0, 214.0, 150.0], np.float32)


def _finish(rng: Rng, image: Image, pool: Pool) -> Image:
    functional = albumentations_functional()
    dark = functional.gamma_transform(camera(rng, image, pool), float(rng.uniform(1.5, 2.1)))
    size = image.shape[0]
    light = np.full((size, size, 3), (0.34, 0.42, 0.62), np.float32) * rng.uniform(0.8, 1.1)
    y, x = np.ogrid[0:size, 0:size]
    for _ in range(int(rng.integers(1, 3))):
        cx, cy, radius = (
            rng.uniform(0, size),
            rng.uniform(0, 0.6 * size),
            rng.uniform(0.2, 0.5) * size,
        )
        glow = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * radius**2)).astype(np.float32)
        light += glow[..., None] * (_LAMP / 255) * np.float32(rng.uniform(0.35, 0.7))
    lit = as_uint8(dark * light)
    # Not albumentations' iso_noise: on dark pictures its Poisson steps become white specks.
    return sensor_noise(rng, lit, pool, rng.uniform(4, 9), colour=rng.uniform(2, 6))


DOMAIN = Domain(artworks=((Artwork("twemoji"), 1.0),), background=photo, finish=_finish, shadow=0.2)
