"""From images of any size to the square that a network reads, and back to original pixels.

Two ways to fit: `letterbox` keeps the aspect ratio and pads (YOLO), `stretch` does not (DETR).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

Fit = Literal["letterbox", "stretch"]

PAD = 114  # grey of the letterbox border, as in the engines' training


@dataclass(frozen=True)
class Fitted:
    """One image fitted into a square.

    Attributes:
        square: ``(S, S, 3)`` uint8, BGR.
        scale: Square pixels per original pixel, along x and y.
        offset: Left and top border in square pixels.
        size: Height and width of the original in pixels.
    """

    square: np.ndarray
    scale: tuple[float, float]
    offset: tuple[int, int]
    size: tuple[int, int]

    def to_original(self, xyxy: np.ndarray) -> np.ndarray:
        """Map ``(n, 4)`` float xyxy from square pixels to original pixels, clipped to the image."""
        height, width = self.size
        moved: Any = (xyxy - np.array(self.offset * 2, np.float32)) / np.array(
            self.scale * 2, np.float32
        )
        clipped: np.ndarray = np.clip(moved, 0, [width, height, width, height]).astype(np.float32)
        return clipped


def fit_image(image_HWC: np.ndarray, size: int, fit: Fit) -> Fitted:
    """Fit an image into a ``size`` square.

    Args:
        image_HWC: ``(H, W, 3)`` uint8, BGR.
        size: Side of the square in pixels, a multiple of 32.
        fit: ``"letterbox"`` pads with grey, ``"stretch"`` scales x and y apart.
    """
    return letterbox(image_HWC, size) if fit == "letterbox" else stretch(image_HWC, size)


def letterbox(image_HWC: np.ndarray, size: int) -> Fitted:
    """Fit an image into a square, its aspect ratio kept; see `fit_image`."""
    height, width = image_HWC.shape[:2]
    scale = size / max(height, width)
    new_h, new_w = max(round(height * scale), 1), max(round(width * scale), 1)
    left, top = (size - new_w) // 2, (size - new_h) // 2
    square = np.full((size, size, 3), PAD, dtype=np.uint8)
    square[top : top + new_h, left : left + new_w] = _resized(image_HWC, new_h, new_w)
    return Fitted(square, (scale, scale), (left, top), (height, width))


def stretch(image_HWC: np.ndarray, size: int) -> Fitted:
    """Fit an image into a square, filling it; see `fit_image`."""
    height, width = image_HWC.shape[:2]
    square = _resized(image_HWC, size, size)
    return Fitted(square, (size / width, size / height), (0, 0), (height, width))


def _resized(image_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    import cv2

    if image_HWC.shape[:2] == (height, width):
        return image_HWC
    resized: np.ndarray = cv2.resize(image_HWC, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized


def to_batch(squares: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    """Stack BGR uint8 squares into ``(B, 3, S, S)`` float32 RGB in [0, 1]."""
    batch = np.stack(squares)[..., ::-1].transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(batch)).to(device).float() / 255


def prepare_batch(images: Sequence[np.ndarray], size: int, fit: Fit) -> torch.Tensor:
    """Fit BGR uint8 images of any size: ``(B, 3, S, S)`` float32 RGB in [0, 1] on the CPU."""
    return to_batch([fit_image(image, size, fit).square for image in images], torch.device("cpu"))


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield consecutive runs of at most ``size`` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
