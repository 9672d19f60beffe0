"""Concrete AdaMerging: a learned mask and learned factors (arXiv 2312.06173, arXiv 2310.02575)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from duet.merging.methods import concrete
from duet.merging.trace import Notes

if TYPE_CHECKING:
    import torch

    from duet.merging.descent import Descent
    from duet.merging.inputs import Inputs
    from duet.merging.mask import Mask
    from duet.vectors.tensors import Tensors


class Params(concrete.Params):
    """Parameters of Concrete AdaMerging."""

    weight: float = Field(
        default=0.3,
        ge=-2,
        le=2,
        description="Where every lambda starts, in each step of the mask and in the end.",
        json_schema_extra={"source": "arXiv 2310.02575"},
    )
    steps: int = Field(
        default=1000,
        ge=0,
        description="Steps in which the mask is learned, two batches of images each.",
        json_schema_extra={"source": "the authors' configuration"},
    )
    inner_lr: float = Field(
        default=1.0,
        gt=0,
        description="Learning rate of lambda's one step inside each step of the mask (Adam).",
        json_schema_extra={"source": "the authors' configuration"},
    )
    granularity: Literal["task", "layer"] = Field(
        default="layer",
        description="One lambda per stage, or one per stage and tensor.",
        json_schema_extra={"source": "arXiv 2310.02575: layer-wise is the better one",
                           "range": "task, layer"},
    )  # fmt: skip
    final_steps: int = Field(
        default=1000,
        ge=0,
        description="Steps in which lambda is learned under the final mask.",
        json_schema_extra={"source": "the authors' configuration"},
    )
    final_lr: float = Field(
        default=1e-3,
        gt=0,
        description="Learning rate of lambda under the final mask (Adam).",
        json_schema_extra={"source": "arXiv 2310.02575"},
    )


def merge(inputs: Inputs, params: Params, out: Tensors) -> Notes:
    """Write theta_0 + sum_k lambda_k tau_k m / mean(m) into ``out``, one mask m for all stages.

    Each step draws a mask, sets lambda back to its start, takes one step of Adam on lambda with
    the mask held, then one on the mask's logits with lambda held (first order). Adam's moments of
    lambda outlive the reset, as in the authors' code. In the end lambda is learned from its start
    under the final mask.

    Raises:
        ModelError: The objective becomes NaN or infinite.
    """
    from duet.merging.descent import Descent
    from duet.merging.mask import Mask

    inputs = inputs.by_name()  # sums in one order, whatever that of the arguments
    mask = Mask(inputs, temperature=params.temperature, seed=params.seed, lr=params.lr)
    descent = Descent(inputs, params.steps + params.final_steps)
    factors = _Factors(inputs, params, lr=params.inner_lr)
    mask.expect()
    before = descent.probe(mask.add_up(factors.by_tensor()))
    for step in range(params.steps):
        mask.draw(step)
        factors.reset()
        _improve(factors, mask, descent, inner=True)
        weights = factors.by_tensor()
        mask.learn(descent.slope(mask.add_up(weights)), weights)
    concrete.settle(mask, params)
    factors = _Factors(inputs, params, lr=params.final_lr)
    for _ in range(params.final_steps):
        _improve(factors, mask, descent)
    weights = factors.by_tensor()
    after = descent.probe(mask.add_up(weights))
    mask.add_up(weights, out)
    facts = {**descent.facts(before, after), "mask_above_half": mask.kept(),
             "weights": factors.means()}  # fmt: skip
    names = [f"weight {stage.name}" for stage in inputs.stages]
    return Notes({name: dict(zip(names, weights[name], strict=True)) for name in weights}, facts)


def _improve(factors: _Factors, mask: Mask, descent: Descent, *, inner: bool = False) -> None:
    gradient = descent.slope(mask.add_up(factors.by_tensor()), inner=inner)
    factors.step(mask.weight_slopes(gradient))


class _Factors:
    """Lambda: one row per tensor, or one row in all; one column per stage."""

    def __init__(self, inputs: Inputs, params: Params, *, lr: float) -> None:
        import torch

        self._names, self._stages = list(inputs.shapes), [stage.name for stage in inputs.stages]
        rows = len(self._names) if params.granularity == "layer" else 1
        self._start = params.weight
        self._values = torch.full((rows, len(self._stages)), params.weight)
        self._adam: torch.optim.Optimizer = torch.optim.Adam([self._values], lr=lr)

    def reset(self) -> None:
        self._values.fill_(self._start)

    def step(self, slopes: dict[str, list[float]]) -> None:
        import torch

        rows = torch.tensor([slopes[name] for name in self._names])
        self._values.grad = rows if len(self._values) == len(rows) else rows.sum(0, keepdim=True)
        self._adam.step()

    def by_tensor(self) -> dict[str, list[float]]:
        rows = self._values.expand(len(self._names), -1).tolist()
        return dict(zip(self._names, rows, strict=True))

    def means(self) -> dict[str, float]:
        return dict(zip(self._stages, self._values.mean(0).tolist(), strict=True))
