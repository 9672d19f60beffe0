"""What happens to a composed picture: light, weather, blur, print, drying paint. Nothing moves.

Every finish is a function ``(rng, image, pool) -> image`` on ``(size, size, 3)`` uint8 RGB.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import cv2
import numpy as np

from duet.emoji.backgrounds import noise_crop
from duet.emoji.raster import Image, Rng, as_uint8
from duet.emoji.vocabulary import Pool

_PATCHES = 24  # of fog, a copy of the image each: 24 cost 0.5 ms at 160 px
_LAMP = np.array([255.0, 214.0, 150.0], np.float32)


def camera(rng: Rng, image: Image, pool: Pool) -> Image:
    """Exposure, contrast, white balance, a light falloff, and blur in one picture of three."""
    size = image.shape[0]
    gain = rng.uniform(0.8, 1.15) * (1 + rng.uniform(-0.06, 0.06, 3))
    contrast = rng.uniform(0.85, 1.15)
    lit = (image.astype(np.float32) - 128) * np.float32(contrast) + 128
    lit *= gain.astype(np.float32)
    slope_x, slope_y = rng.uniform(-0.15, 0.15, 2).astype(np.float32)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    lit *= (1 + slope_x * ramp[None, :] + slope_y * ramp[:, None])[..., None]
    result = as_uint8(lit)
    if rng.random() < 0.33:
        result = _blurred(result, rng.uniform(0.4, 1.0))
    return sensor_noise(rng, result, pool, 2.0)


def sensor_noise(
    rng: Rng, image: Image, pool: Pool, deviation: float, *, colour: float = 0.0
) -> Image:
    """Add noise of the given deviations, grey levels: the same and a separate one per channel."""
    size = image.shape[0]
    noise: np.ndarray = noise_crop(rng, size, pool, "grain")[..., None] * np.float32(deviation)
    if colour:
        channels = [noise_crop(rng, size, pool, "grain") for _ in range(3)]
        noise = noise + np.stack(channels, axis=2) * np.float32(colour)
    return as_uint8(image + noise)


def _blurred(image: Image, sigma: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def printed(rng: Rng, image: Image, pool: Pool) -> Image:
    """Ink on pulp: fewer tones, faded or strong inks, a dot screen over the shadows."""
    size = image.shape[0]
    ink = np.clip(
        (image.astype(np.float32) - 128) * np.float32(rng.uniform(0.95, 1.25)) + 128, 0, 255
    )
    if rng.random() < 0.4:
        y, x = np.ogrid[0:size, 0:size]
        pitch = rng.uniform(3.0, 5.0)
        dots = np.sin(x * 2 * np.pi / pitch) * np.sin(y * 2 * np.pi / pitch)
        ink -= (dots > 0.3).astype(np.float32)[..., None] * np.float32(rng.uniform(8, 22))
    tint = np.array([1.0, 0.97, 0.9]) * rng.uniform(0.88, 1.0) + rng.uniform(-0.03, 0.03, 3)
    result = as_uint8(ink * tint.astype(np.float32))
    if rng.random() < 0.25:
        result = _blurred(result, rng.uniform(0.4, 0.8))
    return result


def dried(rng: Rng, image: Image, pool: Pool) -> Image:
    """Watercolour: pigment gathers in clouds, the paper's grain shows through."""
    cloud = noise_crop(rng, image.shape[0], pool, "cloud")
    grain = noise_crop(rng, image.shape[0], pool, "grain")
    white = 255 - image.astype(np.float32)
    strength = np.clip(0.95 + 0.14 * cloud + 0.05 * grain, 0.4, 1.4)[..., None]
    painted = 255 - white * strength * np.float32(rng.uniform(0.85, 1.1))
    return as_uint8(painted + 3 * grain[..., None])


def graphite(rng: Rng, image: Image, pool: Pool) -> Image:
    """Pencil: nearly grey, the stroke breaks on the paper's grain."""
    grain = noise_crop(rng, image.shape[0], pool, "grain")
    white = 250 - image.astype(np.float32)
    pressure = np.clip(rng.uniform(0.75, 1.05) + 0.16 * grain, 0.2, 1.3)[..., None].astype(
        np.float32
    )
    return as_uint8(250 - white * pressure)


def dusty(rng: Rng, image: Image, pool: Pool) -> Image:
    """Chalk: the stroke breaks on the board's grain, dust lies over everything."""
    size = image.shape[0]
    pale = image.astype(np.float32) - 50
    pressure = np.clip(
        rng.uniform(0.75, 1.05) + 0.2 * noise_crop(rng, size, pool, "grain"), 0.2, 1.3
    )
    dust = np.clip(0.5 + noise_crop(rng, size, pool, "cloud"), 0, 2) * rng.uniform(2, 10)
    return as_uint8(50 + pale * pressure[..., None] + dust[..., None])


def in_fog(rng: Rng, image: Image, pool: Pool) -> Image:
    """Contrast lost to a pale veil that is thicker in patches."""
    size = image.shape[0]
    veil = rng.uniform(0.3, 0.5)
    pale = np.float32(rng.uniform(195, 225)) + rng.uniform(-6, 6, 3).astype(np.float32)
    hazy = (camera(rng, image, pool) * np.float32(1 - veil) + pale * np.float32(veil)).astype(
        np.uint8
    )
    positions = [(int(x), int(y)) for x, y in rng.integers(0, size, (_PATCHES, 2))]
    radii = [int(radius) for radius in rng.integers(size // 8, size // 3, _PATCHES)]
    foggy: Image = _albumentations().add_fog(
        hazy, float(rng.uniform(0.5, 0.8)), 0.1, positions, radii
    )
    return sensor_noise(rng, foggy, pool, 3.0)


def at_night(rng: Rng, image: Image, pool: Pool) -> Image:
    """Little bluish light, one or two lamps, the noise of a high ISO."""
    functional = _albumentations()
    dark = functional.gamma_transform(camera(rng, image, pool), float(rng.uniform(1.5, 2.1)))
    size = image.shape[0]
    light = np.full((size, size, 3), (0.34, 0.42, 0.62), np.float32) * rng.uniform(0.8, 1.1)
    y, x = np.ogrid[0:size, 0:size]
    for _ in range(int(rng.integers(1, 3))):
        cx, cy = rng.uniform(0, size), rng.uniform(0, 0.6 * size)
        radius = rng.uniform(0.2, 0.5) * size
        glow = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * radius**2)).astype(np.float32)
        light += glow[..., None] * (_LAMP / 255) * np.float32(rng.uniform(0.35, 0.7))
    lit = as_uint8(dark * light)
    # Not albumentations' iso_noise: on dark pictures its Poisson steps become white specks.
    return sensor_noise(rng, lit, pool, rng.uniform(4, 9), colour=rng.uniform(2, 6))


@functools.cache
def _albumentations() -> Any:
    """Return albumentations' pure pixel functions (every parameter explicit, no global state)."""
    # Otherwise the import asks PyPI for a newer version; duet never goes online by itself.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    from albumentations.augmentations.pixel import functional

    return functional
