"""MagMax: per scalar the change with the largest magnitude (ECCV 2024, arXiv 2407.06322)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from duet.config import Config
from duet.merging.trace import Notes
from duet.merging.varying import value_of_each, varying

if TYPE_CHECKING:
    import torch

    from duet.merging.chunks import Scratch, Span
    from duet.merging.inputs import Inputs
    from duet.vectors.tensors import Tensors


class Params(Config):
    """Parameters of MagMax."""

    weight: varying(ge=-2, le=2) = Field(  # type: ignore[valid-type]
        default=0.5,
        description="lambda, the factor of the merged task vector; may differ by layer.",
        json_schema_extra={"source": "arXiv 2407.06322: 0.5", "range": ">= -2, <= 2"},
    )


def merge(inputs: Inputs, params: Params, out: Tensors) -> Notes:
    """Write theta_0 + lambda tau into ``out``.

    tau holds per scalar the tau_k with the largest magnitude; of equal ones the latest stage wins.
    """
    import numpy as np
    import torch

    weights = value_of_each(params.weight, inputs.shapes, inputs.layers)

    def work(span: Span, scratch: Scratch) -> None:
        base = inputs.theta_0(span, scratch)
        high, low = _extremes(inputs, span, base, scratch)
        # Two operations per stage; comparing magnitudes one by one would take twice as many. The
        # sum of the extremes is exactly zero only where both are equally far from zero.
        sign = torch.add(high, low, out=scratch("sign", len(span))).sign_()
        size = torch.maximum(high, low.neg_(), out=high).abs_()  # abs: no -0.0, which has bits
        bits = [x.view(torch.int32).numpy() for x in (sign, size)]
        if np.count_nonzero(bits[0]) != np.count_nonzero(bits[1]):  # torch's own is 20 times slower
            _break_ties(inputs, span, base, size, sign, scratch)
        torch.add(base, size.mul_(sign), alpha=weights[span.name], out=span.of(out))

    inputs.each_span(work)
    return Notes({name: {"weight": value} for name, value in weights.items()})


def _extremes(
    inputs: Inputs, span: Span, base: torch.Tensor, scratch: Scratch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest and the smallest tau_k of every scalar, in scratch memory."""
    import torch

    high, low = scratch("high", len(span)), scratch("low", len(span))
    first, *others = inputs.stages
    before = [first.tau(span, base, scratch("first", len(span)))] * 2
    for stage in others or [first]:
        tau = stage.tau(span, base, scratch("tau", len(span)))
        before = [
            torch.maximum(before[0], tau, out=high), torch.minimum(before[1], tau, out=low)
        ]  # fmt: skip
    return high, low


def _break_ties(
    inputs: Inputs, span: Span, base: torch.Tensor, size: torch.Tensor, sign: torch.Tensor,
    scratch: Scratch,
) -> None:  # fmt: skip
    """Set the sign of the latest stage where two stages move equally far in opposite directions."""
    import torch

    places = torch.nonzero((sign == 0) & (size != 0)).squeeze(1)
    for stage in inputs.stages:
        few = stage.tau(span, base, scratch("tau", len(span)))[places]
        wins = few.abs() == size[places]
        sign[places[wins]] = few[wins].sign()
