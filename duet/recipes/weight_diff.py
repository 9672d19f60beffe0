"""How the shared weights of two models differ: norms, angles and signs, tensor by tensor."""

from __future__ import annotations

import math
import os.path
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from duet.merging.chunks import Scratch
from duet.merging.inputs import Inputs
from duet.merging.layers import Layer
from duet.merging.operand import Operand
from duet.vectors.similarity import cosine_of
from duet.vectors.tensors import Tensors


def _common(names: Sequence[str]) -> str:
    """Return what the names of a layer's tensors begin with, such as ``model.4``."""
    return os.path.commonpath([name.replace(".", "/") for name in names]).replace("/", ".")


def compare_weights(
    one: Operand,
    other: Operand,
    base: Tensors | None,
    place: Callable[[Sequence[str]], Mapping[str, Layer]],
    *,
    same_start: bool,
) -> dict[str, Any] | None:
    """Compare shared tensors, piece by piece; None if weights are not known without θ_0.

    Args:
        one: Model A, at scale 1.
        other: Model B, at scale 1.
        base: θ_0's shared tensors, if they are known.
        place: Tells where tensors sit in the detector.
        same_start: Task vectors of the two belong to one θ_0.

    Returns:
        JSON-ready rows, `_row`, for all tensors together, each role, each layer and each tensor;
        and the names of those that only one side has, or with another shape.
    """
    alone = [stage for stage in (one, other) if stage.vector is not None]
    if base is None and alone and not (len(alone) == 2 and same_start):
        return None
    known = [one.tensors, other.tensors, *([base] if base is not None else [])]
    names = [name for name in one.tensors if len({t[name].shape for t in known if name in t}) == 1]
    names = [name for name in names if all(name in tensors for tensors in known)]
    skipped = sorted((set(one.tensors) | set(other.tensors)) - set(names))
    inputs = Inputs(
        (_only(one, names), _only(other, names)),
        start={name: base[name] for name in names} if base is not None else None,
    )
    sizes = base is not None or not alone
    vectors = base is not None or bool(alone)

    def work(name: str, scratch: Scratch) -> torch.Tensor:
        return _sums(inputs, name, scratch, sizes=sizes, vectors=vectors)

    rows = _rows(inputs.each_tensor(work), place(names), sizes=sizes, vectors=vectors)
    return {**rows, "skipped": skipped}


def _rows(
    sums: Mapping[str, torch.Tensor], layers: Mapping[str, Layer], *, sizes: bool, vectors: bool
) -> dict[str, Any]:
    """Return a row for all tensors, and those of each role, each layer and each tensor."""

    def row(title: str, names: Iterable[str]) -> dict[str, Any]:
        total = sum((sums[name] for name in names), torch.zeros(8, dtype=torch.float64))
        return {"name": title, **_row(total.tolist(), sizes=sizes, vectors=vectors)}

    by_layer: dict[Layer, list[str]] = {}
    by_role: dict[str, list[str]] = {}
    for name in sums:
        by_layer.setdefault(layers[name], []).append(name)
    for layer, inner in by_layer.items():
        by_role.setdefault(layer.role, []).extend(inner)
    return {
        "total": row("total", sums),
        "roles": [row(role, inner) for role, inner in by_role.items()],
        "layers": [
            {"role": layer.role, "depth": layer.depth, **row(_common(inner), inner)}
            for layer, inner in by_layer.items()
        ],
        "tensors": [row(name, [name]) for name in sums],
    }


def _row(sums: Sequence[float], *, sizes: bool, vectors: bool) -> dict[str, Any]:
    """Return norms and ratios of `_sums`; None for what is not known."""
    scalars, differing, change, size, tau_a, tau_b, dot, conflicts = sums
    norm = math.sqrt(size)
    return {
        "scalars": int(scalars),
        "differing": int(differing),
        "identical": differing == 0,
        "change": math.sqrt(change),
        "norm_a": norm if sizes else None,
        "relative": math.sqrt(change) / norm if sizes and norm else None,
        "tau_a": math.sqrt(tau_a) if vectors else None,
        "tau_b": math.sqrt(tau_b) if vectors else None,
        "cosine": cosine_of(dot, tau_a, tau_b) if vectors else None,
        "sign_conflict": conflicts / scalars if vectors and scalars else None,
    }


def _only(stage: Operand, names: Sequence[str]) -> Operand:
    kept = {name: stage.tensors[name] for name in names}
    if stage.weights is not None:
        return replace(stage, weights=kept)
    return replace(stage, vector=kept)


def _sums(
    inputs: Inputs, name: str, scratch: Scratch, *, sizes: bool, vectors: bool
) -> torch.Tensor:
    """Sum up one tensor piece by piece, in float64.

    Returns:
        Scalars, those whose bits differ, and squared norms: of B - A, of A, of A's and of B's task
        vector; the product of these two; and the scalars that they move in opposite directions.
    """
    a, b = inputs.stages
    sums = torch.zeros(8, dtype=torch.float64)
    for span in inputs.pieces(name):
        count = len(span)
        base = inputs.theta_0(span, scratch)
        if sizes:
            one = a.theta(span, base, scratch("theta a", count))
            other = b.theta(span, base, scratch("theta b", count))
        else:  # of one start: their vectors differ by what their weights differ by
            one = a.tau(span, base, scratch("theta a", count))
            other = b.tau(span, base, scratch("theta b", count))
        # As integers: 0.0 and -0.0 differ, which equality would not tell.
        bits = torch.count_nonzero(one.view(torch.int32) != other.view(torch.int32))
        gap = torch.sub(other, one, out=scratch("gap", count)).double()
        sums[0] += count
        sums[1] += bits
        sums[2] += gap.dot(gap)
        if sizes:
            sums[3] += one.double().square().sum()
        if vectors:
            old = a.tau(span, base, scratch("tau a", count))
            new = b.tau(span, base, scratch("tau b", count))
            sums[7] += torch.count_nonzero((old > 0) & (new < 0) | (old < 0) & (new > 0))
            old, new = old.double(), new.double()
            sums[4] += old.dot(old)
            sums[5] += new.dot(new)
            sums[6] += old.dot(new)
    if not sizes and not _same_correction(a, b, name):
        sums[1].clamp_(min=1)
    return sums


def _same_correction(a: Operand, b: Operand, name: str) -> bool:
    """Tell whether θ_0 plus a vector is corrected in the same way on both sides."""
    one, other = a.correction.get(name), b.correction.get(name)
    if one is None or other is None:
        return one is other
    return torch.equal(one.indices, other.indices) and torch.equal(one.values, other.values)
