"""Images in, `Detections` out, whichever network lies between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from duet.detections import Detections
from duet.families.decode import Layout, decode
from duet.images import Fit, fit_image
from duet.labels import LabelSpace


@dataclass(frozen=True)
class View:
    """Which of a network's outputs are shown.

    Attributes:
        confidence: Detections must score above it.
        iou: Boxes of one class that overlap more are one object.
        limit: At most this many detections of an image, best first.
        multi_label: One place of an image may be several classes, which AP is computed from; else
            the best of them alone, which is what users see.
    """

    confidence: float = 0.001
    iou: float = 0.7
    limit: int = 300
    multi_label: bool = False


@dataclass(frozen=True)
class ImageDetector:
    """A network that is ready to look at images.

    Attributes:
        module: Maps ``(B, 3, S, S)`` float32 RGB in [0, 1] to outputs in ``layout``, batch first,
            alone or as the first item of a tuple.
        labels: Class names in the order of the outputs.
        image_size: S, pixels.
        fit: How images become squares.
        layout: What the outputs mean.
        device: Where it runs.
        batch: Largest batch; exported files of a static shape take one image at a time.
    """

    module: Callable[[torch.Tensor], Any]
    labels: LabelSpace
    image_size: int
    fit: Fit
    layout: Layout
    device: str = "cpu"
    batch: int = 32

    def __call__(
        self,
        images: Sequence[np.ndarray],
        *,
        confidence: float = 0.001,
        iou: float = 0.7,
        limit: int = 300,
        multi_label: bool = False,
    ) -> list[Detections]:
        """Detect on BGR uint8 images of any size; boxes are xyxy px of each original image."""
        return self.views(images, View(confidence, iou, limit, multi_label))[0]

    @torch.no_grad()
    def views(self, images: Sequence[np.ndarray], *views: View) -> tuple[list[Detections], ...]:
        """Return what each of several views shows of the images, which are looked at once."""
        found: tuple[list[Detections], ...] = tuple([] for _ in views)
        place = torch.device(self.device)
        for group in batches(images, self.batch):
            fitted = [fit_image(image, self.image_size, self.fit) for image in group]
            output = self.module(to_batch([one.square for one in fitted], place))
            rows = output[0] if isinstance(output, tuple) else output
            for row, one in zip(rows, fitted, strict=True):
                for view, seen in zip(views, found, strict=True):
                    boxes, scores, class_ids = decode(
                        row, self.layout, size=self.image_size, **vars(view)
                    )
                    xyxy = one.to_original(boxes.cpu().numpy())
                    scored = (scores.cpu().numpy(), class_ids.cpu().numpy())
                    seen.append(Detections(xyxy, *scored, self.labels))
        return found


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
