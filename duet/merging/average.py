"""Weight averaging: theta = sum_k w_k theta_k (Wortsman et al., "Model soups", ICML 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from duet.config import Config

if TYPE_CHECKING:
    import torch

    from duet.merging.trace import TensorTrace
    from duet.vectors import Tensors


class Params(Config):
    """Parameters of weight averaging."""

    weights: tuple[float, ...] | None = Field(
        default=None,
        description="One nonnegative weight per stage, oldest first; scaled to sum 1. "
        "Without it every stage counts the same (1/K).",
        json_schema_extra={"source": "uniform: model soups", "range": ">= 0, not all 0"},
    )


def merge(
    base: Tensors, stages: Sequence[Tensors], params: Params
) -> tuple[dict[str, torch.Tensor], dict[str, TensorTrace]]:
    """Return theta_0 + sum_k w_k tau_k = sum_k w_k theta_k (sum_k w_k = 1, so theta_0 cancels).

    Args:
        base: theta_0, float32, only trainable shared tensors.
        stages: theta of one or more stages, oldest first, float32.
        params: Weights of the stages.

    Returns:
        Merged float32 tensors and the trace of each (alpha is the weight of the oldest stage).

    Raises:
        ModelError: The stages do not fit the base, or the weights do not fit the stages.
    """
    # Here, not above, so that `duet methods` reads Params without importing torch.
    from duet.merging.stages import compare, require_stages
    from duet.merging.weights import normalised

    require_stages(base, stages, method="average")
    given = params.weights if params.weights is not None else (1.0,) * len(stages)
    weights = normalised(given, len(stages), "merge 'average'")
    merged = {name: _mean([stage[name] for stage in stages], weights) for name in base}
    traces = {
        name: compare(base[name], stages[0][name], stages[-1][name]).trace(alpha=weights[0])
        for name in base
    }
    return merged, traces


def _mean(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Return the weighted mean, rounded once from float64, so equal tensors come back exactly."""
    # Stages of weight 0 are left out, not multiplied: 0 * x + -0.0 would lose the sign of zero.
    used = [
        (tensor.detach(), weight) for tensor, weight in zip(tensors, weights, strict=True) if weight
    ]
    total = used[0][0].double() * used[0][1]
    for tensor, weight in used[1:]:
        total = total + tensor.double() * weight
    return total.float()
