"""The same image before and after: labels, earlier model, plain fine-tuning, final model.

Labels are coloured by the increment that teaches their class. In the other panes colour, line and
sign tell what is right, wrong and missed, so that a glance shows where objects were lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from duet.errors import DataError
from duet.evaluation.matches import IOU
from duet.images import read_image
from duet.report.colours import GREEN, GREY, INK, ORANGE, increment_colour
from duet.report.marks import marks
from duet.report.panes import (
    DASH_DOTTED,
    DASHED,
    DOTTED,
    LINE,
    PANE,
    SOLID,
    Look,
    Mark,
    canvas,
    draw_marks,
    legend,
    titles,
)
from duet.report.phrases import count_of, listed, owners
from duet.results.boxes import FoundBox, GalleryImage, GallerySide, NamedBox
from duet.results.schema import Results
from duet.text import plot_text

if TYPE_CHECKING:
    from PIL.Image import Image

Picture = npt.NDArray[np.uint8]
"""``(height, width, 3)`` uint8, RGB."""

RIGHT = Look(GREEN, SOLID, "✓ ", f"right: an object of that class, IoU {IOU:g} or more")
WRONG = Look(ORANGE, DASHED, "✗ ", "wrong: no such object, or found already")
MISSED = Look(INK, DOTTED, "? ", "missed: a labelled object that the model should know")
UNJUDGED = Look(GREY, DASH_DOTTED, "", "not judged: nobody labelled its class here")

GAP = 12
"""Pixels between panes and around them."""

_HEAD = 2 * LINE + 4


def gallery_picture(results: Results, item: GalleryImage, seen: Picture) -> Image:
    """Return an image four times: with its labels, and with what each of three models finds.

    Args:
        results: Whose gallery it is of.
        item: One image of it; without ``beside`` the legend takes that pane.
        seen: What `picture` read of its file.
    """
    import cv2

    scale = min(PANE / item.width, PANE / item.height)
    size = max(round(item.width * scale), 1), max(round(item.height * scale), 1)
    how = cv2.INTER_AREA if size[0] < seen.shape[1] else cv2.INTER_CUBIC
    shown = np.asarray(cv2.resize(seen, size, interpolation=how), np.uint8)
    looks = _legend(results, item)
    down = _HEAD + size[1] + GAP
    lowest = 0 if item.beside is None else max(one.height for one in looks)
    free = max(down, sum(one.height for one in looks) + GAP) if item.beside is None else down
    sheet, _ = canvas(2 * PANE + 3 * GAP, down + free + lowest + GAP)
    left, right, upper, lower = GAP, 2 * GAP + PANE, GAP, GAP + down
    _labels(sheet, (left, upper), shown, results, item)
    _judged(sheet, (right, upper), shown, item, item.before)
    _judged(sheet, (right, lower), shown, item, item.after)
    if item.beside is None:
        sheet.paste(looks[0], (left, lower))
        sheet.paste(looks[1], (left, lower + looks[0].height))
    else:
        _judged(sheet, (left, lower), shown, item, item.beside)
        sheet.paste(looks[0], (left, lower + down))
        sheet.paste(looks[1], (right, lower + down))
    return sheet


def picture(path: Path) -> Picture:
    """Read an image as the detector saw it, in RGB.

    Raises:
        DataError: It cannot be read as an image.
    """
    try:
        return np.ascontiguousarray(read_image(path)[:, :, ::-1])
    except DataError as error:
        what = f"cannot be read as an image: {error.what}"
        raise DataError(what, where=str(path)) from None


def _labels(
    sheet: Image, place: tuple[int, int], shown: Picture, results: Results, item: GalleryImage
) -> None:
    """Draw what is labelled in an image."""
    boxes = [(truth, _taught(results, truth.name, ignored=truth.ignored)) for truth in item.truths]
    title = f"{plot_text(item.domain, 36)}: labels"
    _pane(sheet, place, shown, item, (title, count_of(len(item.truths), "object")), boxes)


def _taught(results: Results, name: str, *, ignored: bool) -> Look:
    """Return the colour of the increment that teaches a class; grey if none does, or ignored."""
    numbers = [] if ignored else owners(results, [name])
    return Look(increment_colour(numbers[0]) if numbers else GREY)


def _judged(
    sheet: Image, place: tuple[int, int], shown: Picture, item: GalleryImage, side: GallerySide
) -> None:
    """Draw what one model found in an image, and what it missed."""
    found = marks(item, side)
    kinds = ((MISSED, found.missed), (UNJUDGED, found.open), (WRONG, found.wrong))
    boxes = [(box, look) for look, some in (*kinds, (RIGHT, found.right)) for box in some]
    _pane(sheet, place, shown, item, (plot_text(side.title, 48), found.as_text()), boxes)


def _pane(
    sheet: Image, place: tuple[int, int], shown: Picture, item: GalleryImage,
    told: tuple[str, str], boxes: Sequence[tuple[NamedBox, Look]],
) -> None:  # fmt: skip
    """Draw two lines of text, the image, and boxes with name and, if they have one, score in %."""
    from PIL import Image, ImageDraw

    titles(ImageDraw.Draw(sheet), place, *told)
    pane = Image.fromarray(shown)
    across, down = pane.width / item.width, pane.height / item.height
    drawn = []
    for box, look in boxes:
        left, top, right, bottom = box.xyxy
        score = f" {100 * box.score:.0f}" if isinstance(box, FoundBox) else ""
        text = f"{look.sign}{plot_text(box.name, 24)}{score}"
        # At the other end, as a wrong box often lies on what is missed.
        below = look is MISSED
        xyxy = (left * across, top * down, right * across, bottom * down)
        drawn.append(Mark(xyxy, look, text, below))
    draw_marks(ImageDraw.Draw(pane), pane.size, drawn)
    sheet.paste(pane, (place[0], place[1] + _HEAD))


def _legend(results: Results, item: GalleryImage) -> tuple[Image, Image]:
    """Return what the marks mean, and the colours of the labels that the image shows."""
    numbers = owners(results, [truth.name for truth in item.truths if not truth.ignored])
    taught = [
        Look(increment_colour(number), meaning=_members(results, item, number))
        for number in numbers
    ]
    told = "number: score in %, of what reaches the threshold in use"
    return legend(told, (RIGHT, WRONG, MISSED, UNJUDGED)), legend("labels of", taught)


def _members(results: Results, item: GalleryImage, number: int) -> str:
    """Return an increment and those of its classes that an image shows."""
    step = results.series.increments[number - 1]
    here = {truth.name for truth in item.truths}
    names = [plot_text(name, 16) for name in step.classes if name in here]
    return f"C{number} ({plot_text(step.domain, 16)}): {listed(names, limit=2)}"
