"""Newest: no merge; the last stage bit for bit (sequential fine-tuning, the lower control)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from duet.config import Config

if TYPE_CHECKING:
    import torch

    from duet.merging.trace import TensorTrace
    from duet.vectors import Tensors


class Params(Config):
    """The method has no parameters."""


def merge(
    base: Tensors,
    stages: Sequence[Tensors],
    params: Params,
) -> tuple[dict[str, torch.Tensor], dict[str, TensorTrace]]:
    """Return theta = theta_K.

    Args:
        base: theta_0, float32, only trainable shared tensors.
        stages: theta of one or more stages, oldest first, float32.
        params: No parameters.

    Returns:
        Copies of the last stage's tensors, and the trace of each (alpha is 0).

    Raises:
        ModelError: The stages do not fit the base.
    """
    from duet.merging.stages import compare, require_stages  # keeps `duet methods` free of torch

    require_stages(base, stages, method="newest")
    merged = {name: stages[-1][name].detach().clone() for name in base}
    alpha = 1.0 if len(stages) == 1 else 0.0  # a single stage is both the oldest and the newest
    traces = {
        name: compare(base[name], stages[0][name], stages[-1][name]).trace(alpha=alpha)
        for name in base
    }
    return merged, traces
