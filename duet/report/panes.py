"""Boxes, labels and legends, drawn pixel by pixel with Pillow into panes of a fixed width."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from duet.fonts import font_file
from duet.report.colours import INK, ink_on

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

PANE = 440
"""Pixels of the longer side of a picture in its pane: two beside each other fit a web page, which
then shows every letter as it was drawn."""

LETTERS, LINE = 13, 17
"""Pixels of the letters, and from one line to the next."""

Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom in px, all of them inside."""

SOLID, DASHED, DOTTED, DASH_DOTTED = (), (9, 5), (3, 4), (10, 4, 3, 4)
"""Lengths of strokes and gaps in px, in turns."""


@dataclass(frozen=True)
class Look:
    """How one kind of box is drawn.

    Attributes:
        colour: Hexadecimal.
        line: Strokes and gaps.
        sign: Stands before the name.
        meaning: In the legend.
    """

    colour: str
    line: tuple[int, ...] = SOLID
    sign: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class Mark:
    """One box to draw.

    Attributes:
        xyxy: In px of the pane, in any range.
        look: How.
        text: The label.
        below: Whether the label belongs at the lower edge.
    """

    xyxy: tuple[float, float, float, float]
    look: Look
    text: str
    below: bool = False


def canvas(width: int, height: int) -> tuple[Image, ImageDraw]:
    """Return a white picture and what draws on it."""
    from PIL import Image, ImageDraw

    made = Image.new("RGB", (width, height), "white")
    return made, ImageDraw.Draw(made)


def as_jpeg(picture: Image) -> bytes:
    """Return a picture as a JPEG file; thin coloured lines keep their colour."""
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=82, subsampling=0, optimize=True)
    return stream.getvalue()


@functools.cache
def letters(*, bold: bool = False) -> FreeTypeFont:
    """Return the font of titles (bold) and of all else."""
    from PIL import ImageFont

    return ImageFont.truetype(str(font_file(bold=bold)), LETTERS, ImageFont.Layout.BASIC)


def titles(draw: ImageDraw, place: tuple[int, int], first: str, second: str) -> None:
    """Write two lines, the first one bold."""
    left, top = place
    draw.text((left, top), first, INK, letters(bold=True))
    draw.text((left, top + LINE), second, INK, letters())


def draw_marks(draw: ImageDraw, size: tuple[int, int], marks: Sequence[Mark]) -> list[Rectangle]:
    """Draw boxes, and labels above all of them; return where the labels lie.

    Labels keep inside the picture, and off each other where one of a few places is free.

    Args:
        draw: On the picture.
        size: Its width and height in px.
        marks: The last one lies on top.
    """
    width, height = size
    boxes: list[Rectangle] = []
    for mark in marks:
        left, right = sorted(round(min(max(x, 0), width - 1)) for x in mark.xyxy[::2])
        top, bottom = sorted(round(min(max(y, 0), height - 1)) for y in mark.xyxy[1::2])
        boxes.append((left, top, right, bottom))
        _frame(draw, boxes[-1], mark.look)
    taken: list[Rectangle] = []
    for mark, box in zip(marks, boxes, strict=True):
        taken.append(_label(draw, size, mark, box, taken))
    return taken


def _frame(draw: ImageDraw, box: Rectangle, look: Look) -> None:
    left, top, right, bottom = box
    # White around it, so that the line is seen on any picture.
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="white", width=4)
    for y in (top, bottom - 1):
        for begin, end in _strokes(left, right, look.line):
            draw.rectangle((begin, y, end, y + 1), look.colour)
    for x in (left, right - 1):
        for begin, end in _strokes(top, bottom, look.line):
            draw.rectangle((x, begin, x + 1, end), look.colour)


def _strokes(begin: int, end: int, line: tuple[int, ...]) -> Iterable[tuple[int, int]]:
    """Yield the first and the last pixel of every stroke from one place to another."""
    if not line:
        yield begin, end
        return
    at, part = begin, 0
    while at <= end:
        if part % 2 == 0:
            yield at, min(at + line[part % len(line)] - 1, end)
        at += line[part % len(line)]
        part += 1


def _label(
    draw: ImageDraw, size: tuple[int, int], mark: Mark, box: Rectangle, taken: Sequence[Rectangle]
) -> Rectangle:
    """Write a label where it hides least of the others; return where that is."""
    across, down = round(letters().getlength(mark.text)) + 7, LINE - 1
    left, top, right, bottom = box
    above, below = (left, top - down), (left, bottom + 1)
    inside, foot = (left, top), (left, bottom - down)
    ends = (right - across, top - down), (right - across, bottom + 1)
    order = (foot, below, above, inside) if mark.below else (above, inside, below, foot)
    best, hidden = _freest((*order, *ends), (across, down), size, taken)
    if hidden:  # just below or above another label, where that hides less
        under, over = (
            [(left, one[edge] + way) for one in taken] for edge, way in ((3, 1), (1, -down))
        )
        found, less = _freest((*under, *over), (across, down), size, taken)
        best = found if less < hidden else best
    draw.rectangle(best, mark.look.colour)
    draw.text((best[0] + 3, best[1]), mark.text, ink_on(mark.look.colour), letters())
    return best


def _freest(
    places: Sequence[tuple[int, int]], extent: tuple[int, int], size: tuple[int, int],
    taken: Sequence[Rectangle],
) -> tuple[Rectangle, int]:  # fmt: skip
    """Return where a rectangle hides least of others, the first such place, and how many px².

    Args:
        places: Left and top; moved inside the picture.
        extent: Its width and height in px.
        size: Of the picture.
        taken: The others.
    """
    least_P2 = np.maximum(np.minimum(places, np.subtract(size, extent)), 0)
    most_P2 = least_P2 + extent - 1
    others_N4 = np.reshape(taken, (-1, 4)).astype(int)
    low = np.maximum(least_P2[:, None], others_N4[:, :2])
    high = np.minimum(most_P2[:, None], others_N4[:, 2:])
    hidden = (high - low + 1).clip(0).prod(2).sum(1)
    first = int(hidden.argmin())
    left, top, right, bottom = (int(value) for value in (*least_P2[first], *most_P2[first]))
    return (left, top, right, bottom), int(hidden[first])


def legend(title: str, looks: Sequence[Look]) -> Image:
    """Return what lines, signs and colours mean: a title, then a line for each; `PANE` wide."""
    picture, draw = canvas(PANE, LINE * (len(looks) + bool(title)) + 4)
    top = 0
    if title:
        draw.text((0, top), title, INK, letters())
        top += LINE
    for look in looks:
        if look.sign or look.line:
            for begin, end in _strokes(0, 27, look.line):
                draw.rectangle((begin, top + 7, end, top + 8), look.colour)
        else:
            draw.rectangle((0, top + 3, 27, top + 13), look.colour)
        draw.text((34, top), f"{look.sign}{look.meaning}", INK, letters())
        top += LINE
    return picture
