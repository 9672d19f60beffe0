"""Merging BatchNorm statistics: they describe data, so they mix like distributions.

Source: the buffer fusion of the ECCV 2024 model-merging system; here for any number of stages and
any weights. Averaging variances (`rule: average`) forgets that the means of the stages differ.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from duet.config import Config
from duet.errors import ModelError, together
from duet.merging.weights import imputed, normalised

if TYPE_CHECKING:
    import torch

    from duet.vectors.tensors import Tensors

Rule = Literal["mixture", "average", "newest", "oldest"]
_MEAN, _VAR, _COUNTER = "running_mean", "running_var", "num_batches_tracked"


class BatchNormFusion(Config):
    """How BatchNorm running statistics of several stages become one."""

    rule: Rule = Field(
        default="mixture",
        description="mixture: moments of the pooled data; average: mean of means and of "
        "variances; newest or oldest: the statistics of that stage.",
        json_schema_extra={"source": "ECCV 2024 buffer fusion; DuET does not mention buffers"},
    )
    weights: Literal["uniform", "images"] | tuple[float, ...] = Field(
        default="uniform",
        description="uniform: 1/K; images: in proportion to the images seen; or one number >= 0 "
        "per stage, oldest first. num_batches_tracked is not offered: an EMA never advances it.",
        json_schema_extra={"source": "uniform: not tuned"},
    )

    def weights_for(self, count: int, images: Sequence[int] | None = None) -> tuple[float, ...]:
        """Return normalised weights of ``count`` stages, oldest first.

        Args:
            count: Number of stages.
            images: Images that each stage saw, 0 where that is not known: then the mean of the
                others counts. Needed for `weights: images`.

        Raises:
            ModelError: The weights do not fit the stages, or the numbers of images are missing.
        """
        where = "BatchNorm fusion"
        if self.rule in ("newest", "oldest"):
            chosen = count - 1 if self.rule == "newest" else 0
            return normalised([float(k == chosen) for k in range(count)], count, where)
        if self.weights == "uniform":
            return normalised((1.0,) * count, count, where)
        if self.weights != "images":
            return normalised(self.weights, count, where)
        if images is None:
            raise ModelError(
                "the numbers of images seen are not known",
                where=where,
                remedy="use weights: uniform, or give one number per stage",
            )
        return normalised(imputed(images), count, where)

    def with_one_more(self, before: int) -> BatchNormFusion:
        """Return the rule for the merge of ``before`` stages and one more; uniform counts each."""
        if self.weights != "uniform":
            return self
        return self.model_copy(update={"weights": (float(before), 1.0)})


def fuse_statistics(
    stats: Sequence[tuple[torch.Tensor, torch.Tensor]],
    weights: Sequence[float],
    *,
    between: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance of a mixture: the moments of the pooled data.

    mu = sum_k a_k mu_k and var = sum_k a_k (var_k + (mu_k - mu)^2) with a_k = w_k / sum w. The
    between-stage term is computed as sum_{j<k} a_j a_k (mu_j - mu_k)^2, which is the same number
    and exactly 0 for equal means. With sample counts as weights and population variances the
    result is the population mean and variance of all samples together.

    Args:
        stats: (mean, variance) of each stage, `(C,)` float32 or float64, variances >= 0.
        weights: One nonnegative number per stage.
        between: False leaves the spread between the stages out (the reproduction's rule).

    Returns:
        Mean and variance in the dtype of the inputs, computed in float64; the variance is finite
        and never negative. A single nonzero weight gives that stage back bit for bit.

    Raises:
        ModelError: Statistics are not finite, negative, or of different shapes; weights are
            unusable; or the fused variance leaves the range of the dtype.
    """
    import torch

    shares = normalised(weights, len(stats), "BatchNorm fusion")
    _require_statistics(stats)
    used = [(mean, var, a) for (mean, var), a in zip(stats, shares, strict=True) if a > 0]
    if len(used) == 1:
        return used[0][0].detach().clone(), used[0][1].detach().clone()
    means, shares_used = [mean.detach().double() for mean, _, _ in used], [a for _, _, a in used]
    mean = _weighted((mean, a) for mean, _, a in used)
    var = _weighted((var, a) for _, var, a in used)
    if between:
        pooled = torch.stack(means)
        factors = pooled.new_tensor(shares_used).reshape(-1, *(1,) * (pooled.ndim - 1))
        for k in range(1, len(used)):  # one operation for all earlier stages: pairs are many
            gaps = (pooled[k] - pooled[:k]).square_().mul_(factors[:k] * shares_used[k])
            var = var + gaps.sum(0)
    fused_mean, fused_var = mean.to(stats[0][0].dtype), var.to(stats[0][1].dtype)
    if not bool(fused_var.isfinite().all()):
        raise ModelError(
            f"the fused variance does not fit into {fused_var.dtype}",
            where="BatchNorm fusion",
            remedy="the means of the stages lie absurdly far apart: one of them has diverged",
        )
    return fused_mean, fused_var


def is_statistic(name: str) -> bool:
    """Tell whether a tensor is a running mean, a running variance or a counter, by its name."""
    return name.endswith((_MEAN, _VAR, _COUNTER))


def fuse_buffers(
    stages: Sequence[Tensors], fusion: BatchNormFusion, images: Sequence[int] | None = None
) -> dict[str, torch.Tensor]:
    """Fuse all buffers of the shared layers by their role.

    `*running_mean` and `*running_var` are fused in pairs, `*num_batches_tracked` is summed, and
    any other buffer must be equal in all stages.

    Args:
        stages: Buffers of each stage, oldest first.
        fusion: The rule for pairs and the weights of the stages.
        images: See `BatchNormFusion.weights_for`.

    Raises:
        ModelError: Layouts differ, half of a pair is missing, another buffer differs, or the
            weights or statistics cannot be used.
    """
    weights = fusion.weights_for(len(stages), images)
    _require_buffers(stages)
    fused: dict[str, torch.Tensor] = {}
    for name, first in stages[0].items():
        if name.endswith(_COUNTER):
            total = first.detach().clone()
            for stage in stages[1:]:
                total = total + stage[name]
            fused[name] = total
        elif name.endswith(_MEAN):
            partner = name.removesuffix(_MEAN) + _VAR
            try:
                fused[name], fused[partner] = fuse_statistics(
                    [(stage[name], stage[partner]) for stage in stages],
                    weights,
                    between=fusion.rule != "average",
                )
            except ModelError as error:
                raise ModelError(error.what, where=name, remedy=error.remedy) from None
        elif not name.endswith(_VAR):
            fused[name] = first.detach().clone()
    return {name: fused[name] for name in stages[0]}


def _weighted(terms: Iterable[tuple[torch.Tensor, float]]) -> torch.Tensor:
    """Return sum_k a_k x_k in float64."""
    first, *others = (x.detach().double() * a for x, a in terms)
    return functools.reduce(lambda total, term: total + term, others, first)


def _require_statistics(stats: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    shape, dtype = stats[0][0].shape, stats[0][0].dtype
    for number, (mean, var) in enumerate(stats, start=1):
        where = f"BatchNorm fusion, stage {number} of {len(stats)}"
        if any(x.shape != shape or x.dtype != dtype for x in (mean, var)):
            raise ModelError(
                f"mean {tuple(mean.shape)} {mean.dtype} and variance {tuple(var.shape)} "
                f"{var.dtype}, expected {tuple(shape)} {dtype}",
                where=where,
            )
        if not dtype.is_floating_point or not bool((mean.isfinite() & var.isfinite()).all()):
            raise ModelError("running statistics must be finite floating numbers", where=where)
        if bool((var < 0).any()):
            raise ModelError(
                f"negative variance {float(var.min()):g}",
                where=where,
                remedy="the statistics were merged like weights before: start from the checkpoints",
            )


def _require_buffers(stages: Sequence[Tensors]) -> None:
    from duet.vectors.tensors import require_same_layout

    first = stages[0]
    for number, stage in enumerate(stages[1:], start=2):
        require_same_layout(first, stage, f"buffers of stage {number} of {len(stages)}")
    problems = []
    for name in first:
        partner = None
        if name.endswith(_MEAN):
            partner = name.removesuffix(_MEAN) + _VAR
        elif name.endswith(_VAR):
            partner = name.removesuffix(_VAR) + _MEAN
        elif not name.endswith(_COUNTER) and any(
            not bool((stage[name] == first[name]).all()) for stage in stages[1:]
        ):
            problems.append(f"{name}: differs between the stages, and no rule merges it")
        if partner is not None and partner not in first:
            problems.append(f"{name}: its partner {partner} is missing")
    if problems:
        raise ModelError(
            together(problems, summary="these buffers cannot be fused"),
            where="BatchNorm fusion",
            remedy="declare trainable tensors as shared; other buffers must be equal in all stages",
        )
