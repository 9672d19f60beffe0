"""Reading image files into arrays, and fitting them into the square that a network reads.

Two ways to fit: `letterbox` keeps the aspect ratio and pads (YOLO), `stretch` does not (DETR).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from duet.errors import DataError

Image = npt.NDArray[np.uint8]
"""``(H, W, 3)`` uint8, BGR, upright (after the file's EXIF rotation)."""

Fit = Literal["letterbox", "stretch"]

PAD = 114  # grey of the letterbox border, as in the engines' training


def read_image(path: Path) -> Image:
    """Return an image as ``(H, W, 3)`` uint8 BGR.

    Raises:
        DataError: The file is not a readable image.
    """
    import cv2

    image: Any = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(
            "not a readable image", where=str(path), remedy="replace or remove the file"
        )
    return np.asarray(image, dtype=np.uint8)


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

    def to_square(self, boxes_N4: np.ndarray) -> np.ndarray:
        """Map float32 cxcywh, normalised to the original, to such normalised to the square."""
        side, (height, width) = len(self.square), self.size
        share = np.array((self.scale[0] * width, self.scale[1] * height) * 2) / side
        border = np.array((*self.offset, 0, 0)) / side
        moved: np.ndarray = (boxes_N4 * share + border).astype(np.float32)
        return moved


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
