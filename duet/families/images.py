"""Images of any size as batches that a network reads; `duet.images` fits them into squares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from duet.images import Fit, fit_image


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
