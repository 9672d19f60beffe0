"""Fisher merging: each weight by how much each stage depends on it.

Matena & Raffel, "Merging models with Fisher-weighted averaging", NeurIPS 2022, arXiv 2111.09832.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from duet.config import Config
from duet.errors import ModelError
from duet.merging.trace import Notes

if TYPE_CHECKING:
    from duet.merging.chunks import Scratch, Span
    from duet.merging.inputs import Inputs
    from duet.vectors.tensors import Tensors


_NOTHING = 1e-30
"""Mean Fisher up to which a stage tells nothing; one over it would leave the range of float32."""


class Params(Config):
    """Parameters of Fisher merging."""

    floor: float = Field(
        default=1e-6,
        gt=0,
        le=1,
        description="Added to every F, in units of the mean F, so that scalars on which no stage "
        "depends fall back to the plain mean; 1 and above would be close to the mean everywhere.",
        json_schema_extra={"source": "code of arXiv 2311.03099 (MergeLM): 1e-6, absolute"},
    )
    normalise: bool = Field(
        default=True,
        description="Scale each stage's F to the same mean; otherwise stages with large gradients "
        "count more.",
        json_schema_extra={"source": "MergeLM normalises (l2 norm)", "range": "true, false"},
    )


def merge(inputs: Inputs, params: Params, out: Tensors) -> Notes:
    """Write sum_k F_k theta_k / sum_k F_k into ``out``; theta_0 cancels and is not needed.

    Raises:
        ModelError: A stage's Fisher does not fit the tensors.
    """
    inputs = inputs.by_name()
    means = _means(inputs)
    # In units of the mean a floor means the same for every loss and every number of images.
    overall = math.fsum(means.values()) / len(means)
    units = {name: mean if params.normalise else overall for name, mean in means.items()}

    def work(span: Span, scratch: Scratch) -> None:
        base, count = inputs.theta_0(span, scratch), len(span)
        mean, total = scratch("mean", count), scratch("total", count)
        for k, stage in enumerate(inputs.stages):
            theta = stage.theta(span, base, scratch("theta", count))
            assert stage.fisher is not None
            fisher = scratch("fisher", count).copy_(span.of(stage.fisher))
            unit = units[stage.name]
            fisher.mul_(1 / unit if unit > _NOTHING else 0.0).add_(params.floor)
            if k == 0:
                mean.copy_(theta)
                total.copy_(fisher)
            else:  # a running mean: equal models come back exactly
                total.add_(fisher)
                mean.lerp_(theta, fisher.div_(total))
        span.of(out).copy_(mean)

    inputs.each_span(work)
    return Notes(facts={"mean_fisher": means})


def _means(inputs: Inputs) -> dict[str, float]:
    """Return the mean Fisher of each stage, summed in float64."""
    import torch

    size = max(sum(inputs.sizes.values()), 1)
    means = {}
    for stage in inputs.stages:
        fisher = stage.fisher or {}
        if {name: tensor.shape for name, tensor in fisher.items()} != inputs.shapes:
            raise ModelError(
                "the Fisher information does not fit the shared tensors",
                where=f"merge 'fisher', stage '{stage.name}'",
                remedy="it must be of the same detector: train the increment again",
            )

        def work(span: Span, scratch: Scratch, fisher: Tensors = fisher) -> float:
            return float(torch.sum(span.of(fisher), dtype=torch.float64))

        means[stage.name] = math.fsum(inputs.each_span(work)) / size
    return means
