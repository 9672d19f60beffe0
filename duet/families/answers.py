"""What a detector says at every place of an image, before any place is chosen; and who can say it.

Two detectors of one architecture have the same places, whatever they were trained on, so that one
can learn from another place by place, without labels.

Shapes: B images, C classes, A places, X outputs of a box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from duet.increments.state import DetectorState
from duet.vectors.tensors import Tensors


@dataclass(frozen=True, eq=False)
class Answers:
    """Raw answers of one branch of a head.

    Attributes:
        scores: ``(B, C, A)`` class logits, float32, classes in the order of the detector's.
        boxes: Raw outputs ``(B, X, A)``, float32: one for all classes, or one for each head part.
    """

    scores: torch.Tensor
    boxes: tuple[torch.Tensor, ...]


Look = Callable[[torch.Tensor], Sequence[Answers]]
"""``look(images)``: the answers of each branch to ``(B, 3, S, S)`` float32 RGB in [0, 1]."""


class Answering(Protocol):
    """A detector that can be asked and trained.

    Attributes:
        module: Its network. A parameter `name_of` knows is a shared tensor of the state.
        bins: Outputs for each side of a box: logits of a distribution; 1: the side itself.
    """

    module: nn.Module
    bins: int

    def look(self, images_B3SS: torch.Tensor) -> Sequence[Answers]:
        """Return its answers, branch by branch, with gradients where parameters have some."""
        ...

    def name_of(self, parameter: str) -> str:
        """Return the name in the state of a parameter of `module` that all increments share."""
        ...

    def state(self, tensors: Tensors) -> DetectorState:
        """Return the state whose network holds these tensors, named as in `module`."""
        ...
