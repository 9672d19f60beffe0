"""The same images before and after: labels, earlier model, plain fine-tuning, final model.

Labels are coloured by the increment that teaches their class. In the other panes colour, line and
sign tell what is right, wrong and missed, so that a glance shows where objects were lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from duet.errors import DataError
from duet.evaluation.matches import IOU
from duet.images import read_image
from duet.report.figures import (
    GREEN,
    GREY,
    INK,
    ORANGE,
    drawn,
    figure_grid,
    increment_colour,
)
from duet.report.marks import marks
from duet.report.phrases import count_of, listed, owners
from duet.results.schema import FoundBox, GalleryImage, GallerySide, NamedBox, Results
from duet.text import plot_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LARGEST = 480
"""Pixels of the longer side that an image has at most in a pane, so that files stay small."""

PANE = 3.1
"""Inches that a pane is wide."""

Picture = npt.NDArray[np.uint8]
"""``(height, width, 3)`` uint8, RGB."""


@dataclass(frozen=True)
class Look:
    """How one kind of box is drawn.

    Attributes:
        colour: Hexadecimal.
        line: matplotlib's line style.
        sign: Stands before the name.
        meaning: In the legend.
    """

    colour: str
    line: str
    sign: str
    meaning: str


RIGHT = Look(GREEN, "-", "✓ ", f"right: an object of that class, IoU {IOU:g} or more")
WRONG = Look(ORANGE, "--", "✗ ", "wrong: no such object, or found already")
MISSED = Look(INK, ":", "? ", "missed: a labelled object that the model should know")
UNJUDGED = Look(GREY, "-.", "", "not judged: nobody labelled its class here")


def unusable_images(run_folder: Path, results: Results) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the gallery files that are not in the run folder, and those that are no images."""
    missing, damaged = [], []
    for file in (item.file for item in results.gallery):
        if not (run_folder / file).is_file():
            missing.append(file)
            continue
        try:
            picture(run_folder / file)
        except DataError:
            damaged.append(file)
    return tuple(missing), tuple(damaged)


@drawn
def gallery_figure(run_folder: Path, results: Results, items: Sequence[GalleryImage]) -> Figure:
    """Return a sheet with one row per image and the columns labels, before, beside, after.

    Raises:
        DataError: ``items`` is empty, or a file cannot be read as an image.
    """
    if not items:
        raise DataError("a gallery needs at least one image, got none")
    columns = 4 if any(item.beside for item in items) else 3
    ratios = [item.height / item.width for item in items]
    figure, grid = figure_grid(
        len(items), columns, width=PANE * columns,
        height=sum(PANE * ratio + 0.5 for ratio in ratios) + 1.3, height_ratios=ratios,
    )  # fmt: skip
    for axes in grid:
        axes.set_axis_off()
    for row, item in enumerate(items):
        _row(grid[columns * row :][:columns], picture(run_folder / item.file), results, item)
    _legend(figure, results)
    return figure


def _row(panes: Sequence[Axes], shown: Picture, results: Results, item: GalleryImage) -> None:
    """Fill one row; the last pane is the final model, whether or not another stands beside it."""
    for axes in (panes[0], panes[1], panes[-1], *(panes[2:-1] if item.beside else ())):
        # Drawn in px of the original image, whatever the picture was scaled to.
        axes.imshow(shown, extent=(0, item.width, item.height, 0), interpolation="bilinear")
    objects = count_of(len(item.truths), "object")
    _title(panes[0], f"{plot_text(item.domain, 24)}: labels", objects)
    for truth in item.truths:
        # The increment that teaches a class; grey for one that none does, and for what is ignored.
        numbers = [] if truth.ignored else owners(results, [truth.name])
        colour = increment_colour(numbers[0]) if numbers else GREY
        _draw(panes[0], item, truth, Look(colour, "-", "", ""))
    _judge(panes[1], item, item.before)
    _judge(panes[-1], item, item.after)
    if item.beside is not None:
        _judge(panes[2], item, item.beside)


def _judge(axes: Axes, item: GalleryImage, side: GallerySide) -> None:
    """Draw what one model found in an image, and what it missed."""
    found = marks(item, side)
    _title(axes, plot_text(side.title, 36), found.as_text())
    kinds = ((MISSED, found.missed), (UNJUDGED, found.open), (WRONG, found.wrong))
    for look, boxes in (*kinds, (RIGHT, found.right)):
        for box in boxes:
            _draw(axes, item, box, look)


def _title(axes: Axes, first: str, second: str) -> None:
    axes.set_title(f"{first}\n{second}", loc="left", fontsize=8.5)


def picture(path: Path) -> Picture:
    """Read an image as the detector saw it, in RGB, its longer side `LARGEST` px or less."""
    from PIL import Image

    try:
        image = Image.fromarray(read_image(path)[:, :, ::-1])
    except DataError as error:
        what = f"cannot be read as an image: {error.what}"
        raise DataError(what, where=str(path)) from None
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _draw(axes: Axes, item: GalleryImage, box: NamedBox, look: Look) -> None:
    """Draw one box with its name, and its score in % if it has one."""
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box.xyxy
    # White below, so that the line is seen on any picture.
    for colour, line, width in (("white", "-", 3.2), (look.colour, look.line, 1.7)):
        axes.add_patch(
            Rectangle(
                (left, top), right - left, bottom - top, edgecolor=colour, linestyle=line,
                linewidth=width, fill=False,
            )
        )  # fmt: skip
    score = f" {100 * box.score:.0f}" if isinstance(box, FoundBox) else ""
    inside = top < 0.07 * item.height  # there is no room above it
    place = (max(top, 0), "top" if inside else "bottom")
    if look is MISSED:  # at the other end, as a wrong box often lies on what is missed
        place = (min(bottom, item.height), "bottom")
    axes.text(
        min(max(left, 0), 0.85 * item.width), place[0],
        f"{look.sign}{plot_text(box.name, 24)}{score}",
        fontsize=6.5, color="white", ha="left", va=place[1], clip_on=True,
        bbox={"facecolor": look.colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
    )  # fmt: skip


def _legend(figure: Figure, results: Results) -> None:
    figure.legend(
        handles=list(_handles(results)), loc="outside lower left", ncols=2, frameon=False,
        fontsize=8.5, title="number: score in %, of what reaches the threshold in use",
        title_fontsize=8.5, alignment="left",
    )  # fmt: skip


def _handles(results: Results) -> Iterator[Any]:
    """Yield what the legend explains: the marks, then the colours of the labels."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    for look in (RIGHT, WRONG, MISSED, UNJUDGED):
        yield Line2D(
            [], [], color=look.colour, linestyle=look.line, linewidth=1.7,
            label=f"{look.sign}{look.meaning}",
        )  # fmt: skip
    for number, step in enumerate(results.series.increments, start=1):
        names = listed([plot_text(name, 30) for name in step.classes])
        yield Patch(
            color=increment_colour(number),
            label=f"label of C{number} ({plot_text(step.domain, 30)}): {names}",
        )
