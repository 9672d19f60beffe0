"""Which emoji stand for which class: plain tables, no drawing.

Emoji are Unicode codepoints: lower-case hexadecimal joined by ``-`` and written without the
variation selector U+FE0F except inside joined sequences (the file names of Twemoji; `glyphs` knows
OpenMoji's). Icons are called what Font Awesome calls them.

`seen` emoji appear in every split. `held` emoji appear in val and test only, when the series is
built with ``variants="own"``. Emoji that one of the two artworks draws as another thing are left
out (a laptop is no tvmonitor, a goat no sheep); classes with one fitting emoji hold none out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Pool = Literal["train", "eval"]
"""Where glyphs and background crops come from: the training side or the val/test side."""

Variants = Literal["own", "shared"]
"""``own``: val and test also use held-out emoji and other backgrounds; ``shared``: as training."""

HELD_SHARE = 0.4
"""Probability that a val/test object of a class with held-out emoji is drawn from those."""


@dataclass(frozen=True, slots=True)
class Emoji:
    """The emoji of one class."""

    seen: tuple[str, ...]
    held: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Class names in index order with their emoji, and emoji that are no class at all."""

    emoji: Mapping[str, Emoji]
    clutter: Emoji = field(default_factory=lambda: Emoji(seen=()))

    @property
    def names(self) -> tuple[str, ...]:
        """Class names; the position is the index in the label files."""
        return tuple(self.emoji)


def _emoji(seen: str, held: str = "") -> Emoji:
    return Emoji(tuple(seen.split()), tuple(held.split()))


VOC: Mapping[str, Emoji] = {
    "aeroplane": _emoji("2708 1f6e9 1f6eb", "1f6ec"),
    "bicycle": _emoji("1f6b2"),
    "bird": _emoji("1f426 1f986 1f9a2 1f989 1f427 1f424", "1fabf 1f426-200d-2b1b 1f425"),
    "boat": _emoji("26f5 1f6e5 1f6f6 1f6a2", "1f6a4 1f6f3"),
    "bottle": _emoji("1f37e 1f37c 1f9f4", "1f376"),
    "bus": _emoji("1f68c 1f68d", "1f68e 1f690"),
    "car": _emoji("1f697 1f698 1f699 1f695", "1f693 1f696 1f6fb"),
    "cat": _emoji("1f408 1f431", "1f408-200d-2b1b"),
    "chair": _emoji("1fa91 1f4ba"),
    "cow": _emoji("1f404 1f42e 1f402", "1f403"),
    "diningtable": _emoji("1f37d"),
    "dog": _emoji("1f415 1f436 1f429", "1f9ae 1f415-200d-1f9ba"),
    "horse": _emoji("1f40e 1f434", "1f3a0"),
    "motorbike": _emoji("1f3cd 1f6f5"),
    "person": _emoji(
        "1f9cd 1f6b6 1f3c3 1f9cd-1f3fb 1f9cd-1f3fe 1f6b6-1f3fd 1f468 1f469 1f467",
        "1f9cd-1f3fd 1f9cd-200d-2640-fe0f 1f3c3-1f3ff 1f474 1f477 1f46e",
    ),
    "pottedplant": _emoji("1fab4"),
    "sheep": _emoji("1f411 1f40f"),
    "sofa": _emoji("1f6cb"),
    "train": _emoji("1f686 1f682 1f683 1f684", "1f685 1f68a"),
    "tvmonitor": _emoji("1f4fa 1f5a5"),
}
"""The PASCAL VOC names, in their usual (alphabetical) order."""

# Neither one of the 20 classes nor one of the 60 of `tools/pretrain_emoji.py`: a detector that was
# pretrained on those must not have learned that these are things to find.
CLUTTER = _emoji(
    "2764 2b50 2709 1f4cd 1f4ce 26a1 1f525 1f4a7 1f48e 1f48d 1f56f 1f512 1f319 2601 1f3b2 1f9e9",
    "1f9b4 1f9e6 1f9f9 1f9f1 1fa93 1fa9c 1f41a 1f34b 1f95d 1f954 1f9c5 1fa9d 1fab6 1f9f2 1faa8",
)

MAIN = Vocabulary(VOC, CLUTTER)
"""The 20 classes of the incremental series."""

# No class of `VOC` and none that `tools/pretrain_emoji.py` knows.
_ICONS: Mapping[str, Emoji] = {
    "book": _emoji("book book-open book-atlas book-bookmark", "book-medical book-open-reader"),
    "camera": _emoji("camera camera-retro", "camera-rotate"),
    "chess piece": _emoji("chess-king chess-queen chess-rook chess-knight", "chess-bishop"),
    "face": _emoji(
        "face-smile face-laugh face-grin face-grin-stars face-frown", "face-surprise face-sad-tear"
    ),
    "flask": _emoji("flask", "flask-vial"),
    "hand": _emoji("hand hand-peace hand-fist hand-point-up", "hand-spock hand-scissors"),
    "headphones": _emoji("headphones headset", "headphones-simple"),
    "helicopter": _emoji("helicopter"),
    "hourglass": _emoji("hourglass hourglass-half hourglass-end", "hourglass-start"),
    "house": _emoji("house house-chimney house-chimney-window", "house-flag house-crack"),
    "mug": _emoji("mug-hot mug-saucer", "beer-mug-empty"),
    "pen": _emoji("pen pencil pen-fancy pen-nib", "pen-clip marker"),
    "phone": _emoji("phone phone-volume", "phone-flip"),
    "suitcase": _emoji("suitcase suitcase-rolling briefcase", "suitcase-medical"),
    "truck": _emoji("truck truck-pickup truck-monster truck-moving", "truck-field truck-medical"),
    "wine glass": _emoji("wine-glass martini-glass", "wine-glass-empty martini-glass-citrus"),
}

_ICON_CLUTTER = _emoji(
    "bolt star leaf cloud anchor gear snowflake puzzle-piece droplet gem moon seedling",
    "heart fire sun magnet feather bone clover lemon",
)

ICONS = Vocabulary(_ICONS, _ICON_CLUTTER)
"""Sixteen classes of the icon series: nothing in duet was chosen on them."""

_FIRST, _OTHER = tuple(VOC)[:10], tuple(VOC)[10:]

FOCI: Mapping[str, Mapping[str, Sequence[str]]] = {
    "none": {},
    "2-phase": {"flat": _FIRST, "comic": _OTHER},
    "4-phase": {
        "flat": tuple(VOC)[:3],
        "comic": tuple(VOC)[3:6],
        "watercolor": tuple(VOC)[6:13],
        "night": tuple(VOC)[13:],
    },
    "class-only": {"flat": tuple(VOC)},
    "domain-only": {"flat": _FIRST, "comic": _FIRST, "night": _FIRST},
    "8-chain": {
        "flat": ("aeroplane", "bus", "cat", "diningtable", "person"),
        "comic": ("bicycle", "bottle", "dog"),
        "watercolor": ("car", "chair", "cow", "bird", "sofa"),
        "night": ("boat", "horse"),
        "sketch": ("motorbike", "pottedplant", "sheep"),
        "fog": ("train", "tvmonitor"),
    },
    "12-chain": {
        "flat": ("aeroplane", "cat", "bus", "person"),
        "comic": ("bicycle", "dog", "bird", "bottle"),
        "watercolor": ("car", "cow", "chair"),
        "night": ("boat", "horse", "diningtable"),
        "sketch": ("motorbike", "sheep", "pottedplant"),
        "fog": ("train", "tvmonitor", "sofa"),
    },
    "icons": {"sticker": tuple(_ICONS)[:8], "chalk": tuple(_ICONS)[8:]},
    "mtda": dict.fromkeys(("flat", "comic", "watercolor", "night"), _FIRST),
}
"""Per protocol and domain: classes of which every *training* scene holds at least one."""
