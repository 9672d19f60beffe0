"""The same images before and after: labels, earlier model, final model, side by side.

Boxes are coloured by the increment that teaches their class, so that a glance shows whether the old
classes survived and the new ones arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from duet.defaults import CONFIDENCE
from duet.errors import DataError
from duet.images import read_image
from duet.report.figures import GREY, drawn, figure_grid, increment_colour
from duet.report.phrases import count_of, listed, owners
from duet.results.schema import FoundBox, GalleryImage, Results, TruthBox
from duet.text import plot_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANE_WIDTH = 480
"""Pixels to which every image is scaled before drawing, so that text is readable on small ones."""

Picture = npt.NDArray[np.uint8]
"""``(height, width, 3)`` uint8, RGB."""


def unusable_images(run_folder: Path, results: Results) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the gallery files that are not in the run folder, and those that are no images."""
    missing, damaged = [], []
    for file in (item.file for item in results.gallery):
        if not (run_folder / file).is_file():
            missing.append(file)
            continue
        try:
            _scaled_image(run_folder / file)
        except DataError:
            damaged.append(file)
    return tuple(missing), tuple(damaged)


def panes(run_folder: Path, results: Results, item: GalleryImage) -> tuple[Picture, ...]:
    """Return one image three times: with its labels, the earlier and the final detections.

    Raises:
        DataError: The file cannot be read as an image.
    """
    plain = _scaled_image(run_folder / item.file)
    scale = plain.shape[1] / item.width
    sides: tuple[Sequence[TruthBox], ...] = (
        item.truths, _confident(item.before.detections), _confident(item.after.detections)
    )  # fmt: skip
    return tuple(_annotated(plain, results, boxes, scale) for boxes in sides)


@drawn
def gallery_figure(run_folder: Path, results: Results, items: Sequence[GalleryImage]) -> Figure:
    """Return a sheet with one row per image and the columns labels, before, after.

    Raises:
        DataError: ``items`` is empty, or a file cannot be read as an image.
    """
    if not items:
        raise DataError("a gallery needs at least one image, got none")
    rows = [panes(run_folder, results, item) for item in items]
    ratios = [row[0].shape[0] / row[0].shape[1] for row in rows]
    figure, grid = figure_grid(
        len(rows), 3, width=11.4, height=sum(3.75 * ratio + 0.3 for ratio in ratios) + 0.8,
        height_ratios=ratios,
    )  # fmt: skip
    for index, (item, pictures) in enumerate(zip(items, rows, strict=True)):
        titles = (
            f"{plot_text(item.domain, 30)}: labels ({count_of(len(item.truths), 'object')})",
            plot_text(item.before.title),
            plot_text(item.after.title),
        )
        for axes, picture, title in zip(grid[3 * index :], pictures, titles, strict=False):
            axes.imshow(picture, interpolation="bilinear")
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_axis_off()
    _legend(figure, results)
    return figure


def _confident(boxes: Sequence[FoundBox]) -> tuple[FoundBox, ...]:
    return tuple(box for box in boxes if box.score >= CONFIDENCE)


def _scaled_image(path: Path) -> Picture:
    """Read an image as the detector saw it, in RGB, ``PANE_WIDTH`` pixels wide."""
    from PIL import Image

    try:
        image = Image.fromarray(read_image(path)[:, :, ::-1])
    except DataError as error:
        what = f"cannot be read as an image: {error.what}"
        raise DataError(what, where=str(path)) from None
    height = max(1, round(image.height * PANE_WIDTH / image.width))
    return np.asarray(image.resize((PANE_WIDTH, height), Image.Resampling.LANCZOS))


def _annotated(
    plain: Picture, results: Results, boxes: Sequence[TruthBox], scale: float
) -> Picture:
    """Draw boxes with names, and scores where there are any, on a copy of ``plain``."""
    import supervision

    scene = np.ascontiguousarray(plain[:, :, ::-1])  # supervision draws on BGR
    if not boxes:
        return plain
    found = supervision.Detections(
        xyxy=np.array([box.xyxy for box in boxes], np.float32) * scale,
        # The increment that teaches a class; 0 for one that the series does not know.
        class_id=np.array([next(iter(owners(results, [box.name])), 0) for box in boxes]),
    )
    colours = [GREY, *(increment_colour(n) for n in range(1, results.final_stage + 1))]
    look: dict[str, Any] = {
        "color": supervision.ColorPalette.from_hex(colours),
        "color_lookup": supervision.ColorLookup.CLASS,
    }
    scene = supervision.BoxAnnotator(thickness=2, **look).annotate(scene, found)
    labels = supervision.LabelAnnotator(
        text_scale=0.42, text_padding=3, smart_position=True, **look
    ).annotate(scene, found, labels=[_text(box) for box in boxes])
    return np.ascontiguousarray(labels[:, :, ::-1])


def _text(box: TruthBox) -> str:
    score = f" {100 * box.score:.0f}" if isinstance(box, FoundBox) else ""
    # supervision writes with OpenCV, whose font has ASCII only.
    return plot_text(box.name, 40).encode("ascii", "replace").decode() + score


def _legend(figure: Figure, results: Results) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(
            color=increment_colour(n),
            label=f"C{n} ({plot_text(step.domain, 30)}): "
            + listed([plot_text(name, 30) for name in step.classes]),
        )
        for n, step in enumerate(results.series.increments, start=1)
    ]
    figure.legend(
        handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize=9,
        title=f"colour: the increment that teaches the class; number: score in %, "
        f"shown from {100 * CONFIDENCE:.0f}",
        title_fontsize=9, alignment="left",
    )  # fmt: skip
