"""Class scores of a detector as a function of its shared weights, for merges that learn.

Shapes: B images, C classes of all increments, A anchors, S pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.func import functional_call

from duet.errors import ModelError
from duet.families.yolo.build import inference_model
from duet.families.yolo.heads import ClassScores
from duet.increments.state import DetectorState
from duet.vectors.tensors import Tensors

ClassLogits = Callable[[Tensors, torch.Tensor], torch.Tensor]


def class_logits(state: DetectorState) -> ClassLogits:
    """Return ``scores(shared, images)`` of a detector; see `Family.class_logits`.

    Of an end-to-end head they are those of the one-to-one branch, which answers at inference.
    """
    model = inference_model(state).requires_grad_(False)
    model.model[-1] = ClassScores.of(model.model[-1])

    def scores(shared: Tensors, images_B3SS: torch.Tensor) -> torch.Tensor:
        unknown = sorted(set(shared) - set(state.shared))
        if unknown:
            raise ModelError(
                f"not shared tensors of this detector: {', '.join(unknown[:5])}",
                where=f"{state.family} {state.architecture}, class scores",
            )
        result: torch.Tensor = functional_call(model, dict(shared), (images_B3SS,))
        return result

    return scores
