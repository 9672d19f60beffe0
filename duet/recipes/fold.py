"""One step of a chain's merge: the detector so far and the next stage become one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from duet.merging.batchnorm import BatchNormFusion
from duet.merging.inputs import Inputs
from duet.merging.operand import Operand
from duet.merging.shared import Merged, merge_shared
from duet.vectors.tensors import Tensors

PREVIOUS = "(merged so far)"
"""Name of the first stage when a chain is folded."""


def fold(
    method: str,
    params: Mapping[str, Any],
    batchnorm: BatchNormFusion,
    inputs: Inputs,
    so_far: Operand,
    stage: Operand,
    *,
    before: int,
    buffers: tuple[Tensors, Tensors],
    images: tuple[int, int],
    out: dict[str, torch.Tensor] | None = None,
) -> Merged:
    """Merge the shared tensors and statistics of a chain so far with those of its next stage.

    A run that learns and a recipe that merges the kept increments again both come through here, so
    that they agree to the bit.

    Args:
        method: Name of the merge method.
        params: Its parameters.
        batchnorm: Rule for BatchNorm statistics.
        inputs: θ_0, the places of the tensors, the objective; its stages are replaced.
        so_far: What was merged before.
        stage: What was trained on it.
        before: Increments that ``so_far`` holds; uniform weights count them.
        buffers: BatchNorm statistics of both.
        images: Images seen by both, for ``weights: images``.
        out: Where the shared tensors go; default new memory.
    """
    return merge_shared(
        method, params, replace(inputs, stages=(so_far, stage)), buffers=buffers,
        fusion=pair_fusion(batchnorm, before), images=images, out=out,
    )  # fmt: skip


def pair_fusion(fusion: BatchNormFusion, before: int) -> BatchNormFusion:
    """Return the rule for the merge so far and one new stage: uniform counts every increment."""
    if fusion.weights != "uniform":
        return fusion
    return fusion.model_copy(update={"weights": (float(before), 1.0)})
