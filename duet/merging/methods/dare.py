"""DARE: drop changes at random and rescale the rest (Yu et al., ICML 2024, arXiv 2311.03099)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from duet.merging.methods import task_arithmetic, ties
from duet.merging.varying import value_of_each, varying

if TYPE_CHECKING:
    from duet.merging.inputs import Inputs
    from duet.merging.trace import Notes
    from duet.vectors.tensors import Tensors


class Params(ties.Params):
    """Parameters of DARE: its own, and those of TIES for `then: ties`."""

    drop: float = Field(
        default=0.2,
        ge=0,
        le=0.999,
        description="Probability to drop a scalar of a task vector; the others are divided by "
        "1 - drop. Vectors with large changes bear little of it.",
        json_schema_extra={
            "source": "the authors' merging command; arXiv 2311.03099 tries 0.1-0.9"
        },
    )
    seed: int = Field(
        default=0,
        ge=0,
        description="The draw depends on it and on the names of stage and tensor, on no order.",
        json_schema_extra={"source": "any; the authors' code: 0"},
    )
    then: Literal["sum", "ties"] = Field(
        default="sum",
        description="What merges the dropped vectors: task arithmetic, or TIES with its own "
        "density, scope and merge.",
        json_schema_extra={"source": "arXiv 2311.03099 combines it with both",
                           "range": "sum, ties"},
    )  # fmt: skip
    weight: varying(ge=-2, le=2) | None = Field(  # type: ignore[valid-type]
        default=None,
        description="lambda, the factor of the merged task vector; may differ by layer. Without "
        "it the default of the method in `then`: 0.3 for sum, 1 for ties.",
        json_schema_extra={"source": "task arithmetic and TIES", "range": ">= -2, <= 2"},
    )


def merge(inputs: Inputs, params: Params, out: Tensors) -> Notes:
    """Drop scalars of every task vector, then write the merge of what is left into ``out``.

    Raises:
        ConfigError: As `duet.merging.methods.ties.merge`.
    """
    from duet.merging.dropped import DroppedStage

    stages = tuple(
        DroppedStage.of_stage(stage, drop=params.drop, seed=params.seed) for stage in inputs.stages
    )
    inputs = replace(inputs, stages=stages)
    if params.then == "ties":
        given = params.model_dump(include=set(ties.Params.model_fields) - {"weight"})
        if params.weight is not None:
            given["weight"] = params.weight
        return ties.merge(inputs, ties.Params(**given), out)
    weight = params.weight
    if weight is None:
        weight = task_arithmetic.Params().weight
    return task_arithmetic.add_into(
        inputs, value_of_each(weight, inputs.shapes, inputs.layers), out
    )
