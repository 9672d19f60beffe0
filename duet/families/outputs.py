"""What the outputs of a network mean, and which of them are shown; neither torch nor an engine.

Four layouts are known, because engines and exported files end at different places:

    anchors   (4 + C, A)  cxcywh px of the input, class scores; overlapping boxes are suppressed
    picked    (K, 6)      xyxy px of the input, score, class: end-to-end YOLO
    picked-n  (K, 6)      cxcywh normalised to the input, score, class: Ultralytics RT-DETR
    queries   (Q, 4 + C)  cxcywh normalised to the input, class scores: other DETRs

Scores are in [0, 1]. A network gives one such array per image, batch first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from duet.defaults import IOU, Agnostic, Confidence

Layout = Literal["anchors", "picked", "picked-n", "queries"]


@dataclass(frozen=True)
class View:
    """Which of a network's outputs are shown.

    Attributes:
        confidence: Detections must score above it; one number, or one per class.
        iou: Boxes of one class that overlap more are one object.
        limit: At most this many detections of an image, best first.
        multi_label: One place of an image may be several classes, which AP is computed from; else
            the best of them alone, which is what users see.
        agnostic: Classes that suppress each other's boxes, see `duet.families.doubles.one_each`.
    """

    confidence: Confidence = 0.001
    iou: float = IOU
    limit: int = 300
    multi_label: bool = False
    agnostic: Agnostic = "off"
