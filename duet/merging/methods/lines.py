"""LiNeS: changes grow with depth, so that early layers stay general (ICLR 2025, arXiv 2410.17146).

The paper scales a merged task vector; here that of task arithmetic, its main case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from duet.config import Config
from duet.errors import ModelError
from duet.merging.methods.task_arithmetic import add_into

if TYPE_CHECKING:
    from duet.merging.inputs import Inputs
    from duet.merging.trace import Notes
    from duet.vectors.tensors import Tensors


class Params(Config):
    """Parameters of LiNeS."""

    alpha: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="Factor of the summed task vectors in the first layer; without it 1/K, where "
        "the first layer is averaged.",
        json_schema_extra={"source": "arXiv 2410.17146: 1/K for sums"},
    )
    beta: float = Field(
        default=0.5,
        ge=-2,
        le=2,
        description="What the factor gains from the first to the last layer.",
        json_schema_extra={
            "source": "middle of (0, 1], where arXiv 2410.17146 searches on validation data"
        },
    )


def merge(inputs: Inputs, params: Params, out: Tensors) -> Notes:
    """Write theta_0 + (alpha + beta l / (L - 1)) sum_k tau_k into ``out`` for layer l of L.

    Raises:
        ModelError: The depth of a tensor is not known.
    """
    alpha = 1 / len(inputs.stages) if params.alpha is None else params.alpha
    unknown = [name for name in inputs.shapes if name not in inputs.layers]
    if unknown:
        raise ModelError(
            f"the depth of '{unknown[0]}' in the detector is not known "
            f"({len(unknown)} tensor(s) in all)",
            where="merge 'lines'",
            remedy="depth needs a detector family; choose 'task-arithmetic' for other models",
        )
    weights = {name: alpha + params.beta * inputs.layers[name].depth for name in inputs.shapes}
    return add_into(inputs, weights, out)
