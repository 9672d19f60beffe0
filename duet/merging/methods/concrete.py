"""Concrete task arithmetic: a learned mask over the task vectors (arXiv 2312.06173)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from duet.config import Config
from duet.merging.trace import Notes

if TYPE_CHECKING:
    from duet.merging.inputs import Inputs
    from duet.merging.mask import Mask
    from duet.vectors.tensors import Tensors

PAPER = "arXiv 2312.06173"


class Params(Config):
    """Parameters of Concrete task arithmetic."""

    weight: float = Field(
        default=0.3,
        ge=-2,
        le=2,
        description="lambda, the factor of each masked task vector.",
        json_schema_extra={"source": f"{PAPER}: as task arithmetic"},
    )
    steps: int = Field(
        default=2000,
        ge=0,
        description="Steps in which the mask is learned, one batch of images each.",
        json_schema_extra={"source": PAPER},
    )
    lr: float = Field(
        default=1e-3,
        gt=0,
        description="Learning rate of the mask's logits (Adam).",
        json_schema_extra={"source": PAPER},
    )
    temperature: float = Field(
        default=0.5,
        ge=0.1,
        le=1,
        description="Of the concrete distribution; a lower one draws masks closer to 0 and 1.",
        json_schema_extra={"source": PAPER},
    )
    mask: Literal["mean", "draw"] = Field(
        default="mean",
        description="The final mask: the mean of all draws, or one draw.",
        json_schema_extra={"source": "the authors' code draws; the mean needs no luck",
                           "range": "mean, draw"},
    )  # fmt: skip
    seed: int = Field(
        default=0,
        ge=0,
        description="Of all draws of the mask.",
        json_schema_extra={"source": "any"},
    )


def merge(inputs: Inputs, params: Params, out: Tensors) -> Notes:
    """Write theta_0 + lambda sum_k tau_k m / mean(m) into ``out``, one mask m for all stages.

    In every step a mask is drawn and its logits follow the objective downhill (Adam). Without
    steps, the mean mask is 1/2 everywhere: task arithmetic, bit for bit.

    Raises:
        ModelError: The objective becomes NaN or infinite.
    """
    from duet.merging.descent import Descent
    from duet.merging.mask import Mask

    inputs = inputs.by_name()  # sums in one order, whatever that of the arguments
    mask = Mask(inputs, temperature=params.temperature, seed=params.seed, lr=params.lr)
    descent = Descent(inputs, params.steps)
    weights = {name: [params.weight] * len(inputs.stages) for name in inputs.shapes}
    mask.expect()
    before = descent.probe(mask.add_up(weights))
    for step in range(params.steps):
        mask.draw(step)
        mask.learn(descent.slope(mask.add_up(weights)), weights)
    settle(mask, params)
    after = descent.probe(mask.add_up(weights))
    mask.add_up(weights, out)
    facts = {**descent.facts(before, after), "mask_above_half": mask.kept()}
    return Notes({name: {"weight": params.weight} for name in inputs.shapes}, facts)


def settle(mask: Mask, params: Params) -> None:
    """End the learning of the mask and set the one that the result has."""
    mask.freeze()
    if params.mask == "mean":
        mask.expect()
    else:
        mask.draw(params.steps)
