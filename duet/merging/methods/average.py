"""Weight averaging: theta = sum_k w_k theta_k (Wortsman et al., "Model soups", ICML 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from duet.config import Config
from duet.merging.trace import Notes
from duet.merging.weights import normalised

if TYPE_CHECKING:
    import torch

    from duet.merging.chunks import Scratch, Span
    from duet.merging.inputs import Inputs
    from duet.merging.operand import Operand
    from duet.vectors.tensors import Tensors


class Params(Config):
    """Parameters of weight averaging."""

    weights: tuple[float, ...] | None = Field(
        default=None,
        description="One nonnegative weight per stage, oldest first; scaled to sum 1. "
        "Without it every stage counts the same (1/K).",
        json_schema_extra={"source": "uniform: model soups", "range": ">= 0, not all 0"},
    )


def merge(inputs: Inputs, params: Params, out: Tensors) -> Notes:
    """Write sum_k w_k theta_k into ``out``; theta_0 cancels and is not needed.

    Raises:
        ModelError: The weights do not fit the stages.
    """
    given = params.weights if params.weights is not None else (1.0,) * len(inputs.stages)
    return mean_into(inputs, normalised(given, len(inputs.stages), "merge 'average'"), out)


def mean_into(inputs: Inputs, weights: Sequence[float], out: Tensors) -> Notes:
    """Write the weighted mean of the stages into ``out`` and note the weights.

    Args:
        inputs: Stages, oldest first.
        weights: One per stage, sum 1.
        out: float32 tensors to overwrite.
    """
    pairs = sorted(zip(inputs.stages, weights, strict=True), key=lambda pair: pair[0].name)
    used = [(stage, weight) for stage, weight in pairs if weight]

    def work(span: Span, scratch: Scratch) -> None:
        base, target = inputs.theta_0(span, scratch), span.of(out)
        # A running mean: equal models come back exactly, which a sum of w_k theta_k would round.
        total = 0.0
        for stage, weight in used:
            theta = stage.theta(span, base, scratch("theta", len(span)))
            total += weight
            if total == weight:
                target.copy_(theta)
            else:
                target.lerp_(theta, weight / total)
        if len(used) > 1 and not bool(target.sum().isfinite()):
            target.copy_(_in_float64(used, span, base, scratch))

    inputs.each_span(work)
    facts = {"weights": {stage.name: weight for stage, weight in pairs}}
    return Notes({name: {"alpha": weights[0]} for name in inputs.shapes}, facts)


def _in_float64(
    used: Sequence[tuple[Operand, float]], span: Span, base: torch.Tensor, scratch: Scratch
) -> torch.Tensor:
    """Return the mean of weights whose difference leaves the range of float32."""
    total = base.double() * 0
    for stage, weight in used:
        theta = stage.theta(span, base, scratch("theta", len(span)))
        total += weight * theta.double()
    return total
