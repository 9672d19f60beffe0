"""The DuET module: averaging two stages, tilted per layer by how far each one moved.

DuET (ICCV 2025, arXiv 2506.21260v2), section 3.3 and supplement. More than two stages are folded,
oldest first, as the paper does over its increments: the result so far counts as the old model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from duet.config import Config
from duet.merging.trace import Notes

if TYPE_CHECKING:
    import torch

    from duet.merging.chunks import Scratch, Span
    from duet.merging.inputs import Inputs
    from duet.merging.operand import Operand
    from duet.vectors.tensors import Tensors

_FAR = 1e37
"""Norms from which differences may leave the range of float32."""


class Params(Config):
    """Parameters of the DuET module."""

    gamma: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Largest tilt of alpha away from alpha_base; 0 is weight averaging.",
        json_schema_extra={"source": "DuET supplement"},
    )
    alpha_base: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Weight of the old model where both moved equally far.",
        json_schema_extra={"source": "DuET supplement"},
    )
    weights: Literal["fixed", "uniform", "images"] = Field(
        default="fixed",
        description="fixed: alpha_base as it stands; uniform: at least the old model's share of "
        "the increments, (t-1)/t, so that in a long chain each weighs the same; images: at least "
        "its share of the images seen, so that few new images move it little. Both as far as gamma "
        "leaves room.",
        json_schema_extra={
            "source": "fixed: the paper; uniform, images: docs/log.md",
            "range": "fixed, uniform, images",
        },
    )
    eps: float = Field(
        default=1e-8,
        gt=0,
        le=1e-3,
        description="Keeps the p-factor finite where neither model moved.",
        json_schema_extra={"source": "public reproduction; the paper gives no value"},
    )

    @model_validator(mode="after")
    def _alpha_stays_a_weight(self) -> Params:
        # 1e-9 forgives sums such as 0.7 + 0.3 that float64 rounds above 1.
        if self.alpha_base - self.gamma < -1e-9 or self.alpha_base + self.gamma > 1 + 1e-9:
            raise ValueError(
                "alpha_base - gamma and alpha_base + gamma must stay in [0, 1], otherwise the "
                "merge extrapolates"
            )
        return self

    def alpha(self, stages: Sequence[Operand]) -> float:
        """Return the weight of all ``stages`` but the last together, where the last joins them.

        It is what `weights` says of their number, whatever they are merged in: a chain that is
        learned, its recipe that is merged again, or models of one start. A number of images that
        is not known (0) says nothing.
        """
        if self.weights == "fixed":
            return self.alpha_base
        counts = [one.images if self.weights == "images" else one.increments for one in stages]
        if not all(counts):
            return self.alpha_base
        return min(max(self.alpha_base, 1 - counts[-1] / sum(counts)), 1 - self.gamma)


def merge(inputs: Inputs, params: Params, out: Tensors) -> Notes:
    """Write theta_0 + alpha_l tau_old + beta_l tau_curr for each layer (tensor) l into ``out``.

    As alpha_l + beta_l = 1, theta_0 cancels and the merge is the interpolation
    alpha_l theta_old + beta_l theta_curr. That form is used, because it gives a model back bit for
    bit where alpha is 1 or 0, and exactly where both models agree; adding theta_0 would round.
    More than two stored task vectors are folded as such, see `_folded`.
    """
    folds = [
        params.model_copy(update={"alpha_base": params.alpha(inputs.stages[: k + 1])})
        for k in range(1, len(inputs.stages))
    ]
    stored = len(inputs.stages) > 2 and all(stage.is_stored for stage in inputs.stages)

    def work(name: str, scratch: Scratch) -> dict[str, float]:
        if stored and (told := _folded(inputs, name, folds, out, scratch)) is not None:
            return told
        pieces = inputs.pieces(name)
        alpha, p, far = 1.0, 0.0, False
        for number, stage in enumerate(inputs.stages):
            if number:
                before = None if number == 1 else out
                parts = [_norms(inputs, span, stage, before, scratch) for span in pieces]
                norms = [math.fsum(column) for column in zip(*parts, strict=True)] or [0.0] * 3
                alpha, p = factors(norms[0], norms[1], norms[2], folds[number - 1])
                far = not norms[0] + norms[1] < _FAR
            if number or len(inputs.stages) == 1:
                for span in pieces:
                    _fold(inputs, span, number, out, scratch, beta=1.0 - alpha, far=far)
        return {"alpha": alpha, "p": p} if len(inputs.stages) > 1 else {"alpha": alpha}

    return Notes(inputs.each_tensor(work))


def factors(
    norm_old: float, norm_new: float, norm_sum: float, params: Params
) -> tuple[float, float]:
    """Return (alpha_l, p_l).

    p_l = (|tau_old|_1 - |tau_curr|_1) / (|tau_old + tau_curr|_1 + eps), delta_l = gamma tanh(p_l),
    alpha_l = alpha_base + clamp(delta_l, -gamma, gamma). By the triangle inequality |p_l| <= 1, so
    the clamp of the paper never acts; it stays for the letter of the equation.
    """
    p = (norm_old - norm_new) / (norm_sum + params.eps)
    p = max(-1.0, min(1.0, p))  # rounding of the three sums
    delta = params.gamma * math.tanh(p)
    return params.alpha_base + max(-params.gamma, min(params.gamma, delta)), p


def _folded(
    inputs: Inputs, name: str, folds: Sequence[Params], out: Tensors, scratch: Scratch
) -> dict[str, float] | None:
    """Fold the task vectors of one tensor, and add theta_0 at the end.

    A third less work than folding models. theta_0 + tau is a model, bit for bit, but for the few
    scalars that a correction names; these are interpolated as models. So this, too, gives models
    back where alpha is 1 or 0, or where they agree; other scalars round in the last place.

    Returns:
        What the trace says of the tensor; None if magnitudes leave the range of float32.
    """
    pieces, last = inputs.pieces(name), len(folds)
    betas: list[float] = []
    alpha, p, parts = 1.0, 0.0, []
    for span in pieces:
        old, new = _taus(inputs, span, (0, 1), scratch)
        parts.append(_sizes(old, new, scratch("size", len(span))))
    for number, fold in enumerate(folds, start=1):
        norms = [math.fsum(column) for column in zip(*parts, strict=True)] or [0.0] * 3
        if not norms[0] + norms[1] < _FAR:
            return None
        alpha, p = factors(norms[0], norms[1], norms[2], fold)
        betas.append(1.0 - alpha)
        parts = []
        for span in pieces:  # one pass blends this stage and looks at the next
            target = span.of(out)
            old, new = _taus(inputs, span, (0, number), scratch)
            _blend(old if number == 1 else target, new, betas[-1], target)
            if number < last:
                (new,) = _taus(inputs, span, (number + 1,), scratch)
                parts.append(_sizes(target, new, scratch("size", len(span))))
            else:
                target.add_(inputs.theta_0(span, scratch))
    _correct(inputs, name, betas, out)
    return {"alpha": alpha, "p": p}


def _taus(
    inputs: Inputs, span: Span, numbers: Sequence[int], scratch: Scratch
) -> list[torch.Tensor]:
    """Return stored task vectors of a piece."""
    nothing = scratch("size", 0)
    return [inputs.stages[number].tau(span, nothing, nothing) for number in numbers]


def _sizes(
    old: torch.Tensor, new: torch.Tensor, scratch: torch.Tensor
) -> tuple[float, float, float]:
    """Return the l1 norms of two vectors and of their sum."""
    import torch

    one, other = (float(torch.abs(x, out=scratch).sum()) for x in (old, new))
    return one, other, float(torch.add(old, new, out=scratch).abs_().sum())


def _blend(old: torch.Tensor, new: torch.Tensor, beta: float, out: torch.Tensor) -> None:
    """Write (1 - beta) old + beta new into ``out``, which may be ``old``."""
    import torch

    if beta not in (0.0, 1.0):
        torch.lerp(old, new, beta, out=out)
    elif out is not (source := new if beta else old):
        out.copy_(source)


def _correct(inputs: Inputs, name: str, betas: Sequence[float], out: Tensors) -> None:
    """Interpolate as models what theta_0 + tau rounds of any stage."""
    import torch

    fixes = [stage.correction[name].indices for stage in inputs.stages if name in stage.correction]
    if not fixes or inputs.start is None:
        return
    places: torch.Tensor = torch.cat(fixes).unique()  # type: ignore[no-untyped-call]
    base = inputs.start[name].detach().reshape(-1)[places].float()
    merged = torch.empty_like(base)
    for number, stage in enumerate(inputs.stages):
        model = base + stage.tensors[name].detach().reshape(-1)[places]
        if name in stage.correction:
            fix = stage.correction[name]
            model[torch.searchsorted(places, fix.indices)] = fix.values
        _blend(merged if number else model, model, betas[number - 1] if number else 0.0, merged)
    out[name].detach().view(-1)[places] = merged


def _norms(
    inputs: Inputs, span: Span, stage: Operand, before: Tensors | None, scratch: Scratch
) -> tuple[float, float, float]:
    """Return the l1 norms of tau_old, tau_new and their sum over a piece.

    Args:
        inputs: The stages.
        span: The piece.
        stage: The new one.
        before: The merge so far; None while that is the first stage.
        scratch: Memory.
    """
    import torch

    base, count = inputs.theta_0(span, scratch), len(span)
    if before is None:
        old = inputs.stages[0].tau(span, base, scratch("old", count))
    else:
        old = torch.sub(span.of(before), base, out=scratch("old", count))
    new = stage.tau(span, base, scratch("tau", count))
    size = scratch("size", count)
    norms = list(_sizes(old, new, size))
    if not math.isfinite(sum(norms)):  # magnitudes near the end of float32
        first = inputs.stages[0].theta(span, base, scratch("old", count))
        origin, theta = base.double(), first if before is None else span.of(before)
        old_64 = theta.double() - origin
        new_64 = stage.theta(span, base, size).double() - origin
        norms = [float(x.abs().sum()) for x in (old_64, new_64, old_64 + new_64)]
    return norms[0], norms[1], norms[2]


def _fold(
    inputs: Inputs, span: Span, number: int, out: Tensors, scratch: Scratch, *, beta: float,
    far: bool,
) -> None:  # fmt: skip
    """Blend stage ``number`` into the merge so far; the first fold starts it."""
    base, target = inputs.theta_0(span, scratch), span.of(out)
    if number <= 1:
        first = inputs.stages[0].theta(span, base, target)
        if first is not target:
            target.copy_(first)
    if number:
        new = inputs.stages[number].theta(span, base, scratch("theta", len(span)))
        interpolate(target, new, beta=beta, far=far)


def interpolate(old: torch.Tensor, new: torch.Tensor, *, beta: float, far: bool = False) -> None:
    """Turn ``old`` into (1 - beta) old + beta new, in place.

    Args:
        old: float32, any shape.
        new: float32, same shape.
        beta: In [0, 1].
        far: The difference may leave the range of float32.
    """
    if beta == 1.0:
        old.copy_(new)
    elif beta != 0.0 and far:
        old.copy_(old.double().lerp(new.double(), beta))
    elif beta != 0.0:
        old.lerp_(new, beta)
