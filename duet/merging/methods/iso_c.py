"""Iso-C: the summed change with all singular values equal (ICML 2025, arXiv 2502.04959).

"Isotropic merging in common subspace": a few shared directions no longer drown the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from duet.config import Config
from duet.merging.varying import value_of_each, varying

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from duet.merging.inputs import Inputs
    from duet.merging.trace import Notes
    from duet.vectors.tensors import Tensors


class Params(Config):
    """Parameters of Iso-C."""

    weight: varying(ge=-4, le=4) = Field(  # type: ignore[valid-type]
        default=1.0,
        description="Factor of the merged task vector; may differ by layer.",
        json_schema_extra={
            "source": "1 = no factor; arXiv 2502.04959 tunes it on validation data",
            "range": ">= -4, <= 4",
        },
    )


def merge(inputs: Inputs, params: Params, out: Tensors) -> Notes:
    """Write theta_0 + weight * mean(S) U V^T into ``out``, where U S V^T = sum_k tau_k.

    Tensors of one dimension take the mean of tau_k instead.
    """
    from duet.merging.matrices import merge_matrices

    weights = value_of_each(params.weight, inputs.shapes, inputs.layers)
    return merge_matrices(inputs, weights, _isotropic, out)


def _isotropic(taus: Iterator[torch.Tensor], count: int) -> torch.Tensor:
    from duet.merging.matrices import add_up, polar

    first = next(taus)
    directions, values = polar(add_up(taus, first.clone()))
    return directions.mul_(values.mean()).float()
