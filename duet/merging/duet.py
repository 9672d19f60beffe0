"""The DuET module: averaging two stages, tilted per layer by how far each one moved.

DuET (ICCV 2025, arXiv 2506.21260v2), section 3.3 and supplement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from duet.config import Config

if TYPE_CHECKING:
    import torch

    from duet.merging.stages import Pair
    from duet.merging.trace import TensorTrace
    from duet.vectors import Tensors


class Params(Config):
    """Parameters of the DuET module."""

    gamma: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Largest tilt of alpha away from alpha_base; 0 is weight averaging.",
        json_schema_extra={"source": "DuET supplement"},
    )
    alpha_base: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Weight of the old model where both moved equally far.",
        json_schema_extra={"source": "DuET supplement"},
    )
    eps: float = Field(
        default=1e-8,
        gt=0,
        le=1e-3,
        description="Keeps the p-factor finite where neither model moved.",
        json_schema_extra={"source": "public reproduction; the paper gives no value"},
    )

    @model_validator(mode="after")
    def _alpha_stays_a_weight(self) -> Params:
        # 1e-9 forgives sums such as 0.7 + 0.3 that float64 rounds above 1.
        if self.alpha_base - self.gamma < -1e-9 or self.alpha_base + self.gamma > 1 + 1e-9:
            raise ValueError(
                "alpha_base - gamma and alpha_base + gamma must stay in [0, 1], otherwise the "
                "merge extrapolates"
            )
        return self


def merge(
    base: Tensors, stages: Sequence[Tensors], params: Params
) -> tuple[dict[str, torch.Tensor], dict[str, TensorTrace]]:
    """Return theta_0 + alpha_l tau_old + beta_l tau_curr for each layer (tensor) l.

    As alpha_l + beta_l = 1, theta_0 cancels and the merge is the interpolation
    alpha_l theta_old + beta_l theta_curr. That form is used, because it gives a model back bit for
    bit where alpha is 1 or 0 or both models agree; adding and subtracting theta_0 would round.

    Args:
        base: theta_0, float32, only trainable shared tensors.
        stages: Exactly [previous merged model, newly trained model], float32.
        params: Parameters of the module.

    Returns:
        Merged float32 tensors and the trace of each.

    Raises:
        ModelError: The stages do not fit the base, or there are not exactly two.
    """
    from duet.merging.stages import compare, require_stages  # keeps `duet methods` free of torch

    require_stages(base, stages, method="duet", exactly=2)
    merged: dict[str, torch.Tensor] = {}
    traces: dict[str, TensorTrace] = {}
    for name, theta_0 in base.items():
        old, new = stages[0][name].detach(), stages[1][name].detach()
        pair = compare(theta_0, old, new)
        alpha, p = factors(pair, params)
        merged[name] = interpolate(old, new, beta=1.0 - alpha)
        traces[name] = pair.trace(alpha=alpha, p=p)
    return merged, traces


def factors(pair: Pair, params: Params) -> tuple[float, float]:
    """Return (alpha_l, p_l).

    p_l = (|tau_old|_1 - |tau_curr|_1) / (|tau_old + tau_curr|_1 + eps), delta_l = gamma tanh(p_l),
    alpha_l = alpha_base + clamp(delta_l, -gamma, gamma). By the triangle inequality |p_l| <= 1, so
    the clamp of the paper never acts; it stays for the letter of the equation.
    """
    p = (pair.norm_old - pair.norm_new) / (pair.norm_sum + params.eps)
    delta = params.gamma * math.tanh(p)
    return params.alpha_base + max(-params.gamma, min(params.gamma, delta)), p


def interpolate(old: torch.Tensor, new: torch.Tensor, *, beta: float) -> torch.Tensor:
    """Return (1 - beta) old + beta new, float32, with beta in [0, 1].

    Interpolates in float64, where new - old cannot overflow, and rounds once.
    """
    if beta in (0.0, 1.0):
        return (new if beta else old).clone()
    merged = old.double().lerp(new.double(), beta).float()
    return merged.where(old != new, old)  # lerp makes 0.0 of -0.0; equal values must come back
