"""From images of any size to the inputs of a network, in numpy and OpenCV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from duet.images import Fit, Fitted, fit_image, input_shape

_SHARES = np.arange(256, dtype=np.float32) / np.float32(255)
"""What a byte becomes, divided in float32 as torch does it: times 1 / 255 would be other bits."""


def alike(
    images: Sequence[np.ndarray], size: int, fit: Fit, stride: int, most: int
) -> Iterator[tuple[list[int], list[Fitted]]]:
    """Yield images that go in together, as inputs of one shape: their places, and the inputs.

    Args:
        images: BGR uint8, of any size.
        size: See `duet.images.fit_image`; so are ``fit`` and ``stride``.
        fit: How they become inputs.
        stride: Of the network.
        most: That go in together.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for place, image in enumerate(images):
        height, width = image.shape[:2]
        groups.setdefault(input_shape((height, width), size, fit, stride), []).append(place)
    for places in groups.values():
        for start in range(0, len(places), most):
            part = places[start : start + most]
            yield part, [fit_image(images[place], size, fit, stride) for place in part]


def stacked(inputs: Sequence[Fitted]) -> npt.NDArray[np.float32]:
    """Return inputs of one shape as ``(B, 3, H, W)`` float32 RGB in [0, 1]."""
    import cv2

    height, width = inputs[0].pixels.shape[:2]
    batch_BCHW = np.empty((len(inputs), 3, height, width), np.float32)
    for one, planes in zip(inputs, batch_BCHW, strict=True):
        for channel, plane in enumerate(planes):
            cv2.LUT(cv2.extractChannel(one.pixels, 2 - channel), _SHARES, dst=plane)
    return batch_BCHW
