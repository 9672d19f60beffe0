"""The previous detector beside the one in training: asked for each batch, never trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from duet.families.packed import pack
from duet.families.ultralytics.family import UltralyticsFamily
from duet.training.memory import fast_module
from duet.training.precision import Precision


class Teacher(nn.Module):
    """The previous detector, in the order in memory and the numbers that are fast.

    Attributes:
        network: Returns its objects, or None where nobody wants them, and its raw outputs.

    Args:
        network: Folded.
        precision: As that of the model in training; says where it runs, too.
    """

    def __init__(self, network: nn.Module, precision: Precision) -> None:
        super().__init__()
        laid = fast_module(network.eval().requires_grad_(False), precision.device)
        # What is packed computes in float32 whatever autocast says.
        exact = precision.dtype is None
        self.network = pack(laid, UltralyticsFamily.blocks) if exact else precision.settled(laid)
        self._ask = precision.within(self.network)
        self._seen: tuple[torch.Tensor, Any] | None = None

    def forward(self, images_B3SS: torch.Tensor) -> Any:
        """Return what the network says of a batch, float32; asked twice of one, it looks once."""
        if self._seen is None or self._seen[0] is not images_B3SS:
            # Not inference_mode: the anchors that heads keep would be unusable outside of it.
            with torch.no_grad():
                self._seen = images_B3SS, self._ask(images_B3SS)
        return self._seen[1]
