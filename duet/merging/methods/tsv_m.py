"""TSV-M: the main directions of every change, made orthogonal (CVPR 2025, arXiv 2412.00081)."""

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
    """Parameters of TSV-M."""

    weight: varying(ge=-4, le=4) = Field(  # type: ignore[valid-type]
        default=1.0,
        description="Factor of the merged task vector; may differ by layer.",
        json_schema_extra={"source": "arXiv 2412.00081: 1", "range": ">= -4, <= 4"},
    )


def merge(inputs: Inputs, params: Params, out: Tensors) -> Notes:
    """Write theta_0 + weight * U S V^T into ``out``.

    U, S and V hold the r // K largest singular triples of each tau_k (of rank at most r, and at
    least one triple) side by side; U and V are replaced by the nearest orthogonal matrices. A
    direction that several stages share fully counts as one. Tensors of one dimension take the mean
    of tau_k instead.
    """
    from duet.merging.matrices import merge_matrices

    weights = value_of_each(params.weight, inputs.shapes, inputs.layers)
    return merge_matrices(inputs, weights, _orthogonal, out)


def _orthogonal(taus: Iterator[torch.Tensor], count: int) -> torch.Tensor:
    import torch

    from duet.merging.matrices import leading, polar

    parts = [leading(tau, max(1, min(tau.shape) // count)) for tau in taus]
    left = torch.cat([u for u, _, _ in parts], dim=1)
    values = torch.cat([s for _, s, _ in parts])
    right = torch.cat([v for _, _, v in parts], dim=0)
    if not len(values):  # no stage changed this tensor
        return left @ right
    return ((polar(left)[0] * values) @ polar(right)[0]).float()
