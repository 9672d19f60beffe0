"""Backgrounds: crops of sample photographs, comic patterns, paper and gradients.

Every background is a function ``(rng, size, pool) -> (size, size, 3) uint8 RGB``. The pools share
nothing: photographs and paper are cut into a training and a val/test part, and drawn patterns
have palettes of their own for each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from duet.emoji import packages
from duet.emoji.raster import Image, Rng, as_uint8
from duet.emoji.vocabulary import Pool
from duet.errors import DataError

Background = Callable[[Rng, int, Pool], Image]
Region = tuple[float, float, float, float]

_LEFT: Region = (0.0, 0.0, 0.6, 1.0)
_RIGHT: Region = (0.6, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Photo:
    """A bundled sample photograph and the parts used, as fractions ``(x0, y0, x1, y1)``."""

    package: str
    file: str
    train: Region = _LEFT
    eval: Region = _RIGHT
    grey: bool = False


_FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}

# No part used shows one of the 20 classes. Hence only the wood of `coffee` (a laid table), not
# the lake of `china` (ships), and none of astronaut, camera, chelsea, coins (portraits), horse,
# motorcycle. `moon` is left out because its package states no licence for it.
PHOTOS: tuple[Photo, ...] = (
    Photo("skimage", "brick.png", grey=True),
    Photo("skimage", "coffee.png", train=(0.0, 0.6, 0.2, 1.0), eval=(0.82, 0.1, 1.0, 0.9)),
    Photo("skimage", "grass.png", grey=True),
    Photo("skimage", "gravel.png", grey=True),
    Photo("skimage", "hubble_deep_field.jpg"),
    Photo("skimage", "ihc.png"),
    Photo("skimage", "retina.jpg", train=(0.12, 0.15, 0.52, 0.85), eval=(0.52, 0.2, 0.88, 0.8)),
    Photo("skimage", "rocket.jpg"),
    Photo("sklearn", "china.jpg", train=(0.0, 0.0, 0.55, 1.0), eval=(0.55, 0.0, 1.0, 0.42)),
    Photo("sklearn", "flower.jpg"),
)

_PALETTES: dict[Pool, tuple[tuple[str, str, str], ...]] = {
    "train": (
        ("#ffe14d", "#ff9b2f", "#ffffff"), ("#7fd6ff", "#2f8fe0", "#ffffff"),
        ("#ffb3c8", "#ff5c8a", "#fff4c2"), ("#c7f08b", "#5cb85c", "#fffbe0"),
        ("#e3c7ff", "#9a6be0", "#fff0fa"), ("#ffd0a6", "#f2724b", "#fdf3e3"),
    ),
    "eval": (
        ("#fff07a", "#f5b700", "#fdfdfd"), ("#a8ecec", "#1fa3a3", "#f6ffff"),
        ("#ffc2b8", "#e8503a", "#fff2e8"), ("#d9e6ff", "#6c8ae4", "#ffffff"),
    ),
}  # fmt: skip


def one_of(*backgrounds: Background) -> Background:
    """Return a background that is one of these, each equally often."""

    def chosen(rng: Rng, size: int, pool: Pool) -> Image:
        return backgrounds[int(rng.integers(len(backgrounds)))](rng, size, pool)

    return chosen


def photo(rng: Rng, size: int, pool: Pool) -> Image:
    """A random crop of a sample photograph, mirrored and tinted at random."""
    entry = PHOTOS[int(rng.integers(len(PHOTOS)))]
    part = _photo_part(entry, pool)
    height, width = part.shape[:2]
    side = int(min(height, width) * rng.uniform(0.55, 1.0))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    crop = part[top : top + side, left : left + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    crop = np.ascontiguousarray(crop)
    resized = cv2.resize(
        crop, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    )
    spread = 0.25 if entry.grey else 0.08  # grey textures become brick red, grass green, ...
    gain = rng.uniform(0.75, 1.15) * (1 + rng.uniform(-spread, spread, 3))
    return as_uint8(resized * gain.astype(np.float32))


def halftone(rng: Rng, size: int, pool: Pool) -> Image:
    """Dots that grow along a direction, in two colours."""
    light, dark, _ = _palette(rng, pool)
    angle, pitch = rng.uniform(0, np.pi), rng.uniform(5.0, 10.0)
    y, x = _grid(size)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    du, dv = (u / pitch) % 1 - 0.5, (v / pitch) % 1 - 0.5
    ramp = (v - v.min()) / (np.ptp(v) + 1e-6)
    coverage = np.clip((0.05 + 0.6 * ramp - np.hypot(du, dv)) * pitch + 0.5, 0, 1)
    return _blend(light, dark, coverage)


def rays(rng: Rng, size: int, pool: Pool) -> Image:
    """Rays from a point, in two colours."""
    light, dark, pale = _palette(rng, pool)
    y, x = _grid(size)
    cx, cy = rng.uniform(0.2, 0.8, 2) * size
    turns = np.arctan2(y - cy, x - cx) / (2 * np.pi) * int(rng.integers(7, 15)) + rng.random()
    stripes = (turns % 1 < 0.5).astype(np.float32)
    return _blend(pale if rng.random() < 0.5 else light, dark, stripes)


def panels(rng: Rng, size: int, pool: Pool) -> Image:
    """Flat or dotted comic panels, with white gutters and black frames."""
    image = np.full((size, size, 3), 250, np.uint8)
    cut = int(size * rng.uniform(0.35, 0.65))
    upright = rng.random() < 0.5
    for first, last in ((0, cut), (cut, size)):
        filler = halftone if rng.random() < 0.5 else _flat
        panel = filler(rng, size, pool)
        a, b = first + 2, last - 2
        area = (slice(3, size - 3), slice(a, b)) if upright else (slice(a, b), slice(3, size - 3))
        image[area] = 15
        inner = tuple(slice(part.start + 2, part.stop - 2) for part in area)
        image[inner] = panel[inner]
    return image


def gradient(rng: Rng, size: int, pool: Pool) -> Image:
    """A two-colour gradient in a random direction."""
    light, dark, pale = _palette(rng, pool)
    y, x = _grid(size)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = x * np.cos(angle) + y * np.sin(angle)
    ramp = (ramp - ramp.min()) / (np.ptp(ramp) + 1e-6)
    return _blend(light if rng.random() < 0.5 else pale, dark, ramp)


def paper(rng: Rng, size: int, pool: Pool) -> Image:
    """Off-white paper with grain."""
    grain = noise_crop(rng, size, pool, "grain") + 0.5 * noise_crop(rng, size, pool, "cloud")
    tone = np.array([247.0, 242.0, 230.0]) - rng.uniform(0, 12, 3)
    return as_uint8(tone + 7.0 * grain[..., None])


def washes(rng: Rng, size: int, pool: Pool) -> Image:
    """Paper with one or two blurred washes of watercolour."""
    image = paper(rng, size, pool).astype(np.float32)
    for _ in range(int(rng.integers(1, 3))):
        colour = np.asarray(_palette(rng, pool)[int(rng.integers(2))], np.float32)
        cloud = noise_crop(rng, size, pool, "cloud")
        amount = 0.55 * np.clip(0.5 + cloud * 0.6 + rng.uniform(-0.3, 0.3), 0, 1)[..., None]
        image *= 1 - amount * (1 - colour / 255)
    return as_uint8(image)


def board(rng: Rng, size: int, pool: Pool) -> Image:
    """A blackboard that was wiped often, with a ruled line or two."""
    tone = np.array([44.0, 56.0, 52.0]) + rng.uniform(-10, 10, 3)
    smear = 14.0 * noise_crop(rng, size, pool, "cloud") + 4.0 * noise_crop(rng, size, pool, "grain")
    image = tone + smear[..., None]
    for _ in range(int(rng.integers(0, 3))):
        row = int(rng.integers(size))
        image[row : row + 2] += rng.uniform(20, 70)
    return as_uint8(image)


def noise_crop(rng: Rng, size: int, pool: Pool, kind: str) -> np.ndarray:
    """Return ``(size, size)`` float32 noise of unit deviation from a fixed tile.

    ``grain`` is fine, ``cloud`` varies over about a quarter of the image.
    """
    tile = _noise_tile(kind, size)
    half = tile.shape[1] // 2
    left = int(rng.integers(half - size + 1)) + (half if pool == "eval" else 0)
    top = int(rng.integers(tile.shape[0] - size + 1))
    return tile[top : top + size, left : left + size]


def _flat(rng: Rng, size: int, pool: Pool) -> Image:
    colour = _palette(rng, pool)[int(rng.integers(3))]
    return np.broadcast_to(np.asarray(colour, np.uint8), (size, size, 3))


def _palette(rng: Rng, pool: Pool) -> tuple[tuple[int, int, int], ...]:
    choice = _PALETTES[pool][int(rng.integers(len(_PALETTES[pool])))]
    return tuple((int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)) for text in choice)


def _blend(low: tuple[int, int, int], high: tuple[int, int, int], amount: np.ndarray) -> Image:
    a, b = np.asarray(low, np.float32), np.asarray(high, np.float32)
    return (a + (b - a) * amount.astype(np.float32)[..., None]).astype(np.uint8)


@functools.cache
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    return y, x


@functools.cache
def _noise_tile(kind: str, size: int) -> np.ndarray:
    # A fixed tile instead of fresh noise: 76 800 normal numbers cost more than the whole scene.
    tile = np.random.default_rng(len(kind)).standard_normal((3 * size, 6 * size)).astype(np.float32)
    sigma = size / 10 if kind == "cloud" else 0.7
    smooth = cv2.GaussianBlur(tile, (0, 0), sigma)
    return np.asarray(smooth / smooth.std(), np.float32)


@functools.cache
def _photo_part(entry: Photo, pool: Pool) -> Image:
    path = packages.folder(entry.package) / _FOLDERS[entry.package] / entry.file
    bgr = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise DataError("cannot decode this sample photograph", where=str(path))
    x0, y0, x1, y1 = entry.train if pool == "train" else entry.eval
    height, width = bgr.shape[:2]
    part = bgr[int(y0 * height) : int(y1 * height), int(x0 * width) : int(x1 * width), ::-1]
    return np.ascontiguousarray(part, dtype=np.uint8)
