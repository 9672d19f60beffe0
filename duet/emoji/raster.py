"""Pictures as arrays: their type, what counts as solid, and back to bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Rng = np.random.Generator

SOLID = 128
"""A pixel belongs to an object when its alpha is at least this (out of 255)."""


def as_uint8(values: npt.NDArray[Any]) -> Image:
    """Cut values to [0, 255] and drop their fractions; any shape."""
    return np.asarray(np.clip(values, 0, 255), np.uint8)
