"""MTDA merging: a weighted mean of the parameters (ECCV 2024, arXiv 2407.13771).

The paper merges parameters linearly and BatchNorm buffers as distributions. The second half is
`duet.merging.batchnorm` (rule: mixture), which `merge_shared` applies after every method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from duet.config import Config
from duet.errors import ModelError
from duet.merging.methods.average import mean_into
from duet.merging.weights import normalised

if TYPE_CHECKING:
    from duet.merging.inputs import Inputs
    from duet.merging.trace import Notes
    from duet.vectors.tensors import Tensors


class Params(Config):
    """Parameters of MTDA merging."""

    weights: Literal["uniform", "images"] | tuple[float, ...] = Field(
        default="uniform",
        description="uniform: 1/K; images: in proportion to the training images of each stage; or "
        "one number >= 0 per stage, oldest first.",
        json_schema_extra={"source": "arXiv 2407.13771: 1/K", "range": "uniform, images, or >= 0"},
    )


def merge(inputs: Inputs, params: Params, out: Tensors) -> Notes:
    """Write sum_k w_k theta_k into ``out``.

    Raises:
        ModelError: The weights do not fit the stages, or numbers of images are missing.
    """
    where, given = "merge 'mtda'", params.weights
    if given == "uniform":
        given = (1.0,) * len(inputs.stages)
    elif given == "images":
        unknown = [stage.name for stage in inputs.stages if stage.images <= 0]
        if unknown:
            raise ModelError(
                f"the number of training images is not known of: {', '.join(unknown)}",
                where=where,
                remedy="say it (--count NAME=IMAGES, `images` of a model in the recipe), use "
                "weights: uniform, or give one number per stage",
            )
        given = tuple(float(stage.images) for stage in inputs.stages)
    assert not isinstance(given, str)
    return mean_into(inputs, normalised(given, len(inputs.stages), where), out)
