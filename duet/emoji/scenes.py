"""Compose one scene: choose objects, place them, drop the hidden, paint, read off exact boxes.

Boxes are *visible* boxes, as in PASCAL VOC: the tight rectangle around the object's solid pixels
(alpha >= 128) that lie inside the image and under no later object or clutter.

Frame: pixels, x right, y down, ``xyxy`` with exclusive ends, so a one-pixel object is 1 wide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from duet.emoji.glyphs import Glyph, draw, glyph
from duet.emoji.looks import Look
from duet.emoji.raster import SOLID, Image, Rng, as_uint8
from duet.emoji.vocabulary import Pool, Vocabulary

Mask = npt.NDArray[np.bool_]

CLUTTER = -1
"""Class index of a glyph that is no class."""

MAX_HIDDEN = 0.55
"""An object of which a larger share is covered or outside is taken out of the scene."""

_COUNTS = np.array([0.2, 0.3, 0.25, 0.15, 0.1])  # P(1), ..., P(5) objects
_CLUTTER_COUNTS = np.array([0.35, 0.4, 0.25])  # P(0), P(1), P(2) clutter glyphs
_SIDE = (0.17, 0.52)  # longest side of an object, share of the image side
_MAX_COVER = 0.9  # highest overlap accepted, as a share of the smaller box; drawn per object
_TRIES = 12
_MIN_PIXELS = 20


@dataclass(frozen=True, slots=True)
class SceneObject:
    """A labelled object of a finished scene.

    Attributes:
        class_index: Index into the vocabulary's names.
        code: Codepoints of its emoji.
        xyxy: Visible box, integer pixels, ends exclusive.
        visible: ``(size, size)`` bool, its visible solid pixels.
    """

    class_index: int
    code: str
    xyxy: tuple[int, int, int, int]
    visible: Mask


@dataclass(frozen=True, slots=True)
class Scene:
    """An image ``(size, size, 3)`` uint8 RGB with its objects and the clutter drawn in it."""

    image: Image
    objects: tuple[SceneObject, ...]
    clutter: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Sprite:
    """A placed glyph: premultiplied RGBA patch whose top-left pixel is at (x, y) of the image."""

    class_index: int
    code: str
    patch: Image
    x: int
    y: int
    mask: Mask
    area: int


def scene_rng(seed: int, *key: str | int) -> Rng:
    """Return a generator that depends only on the arguments (never on order or `hash()`)."""
    text = "\0".join(str(part) for part in key)
    digest = hashlib.sha256(text.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))


def compose(
    rng: Rng,
    look: Look,
    vocabulary: Vocabulary,
    *,
    size: int,
    pool: Pool,
    primary: int,
) -> Scene:
    """Draw one scene.

    Args:
        rng: Source of every choice.
        look: Of the domain.
        vocabulary: Classes and clutter.
        size: Image side, pixels.
        pool: Which emoji and backgrounds may be used.
        primary: Index of the class that is certain to be among the labelled objects.

    Returns:
        A scene with 1 to 5 labelled objects, at least one of them of class ``primary``.
    """
    background = look.background(rng, size, pool)
    while True:  # an unlucky layout hides the primary object about once in 250 scenes
        sprites, masks = _drop_hidden(_layout(rng, look, vocabulary, size, pool, primary))
        if any(sprite.class_index == primary for sprite in sprites):
            break
    canvas = background.astype(np.float32)
    light = (int(rng.integers(-3, 4)), int(rng.integers(1, 5)))
    for sprite in sprites:
        _paint(canvas, sprite, rng, shadow=look.shadow, light=light)
    image = look.finish(rng, as_uint8(canvas), pool)
    objects = tuple(
        SceneObject(sprite.class_index, sprite.code, _tight_box(mask), mask)
        for sprite, mask in zip(sprites, masks, strict=True)
        if sprite.class_index != CLUTTER
    )
    clutter = tuple(sprite.code for sprite in sprites if sprite.class_index == CLUTTER)
    return Scene(image, objects, clutter)


def _layout(
    rng: Rng, look: Look, vocabulary: Vocabulary, size: int, pool: Pool, primary: int
) -> list[_Sprite]:
    """Place the objects and clutter of one attempt, in painting order (last on top)."""
    count = 1 + int(rng.choice(len(_COUNTS), p=_COUNTS))
    classes = [primary, *(int(c) for c in rng.integers(len(vocabulary.names), size=count - 1))]
    if vocabulary.clutter.seen:
        classes += [CLUTTER] * int(rng.choice(len(_CLUTTER_COUNTS), p=_CLUTTER_COUNTS))
    order = rng.permutation(len(classes))
    # Crowded scenes get smaller objects, otherwise they overlap however they are placed.
    largest = _SIDE[1] if len(classes) <= 3 else _SIDE[1] * (3 / len(classes)) ** 0.5
    sprites: list[_Sprite] = []
    boxes: list[tuple[int, int, int, int]] = []
    for index in order:
        class_index = classes[int(index)]
        emoji = (
            vocabulary.clutter
            if class_index == CLUTTER
            else vocabulary.emoji[vocabulary.names[class_index]]
        )
        code = draw(emoji, pool, rng)
        side = size * rng.uniform(_SIDE[0], largest)
        patch = _warp(rng, _pick_glyph(rng, look, code, size), side, look.wobble)
        x, y = _place(rng, patch.shape[1], patch.shape[0], size, boxes)
        boxes.append((x, y, x + patch.shape[1], y + patch.shape[0]))
        sprites.append(_sprite(class_index, code, patch, x, y, size))
    return sprites


def _pick_glyph(rng: Rng, look: Look, code: str, size: int) -> Glyph:
    chance, total = rng.random(), 0.0
    for artwork, share in look.artworks:
        total += share
        if chance < total:
            return glyph(code, artwork, round(size * 0.8))
    return glyph(code, look.artworks[-1][0], round(size * 0.8))  # the shares' rounding error


def _warp(rng: Rng, drawing: Glyph, side: float, wobble: float) -> Image:
    """Scale, mirror, rotate, distort and recolour a glyph; return the ``(h, w, 4)`` patch."""
    scale, level = side / drawing.side, 0
    while scale <= 0.5 and level + 1 < len(drawing.levels):
        scale, level = scale * 2, level + 1
    source = drawing.levels[level]
    height, width = source.shape[:2]
    angle = np.deg2rad(np.clip(rng.normal(0, 14), -40, 40))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos * flip, -sin], [sin * flip, cos]])
    extent = np.abs(linear) @ np.array([width, height], np.float64) + 2 * wobble + 2
    new_width, new_height = (int(np.ceil(value)) for value in extent)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = np.array([(new_width - 1) / 2, (new_height - 1) / 2]) - linear @ centre
    matrix = np.hstack([linear, shift[:, None]])
    patch = np.asarray(
        cv2.warpAffine(source, matrix, (new_width, new_height), flags=cv2.INTER_LINEAR), np.uint8
    )
    if wobble:
        patch = _wobbled(rng, patch, wobble)
    gain = np.append(rng.uniform(0.88, 1.1) * (1 + rng.uniform(-0.06, 0.06, 3)), 1.0)
    lit = patch * gain.astype(np.float32)
    return np.minimum(lit, patch[..., 3:]).astype(np.uint8)  # premultiplied: colour <= alpha


def _wobbled(rng: Rng, patch: Image, amplitude: float) -> Image:
    height, width = patch.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    # Limited to the amplitude, by which `_warp` enlarged the patch: nothing is cut off.
    coarse = np.clip(rng.standard_normal((2, 5, 5)) * 0.6, -1, 1).astype(np.float32) * amplitude
    dx, dy = (
        cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR) for field in coarse
    )
    return np.asarray(cv2.remap(patch, x + dx, y + dy, cv2.INTER_LINEAR, borderValue=0), np.uint8)


def _place(
    rng: Rng, width: int, height: int, size: int, taken: Sequence[tuple[int, int, int, int]]
) -> tuple[int, int]:
    """Return the top-left corner: the first tried that overlaps little, else the least bad."""
    best, least = (0, 0), np.inf
    for _ in range(_TRIES):
        # Up to a fifth of a side may leave the image.
        x = int(rng.integers(-width // 5, max(size - width * 4 // 5, -width // 5 + 1)))
        y = int(rng.integers(-height // 5, max(size - height * 4 // 5, -height // 5 + 1)))
        worst = max((_cover((x, y, x + width, y + height), box) for box in taken), default=0.0)
        if worst < least:
            best, least = (x, y), worst
        if worst <= _MAX_COVER * rng.random():
            break
    return best


def _cover(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Return the intersection of two xyxy boxes as a share of the smaller one."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _sprite(class_index: int, code: str, patch: Image, x: int, y: int, size: int) -> _Sprite:
    solid = patch[..., 3] >= SOLID
    mask = np.zeros((size, size), np.bool_)
    inside, part = _overlap(patch, x, y, size)
    mask[inside] = solid[part]
    return _Sprite(class_index, code, patch, x, y, mask, int(np.count_nonzero(solid)))


def _overlap(
    patch: Image, x: int, y: int, size: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the slices of the image and of the patch where the patch lies inside the image."""
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + patch.shape[1], size), min(y + patch.shape[0], size)
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))


def _drop_hidden(sprites: Sequence[_Sprite]) -> tuple[list[_Sprite], list[Mask]]:
    """Take out the most hidden object until none is hidden too much.

    One at a time, because taking one out may uncover another. A dropped object is not painted,
    so nothing unlabelled stays in the picture.

    Returns:
        The sprites kept, in painting order, and the visible mask of each.
    """
    kept = list(sprites)
    while True:
        masks: list[Mask] = []
        above = np.zeros_like(kept[0].mask) if kept else np.zeros((0, 0), np.bool_)
        for sprite in reversed(kept):
            masks.append(sprite.mask & ~above)
            above = above | sprite.mask
        masks.reverse()
        hidden = [_hidden(sprite, mask) for sprite, mask in zip(kept, masks, strict=True)]
        if not hidden or max(hidden) <= MAX_HIDDEN:
            return kept, masks
        kept.pop(int(np.argmax(hidden)))


def _hidden(sprite: _Sprite, visible: Mask) -> float:
    """Return the hidden share; a sliver too small to recognise counts as hidden."""
    pixels = int(np.count_nonzero(visible))
    if pixels < _MIN_PIXELS:
        return 1.0
    return 0.0 if sprite.class_index == CLUTTER else 1 - pixels / sprite.area


def _paint(
    canvas: npt.NDArray[np.float32],
    sprite: _Sprite,
    rng: Rng,
    *,
    shadow: float,
    light: tuple[int, int],
) -> None:
    size = canvas.shape[0]
    if shadow:
        soft = cv2.GaussianBlur(np.pad(sprite.patch[..., 3], 6), (0, 0), 2.2)
        inside, part = _overlap(soft, sprite.x - 6 + light[0], sprite.y - 6 + light[1], size)
        canvas[inside] *= 1 - soft[part][..., None] * np.float32(shadow / 255)
    inside, part = _overlap(sprite.patch, sprite.x, sprite.y, size)
    patch = sprite.patch[part].astype(np.float32)
    canvas[inside] = canvas[inside] * (1 - patch[..., 3:] / 255) + patch[..., :3]


def _tight_box(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
