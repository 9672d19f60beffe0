"""Images in, `Detections` out, whichever network lies between."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from duet.defaults import IOU, Agnostic, Confidence
from duet.detections import Detections
from duet.families.decode import Undecoded, decode
from duet.families.doubles import Rivals, one_each, rivals_of
from duet.families.inputs import alike
from duet.families.outputs import Layout, View
from duet.images import STRIDE, Fit, Fitted, fit_image, squared
from duet.labels import LabelSpace


@dataclass(frozen=True)
class ImageDetector:
    """A network that is ready to look at images.

    Attributes:
        module: Maps ``(B, 3, H, W)`` float32 RGB in [0, 1] to outputs in ``layout``, batch first,
            alone or as the first item of a tuple; or to a list of an `Undecoded` for each image.
        labels: Class names in the order of the outputs.
        increments: Increment that each class came with, in the same order; "" where its scores
            cannot be compared, see `duet.increments.scores.comparable`.
        image_size: Longer side of what it reads, pixels.
        fit: How images become such.
        layout: What the outputs mean.
        device: Where it runs.
        batch: Largest batch.
        stride: Its coarsest stride in pixels, see `fit_image`.
        channels_last: Memory format of what it reads.
    """

    module: Callable[[torch.Tensor], Any]
    labels: LabelSpace
    increments: tuple[str, ...]
    image_size: int
    fit: Fit
    layout: Layout
    device: str = "cpu"
    batch: int = 32
    stride: int = STRIDE
    channels_last: bool = False

    def __call__(
        self,
        images: Sequence[np.ndarray],
        *,
        confidence: Confidence = 0.001,
        iou: float = IOU,
        limit: int = 300,
        multi_label: bool = False,
        agnostic: Agnostic = "off",
    ) -> list[Detections]:
        """Detect on BGR uint8 images of any size; boxes are xyxy px of each original image."""
        return self.views(images, View(confidence, iou, limit, multi_label, agnostic))[0]

    @torch.inference_mode()
    def views(self, images: Sequence[np.ndarray], *views: View) -> tuple[list[Detections], ...]:
        """Return what each of several views shows of the images, which are looked at once."""
        found: tuple[dict[int, Detections], ...] = tuple({} for _ in views)
        rivals = [rivals_of(view.agnostic, self.labels, self.increments) for view in views]
        place = torch.device(self.device)
        for group, fitted in alike(images, self.image_size, self.fit, self.stride, self.batch):
            pixels = [one.pixels for one in fitted]
            output = self.module(to_batch(pixels, place, channels_last=self.channels_last))
            rows = output[0] if isinstance(output, tuple) else output
            for index, row, one in zip(group, rows, fitted, strict=True):
                for view, apart, seen in zip(views, rivals, found, strict=True):
                    seen[index] = self._seen(row, one, view, apart)
        return tuple([seen[index] for index in range(len(images))] for seen in found)

    def _seen(
        self, row: torch.Tensor | Undecoded, one: Fitted, view: View, rivals: Rivals | None
    ) -> Detections:
        least = view.confidence
        boxes, scores, class_ids = decode(
            row, self.layout, size=one.pixels.shape[:2],
            confidence=torch.tensor(least, device=self.device)
            if isinstance(least, tuple) else least,
            iou=view.iou, multi_label=view.multi_label,
            limit=view.limit if rivals is None else sys.maxsize,  # it is for what remains
        )  # fmt: skip
        xyxy = one.to_original(boxes.cpu().numpy())
        scored = (scores.cpu().numpy(), class_ids.cpu().numpy())
        found = Detections(xyxy, *scored, self.labels)
        return found if rivals is None else one_each(found, rivals, view.limit)


def to_batch(
    inputs: Sequence[np.ndarray], device: torch.device, *, channels_last: bool = False
) -> torch.Tensor:
    """Stack BGR uint8 inputs of one shape into ``(B, 3, H, W)`` float32 RGB in [0, 1]."""
    import cv2

    pixels = np.empty((len(inputs), *inputs[0].shape), np.uint8)
    for bgr, rgb in zip(inputs, pixels, strict=True):
        cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=rgb)
    batch = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
    return (batch if channels_last else batch.contiguous()).float().div_(255)


def prepare_batch(images: Sequence[np.ndarray], size: int, fit: Fit) -> torch.Tensor:
    """Fit BGR uint8 images of any size: ``(B, 3, S, S)`` float32 RGB in [0, 1] on the CPU."""
    fitted = [fit_image(image, size, squared(fit)).pixels for image in images]
    return to_batch(fitted, torch.device("cpu"))
