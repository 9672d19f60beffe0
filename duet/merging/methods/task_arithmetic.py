"""Task arithmetic: theta = theta_0 + lambda sum_k tau_k (Ilharco et al., ICLR 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from duet.config import Config
from duet.merging.trace import Notes
from duet.merging.varying import value_of_each, varying

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duet.merging.chunks import Scratch, Span
    from duet.merging.inputs import Inputs
    from duet.vectors.tensors import Tensors


class Params(Config):
    """Parameters of task arithmetic."""

    weight: varying(ge=-2, le=2) = Field(  # type: ignore[valid-type]
        default=0.3,
        description="lambda, the factor of the summed task vectors; may differ by layer.",
        json_schema_extra={"source": "arXiv 2212.04089: 0.3 to 0.4", "range": ">= -2, <= 2"},
    )


def merge(inputs: Inputs, params: Params, out: Tensors) -> Notes:
    """Write theta_0 + lambda sum_k tau_k into ``out``."""
    return add_into(inputs, value_of_each(params.weight, inputs.shapes, inputs.layers), out)


def add_into(inputs: Inputs, weights: Mapping[str, float], out: Tensors) -> Notes:
    """Write theta_0 + weight sum_k tau_k into ``out`` and note the weight of each tensor.

    Args:
        inputs: Stages; the result does not depend on their order.
        weights: By tensor name.
        out: float32 tensors to overwrite.
    """
    inputs = inputs.by_name()

    def work(span: Span, scratch: Scratch) -> None:
        base, target, factor = inputs.theta_0(span, scratch), span.of(out), weights[span.name]
        target.copy_(base)
        for tau in inputs.each_tau(span, base, scratch):
            target.add_(tau, alpha=factor)

    inputs.each_span(work)
    return Notes({name: {"weight": value} for name, value in weights.items()})
