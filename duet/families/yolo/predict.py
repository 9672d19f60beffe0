"""From images to `Detections`: letterbox, forward, non-maximum suppression, original pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from duet.detections import Detections
from duet.labels import LabelSpace

PAD = 114  # grey of the letterbox border, as in the engine's training


def letterbox(image_HWC: np.ndarray, size: int) -> tuple[np.ndarray, float, int, int]:
    """Fit an image into a ``size`` square.

    Args:
        image_HWC: ``(H, W, 3)`` uint8, BGR.
        size: Side of the square in pixels, a multiple of 32.

    Returns:
        The square, the scale from original to square pixels, and the left and top border.
    """
    import cv2

    height, width = image_HWC.shape[:2]
    scale = size / max(height, width)
    new_h, new_w = max(round(height * scale), 1), max(round(width * scale), 1)
    resized = image_HWC
    if (new_h, new_w) != (height, width):
        resized = cv2.resize(image_HWC, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    left, top = (size - new_w) // 2, (size - new_h) // 2
    square = np.full((size, size, 3), PAD, dtype=np.uint8)
    square[top : top + new_h, left : left + new_w] = resized
    return square, scale, left, top


def to_batch(squares: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    """Stack BGR uint8 squares into ``(B, 3, S, S)`` float32 RGB in [0, 1]."""
    batch = np.stack(squares)[..., ::-1].transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(batch)).to(device).float() / 255


def suppress(
    y_CA: torch.Tensor, *, confidence: float, iou: float, limit: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Class-wise non-maximum suppression of one image's decoded output.

    The engine's own function stops after a time limit and would silently lose boxes on a loaded
    machine, so torchvision's is called directly.

    Args:
        y_CA: ``(4 + C, A)``: cxcywh in square pixels, then class scores in [0, 1].
        confidence: Candidates must score above it.
        iou: Boxes of one class that overlap more are suppressed.
        limit: At most this many detections remain, best first.

    Returns:
        ``(n, 4)`` xyxy in square pixels, ``(n,)`` scores, ``(n,)`` class ids.
    """
    from torchvision.ops import batched_nms

    class_ids, anchors = torch.where(y_CA[4:] > confidence)
    scores = y_CA[4:][class_ids, anchors]
    cx, cy, w, h = y_CA[:4, anchors]
    boxes = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), 1)
    kept = batched_nms(boxes, scores, class_ids, iou)[:limit]
    return boxes[kept], scores[kept], class_ids[kept]


@torch.no_grad()
def predict_images(
    model: nn.Module,
    images: Sequence[np.ndarray],
    labels: LabelSpace,
    *,
    size: int,
    confidence: float,
    iou: float,
    limit: int,
) -> list[Detections]:
    """Detect objects on one batch of BGR images of any size."""
    device = next(model.parameters()).device
    fitted = [letterbox(image, size) for image in images]
    output: Any = model(to_batch([square for square, *_ in fitted], device))
    y_BCA = output[0] if isinstance(output, tuple) else output
    results = []
    for y_CA, image, (_, scale, left, top) in zip(y_BCA, images, fitted, strict=True):
        boxes, scores, class_ids = suppress(y_CA, confidence=confidence, iou=iou, limit=limit)
        height, width = image.shape[:2]
        xyxy: Any = (boxes.cpu().numpy() - np.array([left, top, left, top], np.float32)) / scale
        xyxy = np.clip(xyxy, 0, [width, height, width, height]).astype(np.float32)
        results.append(Detections(xyxy, scores.cpu().numpy(), class_ids.cpu().numpy(), labels))
    return results


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield consecutive runs of at most ``size`` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
