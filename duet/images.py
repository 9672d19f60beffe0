"""Reading image files into arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from duet.errors import DataError

Image = npt.NDArray[np.uint8]
"""``(H, W, 3)`` uint8, BGR, upright (after the file's EXIF rotation)."""


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
