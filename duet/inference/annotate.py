"""Draw detections on images: class name and score, coloured by the increment of the class."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from duet.detections import Detections
from duet.fonts import font_file
from duet.images import Image
from duet.inference.tracking import NO_TRACK, TrackedDetections
from duet.text import plot_text

# Okabe and Ito: told apart with colour-blind eyes too. Each with the text colour that reads on it.
PALETTE = (
    ("#0072B2", "#FFFFFF"),
    ("#E69F00", "#000000"),
    ("#009E73", "#000000"),
    ("#CC79A7", "#000000"),
    ("#56B4E9", "#000000"),
    ("#D55E00", "#000000"),
    ("#F0E442", "#000000"),
)

_SPREAD = 50  # labels up to which they are moved apart: 300 took seconds per image


def annotate(
    image_BGR: Image, detections: Detections, increments: Sequence[str], *, tell: bool = False
) -> Image:
    """Return a copy of an image with its detections drawn on it.

    Args:
        image_BGR: ``(H, W, 3)`` uint8, BGR; not changed.
        detections: Boxes in pixels of this image; track ids are drawn where there are any.
        increments: Increment that each class of ``detections.labels`` came with, in their order.
        tell: Write the increment behind the score, too; its colour shows it anyway.

    Returns:
        ``(H, W, 3)`` uint8, BGR.
    """
    scene = image_BGR.copy()
    if not len(detections):
        return scene
    # The oldest increment comes first, so that its colour stays when others are learned.
    order = {name: index for index, name in enumerate(dict.fromkeys(increments))}
    colours = np.array([order[increments[index]] for index in detections.class_ids])
    texts = labels_of(detections, increments if tell else None)
    found = detections.to_supervision()
    plain, few = all(map(str.isascii, texts)), len(texts) <= _SPREAD
    boxes, labels = _annotators(max(scene.shape[:2]), plain, few)
    scene = boxes.annotate(scene, found, custom_color_lookup=colours)
    return np.asarray(
        labels.annotate(scene, found, labels=texts, custom_color_lookup=colours), dtype=np.uint8
    )


def labels_of(detections: Detections, increments: Sequence[str] | None) -> list[str]:
    """Return what is written at each box: ``dog #3 0.87 (comic)``."""
    tracks = detections.track_ids if isinstance(detections, TrackedDetections) else None
    texts = []
    for row, (name, score) in enumerate(zip(detections.names, detections.scores, strict=True)):
        number = f" #{tracks[row]}" if tracks is not None and tracks[row] != NO_TRACK else ""
        owner = "" if increments is None else plot_text(increments[detections.class_ids[row]], 30)
        # Clipped: a label wider than the image hides it, and long ones take seconds to place.
        texts.append(f"{plot_text(name)}{number} {score:.2f}" + (f" ({owner})" if owner else ""))
    return texts


@functools.lru_cache(maxsize=8)
def _annotators(side: int, ascii_only: bool, spread: bool) -> tuple[Any, Any]:
    """Return box and label annotators for images whose longer side has ``side`` pixels."""
    import supervision

    fill = supervision.ColorPalette.from_hex([colour for colour, _ in PALETTE])
    text = supervision.ColorPalette.from_hex([colour for _, colour in PALETTE])
    thickness = max(1, round(side / 400))
    boxes = supervision.BoxAnnotator(color=fill, thickness=thickness)
    style: dict[str, Any] = {"color": fill, "text_color": text, "text_padding": 2 * thickness}
    style["smart_position"] = spread  # labels stay inside the image and move off each other
    if ascii_only:
        scale = max(0.35, side / 1600)
        return boxes, supervision.LabelAnnotator(
            text_scale=scale,
            text_thickness=max(1, round(side / 900)),
            **style,
        )
    # OpenCV's own font has ASCII only.
    return boxes, supervision.RichLabelAnnotator(
        font_path=str(font_file()), font_size=max(10, round(side / 55)), **style
    )


def write_status(image_BGR: Image, text: str) -> None:
    """Write a line of ASCII into the lower left corner of an image, in place."""
    import cv2

    height, width = image_BGR.shape[:2]
    scale = max(0.35, width / 1600)
    place = (round(8 * scale), height - round(10 * scale))
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):  # readable on everything
        cv2.putText(
            image_BGR, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA
        )
