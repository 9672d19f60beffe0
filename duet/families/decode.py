"""From the outputs of a network to objects in its input; no engine is needed for it.

Four layouts are known, because engines and exported files end at different places:

    anchors   (4 + C, A)  cxcywh px of the input, class scores; overlapping boxes are suppressed
    picked    (K, 6)      xyxy px of the input, score, class: end-to-end YOLO
    picked-n  (K, 6)      cxcywh normalised to the input, score, class: Ultralytics RT-DETR
    queries   (Q, 4 + C)  cxcywh normalised to the input, class scores: other DETRs

Scores are in [0, 1]. A network gives one such array per image, batch first.
"""

from __future__ import annotations

from typing import Literal

import torch

Layout = Literal["anchors", "picked", "picked-n", "queries"]

Objects = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""``(n, 4)`` xyxy in input pixels, ``(n,)`` scores, ``(n,)`` class ids; best first."""


def decode(
    output: torch.Tensor, layout: Layout, *, size: tuple[int, int],
    confidence: float | torch.Tensor, iou: float, limit: int, multi_label: bool = True,
) -> Objects:  # fmt: skip
    """Return the objects in one image's output.

    Args:
        output: Without the batch dimension, see the table above.
        layout: What the numbers mean.
        size: Height and width of the input in pixels.
        confidence: Objects must score above it; ``(C,)`` for a value per class.
        iou: Boxes of one class that overlap more are suppressed; used by ``anchors`` only.
        limit: At most this many objects remain.
        multi_label: See `suppress`.
    """
    if layout == "anchors":
        return suppress(
            output, confidence=confidence, iou=iou, limit=limit, multi_label=multi_label
        )
    if layout == "queries":
        every = isinstance(confidence, torch.Tensor)  # the best need not be those that count
        output = pick(output, output[:, 4:].numel() if every else limit)
    boxes, scores, class_ids = output[:, :4], output[:, 4], output[:, 5].long()
    if layout != "picked":
        boxes = corners(boxes) * boxes.new_tensor((size[1], size[0]) * 2)
    if isinstance(confidence, torch.Tensor):  # `Detections` refuses ids that no class has
        confidence = confidence[class_ids.clamp(0, len(confidence) - 1)]
    order = scores.argsort(descending=True, stable=True)
    order = order[(scores > confidence)[order]][:limit]
    return boxes[order], scores[order], class_ids[order]


def suppress(
    y_CA: torch.Tensor, *, confidence: float | torch.Tensor, iou: float, limit: int,
    multi_label: bool = True,
) -> Objects:  # fmt: skip
    """Class-wise non-maximum suppression of the ``anchors`` layout.

    Ultralytics' own function stops after a time limit and would silently lose boxes on a loaded
    machine, so torchvision's is called directly.

    Args:
        y_CA: ``(4 + C, A)``: cxcywh in input pixels, then class scores in [0, 1].
        confidence: Candidates must score above it; ``(C,)`` for a value per class.
        iou: Boxes of one class that overlap more are suppressed.
        limit: At most this many detections remain, best first.
        multi_label: One anchor may be several classes, as the engine has it for validation; else
            the best one of those that score enough, as for prediction.
    """
    from torchvision.ops import batched_nms

    if isinstance(confidence, torch.Tensor):
        confidence = confidence[:, None]
    candidates = y_CA[4:] > confidence
    if not multi_label:
        best = (y_CA[4:] * candidates).argmax(0, keepdim=True)
        candidates &= torch.zeros_like(candidates).scatter_(0, best, True)
    class_ids, anchors = torch.where(candidates)
    scores = y_CA[4:][class_ids, anchors]
    boxes = corners(y_CA[:4, anchors].T)
    kept = batched_nms(boxes, scores, class_ids, iou)[:limit]
    return boxes[kept], scores[kept], class_ids[kept]


def pick(output_QX: torch.Tensor, limit: int) -> torch.Tensor:
    """Return the best (query, class) pairs of the ``queries`` layout as ``picked-n``."""
    scores_QC = output_QX[:, 4:]
    best, places = scores_QC.flatten().topk(min(limit, scores_QC.numel()))
    queries = places // scores_QC.shape[1]
    class_ids = (places % scores_QC.shape[1]).to(output_QX.dtype)
    return torch.cat((output_QX[queries, :4], best[:, None], class_ids[:, None]), 1)


def corners(boxes_N4: torch.Tensor) -> torch.Tensor:
    """Return cxcywh boxes as xyxy, in the same unit."""
    cx, cy, w, h = boxes_N4.unbind(-1)
    return torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), -1)
