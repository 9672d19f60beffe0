"""Class scores of a detector as a function of its shared weights, for merges that learn.

Shapes: B images, C classes of all increments, A places, S pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from duet.errors import ModelError
from duet.increments.state import DetectorState
from duet.vectors.tensors import Tensors

ClassLogits = Callable[[Tensors, torch.Tensor], torch.Tensor]


def class_scores(
    model: nn.Module,
    state: DetectorState,
    *,
    inside: Callable[[str], str] = str,
    pick: Callable[[Any], torch.Tensor] = lambda output: output,
) -> ClassLogits:
    """Return ``scores(shared, images)`` of a detector; see `Family.class_logits`.

    Args:
        model: Its network, in evaluation mode and without gradients.
        state: The detector.
        inside: From the name of a shared tensor to that inside ``model``.
        pick: From an output of ``model`` to ``(B, C, A)`` logits.
    """

    def scores(shared: Tensors, images_B3SS: torch.Tensor) -> torch.Tensor:
        unknown = sorted(set(shared) - set(state.shared))
        if unknown:
            raise ModelError(
                f"not shared tensors of this detector: {', '.join(unknown[:5])}",
                where=f"{state.family} {state.architecture}, class scores",
            )
        moved = {inside(name): tensor for name, tensor in shared.items()}
        return pick(functional_call(model, moved, (images_B3SS,)))

    return scores
