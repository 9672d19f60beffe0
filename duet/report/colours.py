"""Colours of the report's pictures: Okabe and Ito's (2008), told apart with any colour vision.

Every coloured mark also carries a number, a shape, a sign or a place.
"""

from __future__ import annotations

BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
)  # fmt: skip
GREY, INK = "#9A9A9A", "#222222"

INCREMENT_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER)
"""Colour of the classes of increment 1, 2, ...; repeats after six."""


def increment_colour(number: int) -> str:
    """Return the hexadecimal colour of increment ``number`` (1..T)."""
    return INCREMENT_COLOURS[(number - 1) % len(INCREMENT_COLOURS)]


def ink_on(colour: str) -> str:
    """Return black or white, whichever reads better on a hexadecimal colour (WCAG 2 contrast)."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    # Above this luminance the contrast with black is the larger one.
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "#FFFFFF"
