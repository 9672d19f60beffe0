"""TIES-Merging: trim, elect sign, disjoint merge (Yadav et al., NeurIPS 2023, arXiv 2306.01708)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from duet.config import Config
from duet.errors import ConfigError
from duet.merging.trace import Notes
from duet.merging.varying import value_of_each, varying

if TYPE_CHECKING:
    import torch

    from duet.merging.chunks import Scratch, Span
    from duet.merging.inputs import Inputs
    from duet.vectors.tensors import Tensors

Merge = Literal["mean", "sum", "max"]


class Params(Config):
    """Parameters of TIES."""

    density: varying(ge=0, le=1) = Field(  # type: ignore[valid-type]
        default=0.2,
        description="Share of each task vector that is kept, the largest magnitudes; may differ "
        "by layer with scope: tensor.",
        json_schema_extra={"source": "arXiv 2306.01708: K = 20 %", "range": ">= 0, <= 1"},
    )
    weight: varying(ge=-2, le=2) = Field(  # type: ignore[valid-type]
        default=1.0,
        description="lambda, the factor of the merged task vector; may differ by layer.",
        json_schema_extra={"source": "arXiv 2306.01708: 1 without tuning", "range": ">= -2, <= 2"},
    )
    scope: Literal["global", "tensor"] = Field(
        default="global",
        description="Trim each whole task vector (the paper), or each of its tensors.",
        json_schema_extra={"source": "the authors' code; mergekit and PEFT trim tensors",
                           "range": "global, tensor"},
    )  # fmt: skip
    merge: Merge = Field(
        default="mean",
        description="How the entries that agree with the elected sign are joined.",
        json_schema_extra={"source": "arXiv 2306.01708: disjoint mean", "range": "mean, sum, max"},
    )


def merge(inputs: Inputs, params: Params, out: Tensors) -> Notes:
    """Write theta_0 + lambda tau into ``out``.

    Trim: keep |tau_k| >= the (d - floor(d K))-th smallest of the d magnitudes, ties included; all
    at K = 1. Elect: the sign of the sum of what is left; where the sum is exactly zero, the sign
    that most scalars elected (of the whole vector, or of the tensor). Disjoint merge: of the
    entries with the elected sign, divided by their number for the mean.

    Raises:
        ConfigError: The density differs by layer, but the scope is global.
    """
    inputs = inputs.by_name()
    densities = value_of_each(params.density, inputs.shapes, inputs.layers)
    if params.scope == "global" and len(set(densities.values())) > 1:
        raise ConfigError(
            "density differs by layer, which a global trim cannot do",
            where="merge 'ties'",
            remedy="use scope: tensor, or one density",
        )
    groups = [list(inputs.shapes)] if params.scope == "global" else [[n] for n in inputs.shapes]
    thresholds: dict[str, tuple[float, ...]] = {}
    for group in groups:
        found = _thresholds(inputs, group, densities[group[0]]) if group else ()
        thresholds |= dict.fromkeys(group, found)
    weights = value_of_each(params.weight, inputs.shapes, inputs.layers)
    cancelled = _merge_signs(inputs, thresholds, weights, params.merge, out, groups)
    facts: dict[str, Any] = {"cancelled": cancelled}
    if params.scope == "global" and groups[0]:
        names = [stage.name for stage in inputs.stages]
        facts["thresholds"] = dict(zip(names, thresholds[groups[0][0]], strict=True))
    return Notes({name: {"weight": value} for name, value in weights.items()}, facts)


def _thresholds(inputs: Inputs, names: Sequence[str], density: float) -> tuple[float, ...]:
    """Return the smallest magnitude to keep, for every stage."""
    from duet.merging.quantile import kth_magnitude

    count = sum(inputs.sizes[name] for name in names)
    rank = count - int(count * density)
    if rank == 0:
        return (0.0,) * len(inputs.stages)
    return tuple(kth_magnitude(inputs, k, names, rank) for k in range(len(inputs.stages)))


@dataclass(frozen=True)
class _Piece:
    """What one piece tells about the whole: its elected signs, and its scalars without one.

    Attributes:
        name: Tensor of the piece.
        votes: Sum of the elected signs.
        places: `(N,)` int64, scalars of the tensor whose entries cancel out; None if none do.
        up: `(N,)` float32, the merge of these scalars if positive entries count.
        down: The same if negative entries count.
    """

    name: str
    votes: float
    places: torch.Tensor | None = None
    up: torch.Tensor | None = None
    down: torch.Tensor | None = None


def _merge_signs(
    inputs: Inputs, thresholds: dict[str, tuple[float, ...]], weights: dict[str, float],
    merge: Merge, out: Tensors, groups: Sequence[Sequence[str]],
) -> int:  # fmt: skip
    """Elect and merge every piece, then the rare scalars whose sum is exactly zero."""

    def work(span: Span, scratch: Scratch) -> _Piece:
        kept, base = _trimmed(inputs, thresholds[span.name], span, scratch)
        sign = _sum(kept, scratch("sign", len(span))).sign_()
        piece = _Piece(span.name, float(sign.sum()))
        target, weight = span.of(out), weights[span.name]
        places = _cancelled(kept, sign, scratch)
        if places is not None:
            piece = replace(
                piece,
                places=places + span.lo,
                up=_one_sided(kept, places, 1.0, merge).mul_(weight).add_(base[places]),
                down=_one_sided(kept, places, -1.0, merge).mul_(weight).add_(base[places]),
            )
        _disjoint(kept, sign, merge, target, scratch)
        target.mul_(weight).add_(base)
        return piece

    pieces = inputs.each_span_of_all(work)
    group_of = {name: number for number, group in enumerate(groups) for name in group}
    majority = [0.0] * len(groups)
    for piece in pieces:
        majority[group_of[piece.name]] += piece.votes
    for piece in pieces:
        votes = majority[group_of[piece.name]]
        if piece.places is not None and votes:
            out[piece.name].view(-1)[piece.places] = piece.up if votes > 0 else piece.down
    return sum(len(piece.places) for piece in pieces if piece.places is not None)


def _one_sided(
    kept: Sequence[torch.Tensor], places: torch.Tensor, side: float, merge: Merge
) -> torch.Tensor:
    """Return the merge of a few scalars if the sign ``side`` were elected for them."""
    import torch

    from duet.merging.chunks import Scratch

    merged = torch.empty(len(places))
    few = [tau[places] for tau in kept]
    _disjoint(few, torch.full_like(merged, side), merge, merged, Scratch())
    return merged


def _trimmed(
    inputs: Inputs, thresholds: Sequence[float], span: Span, scratch: Scratch
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the trimmed task vectors of a piece, in scratch memory, and θ_0 of it."""
    base = inputs.theta_0(span, scratch)
    kept = [scratch(f"kept {k}", len(span)) for k in range(len(inputs.stages))]
    for stage, threshold, target in zip(inputs.stages, thresholds, kept, strict=True):
        trim(stage.tau(span, base, target), threshold, target)
    return kept, base


def trim(tau: torch.Tensor, threshold: float, out: torch.Tensor) -> None:
    """Write the scalars with |tau| >= threshold into ``out``, and zero for the others."""
    import numpy as np
    import torch

    if threshold == 0:
        out.copy_(tau)
    else:
        # hardshrink keeps |x| > limit, so the limit is the float just below the threshold.
        limit = float(np.nextafter(np.float32(threshold), np.float32(0)))
        torch.ops.aten.hardshrink.out(tau, limit, out=out)


def _disjoint(
    kept: Sequence[torch.Tensor], sign: torch.Tensor, merge: Merge, out: torch.Tensor,
    scratch: Scratch,
) -> None:  # fmt: skip
    """Write the merge of the entries with the elected sign; ``kept`` is used up."""
    import torch

    for tau in kept:
        tau.mul_(sign).relu_()  # the magnitude where the sign agrees, else 0
    if merge == "max":
        out.copy_(kept[0])
        for tau in kept[1:]:
            torch.maximum(out, tau, out=out)
    else:
        _sum(kept, out)
    if merge == "mean":
        for tau in kept:
            tau.sign_()
        out.div_(_sum(kept, scratch("count", len(out))).clamp_(min=1))
    out.mul_(sign)


def _sum(terms: Sequence[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
    """Write the sum of the terms, in their order, into ``out`` and return it."""
    import torch

    if len(terms) == 1:
        return out.copy_(terms[0])
    torch.add(terms[0], terms[1], out=out)
    for term in terms[2:]:
        out.add_(term)
    return out


def _cancelled(
    kept: Sequence[torch.Tensor], sign: torch.Tensor, scratch: Scratch
) -> torch.Tensor | None:
    """Return the positions whose entries sum to exactly zero, although some are not zero."""
    import numpy as np
    import torch

    # Counted as bits, by numpy: torch.count_nonzero costs more than the whole merge.
    bits = [tau.view(torch.int32) for tau in kept]
    seen = torch.bitwise_or(bits[0], bits[-1], out=scratch("seen", len(sign), torch.int32))
    for other in bits[1:-1]:
        seen.bitwise_or_(other)
    elected = sign.view(torch.int32)
    if np.count_nonzero(seen.numpy()) == np.count_nonzero(elected.numpy()):
        return None
    return torch.nonzero((seen.view(torch.float32) != 0) & (sign == 0)).squeeze(1)
