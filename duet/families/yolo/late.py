"""A head that leaves boxes and scores to who knows which of them count; for inference on a CPU.

Most anchors of an image score next to nothing. To decode them all takes as long as two layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules.head import Detect
from ultralytics.utils.tal import make_anchors

from duet.families.decode import Undecoded
from duet.families.packed import fast
from duet.families.yolo.heads import is_end_to_end


class LateDetect(Detect):  # type: ignore[misc]
    """A `Detect` with one branch, stock or with class towers."""

    _known: tuple[list[torch.Size], torch.Tensor, torch.Tensor] | None = None

    @classmethod
    def of(cls, head: Detect) -> LateDetect:
        """Take over a head for inference."""
        self: LateDetect = cls.__new__(cls)
        self.__dict__ = head.__dict__.copy()
        return self

    def forward(self, x: list[torch.Tensor]) -> Any:
        """Return an `Undecoded` for each image; gradients, tracing and so on: as `Detect`."""
        if not fast(x[0]):
            return super().forward(x)
        logits = [tower(level).flatten(2) for tower, level in zip(self.cv3, x, strict=True)]
        bins = [tower(level).flatten(2) for tower, level in zip(self.cv2, x, strict=True)]
        anchors, strides = self._anchors(x)
        return [
            Undecoded(
                tuple(level[one] for level in logits),
                tuple(level[one].t() for level in bins),
                anchors,
                strides,
            )
            for one in range(len(x[0]))
        ]

    def _anchors(self, x: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the anchors and strides of all levels, remembered for features of one shape."""
        shapes, known = [level.shape[2:] for level in x], self._known  # read once: threads
        if known is None or known[0] != shapes:
            known = self._known = (shapes, *make_anchors(x, self.stride, 0.5))
        return known[1:]


def late(network: Any) -> nn.Module:
    """Give the head of a network this form if it can take it; returns ``network``, changed."""
    head = network.model[-1]
    if type(head) is Detect and not is_end_to_end(head):
        network.model[-1] = LateDetect.of(head)
    found: nn.Module = network
    return found
