"""How the shared weights of two models differ: norms, angles and signs, tensor by tensor."""

from __future__ import annotations

import math
import os.path
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch

from duet.merging.chunks import Scratch
from duet.merging.inputs import Inputs
from duet.merging.layers import Layer
from duet.merging.operand import Operand
from duet.vectors.similarity import cosine_of
from duet.vectors.tensors import Tensors


@dataclass(frozen=True)
class Change:
    """How the weights of one tensor or of several differ.

    Attributes:
        scalars: Number of scalars.
        differing: Scalars whose bits differ.
        change: Squared l2 norm of B - A.
        size: Squared l2 norm of A; 0 where only task vectors are known.
        tau_a: Squared l2 norm of A's task vector.
        tau_b: Squared l2 norm of B's task vector.
        dot: Product of the task vectors.
        conflicts: Scalars that the two task vectors move in opposite directions.
    """

    scalars: float = 0.0
    differing: float = 0.0
    change: float = 0.0
    size: float = 0.0
    tau_a: float = 0.0
    tau_b: float = 0.0
    dot: float = 0.0
    conflicts: float = 0.0

    def __add__(self, other: Change) -> Change:
        """Join the changes of two groups of tensors."""
        return Change(*(x + y for x, y in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[float, ...]:
        """Return the sums in the order of the fields."""
        return (
            self.scalars, self.differing, self.change, self.size, self.tau_a, self.tau_b, self.dot,
            self.conflicts,
        )  # fmt: skip

    def as_dict(self, *, sizes: bool, vectors: bool) -> dict[str, Any]:
        """Return norms and ratios; None for what is not known.

        Args:
            sizes: The norm of A's weights is known.
            vectors: The task vectors are known.
        """
        norm = math.sqrt(self.size)
        return {
            "scalars": int(self.scalars),
            "differing": int(self.differing),
            "identical": self.differing == 0,
            "change": math.sqrt(self.change),
            "norm_a": norm if sizes else None,
            "relative": math.sqrt(self.change) / norm if sizes and norm else None,
            "tau_a": math.sqrt(self.tau_a) if vectors else None,
            "tau_b": math.sqrt(self.tau_b) if vectors else None,
            "cosine": cosine_of(self.dot, self.tau_a, self.tau_b) if vectors else None,
            "sign_conflict": self.conflicts / self.scalars if vectors and self.scalars else None,
        }


@dataclass(frozen=True)
class Weights:
    """How the shared weights differ, tensor by tensor.

    Attributes:
        tensors: By name.
        layers: Place of each tensor.
        sizes: Weights were compared, not only task vectors, so that norms of A are known.
        vectors: Task vectors are known.
        skipped: Shared tensors that only one side has, or with another shape.
    """

    tensors: Mapping[str, Change]
    layers: Mapping[str, Layer]
    sizes: bool
    vectors: bool
    skipped: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready rows per tensor, numbered layer and role."""
        by_layer: dict[Layer, list[str]] = {}
        for name in self.tensors:
            by_layer.setdefault(self.layers[name], []).append(name)
        by_role: dict[str, list[str]] = {}
        for layer, names in by_layer.items():
            by_role.setdefault(layer.role, []).extend(names)
        return {
            "total": self._row("total", self.tensors),
            "roles": [self._row(role, names) for role, names in by_role.items()],
            "layers": [
                {"role": layer.role, "depth": layer.depth, **self._row(_common(names), names)}
                for layer, names in by_layer.items()
            ],
            "tensors": [self._row(name, [name]) for name in self.tensors],
            "skipped": list(self.skipped),
        }

    def _row(self, title: str, names: Iterable[str]) -> dict[str, Any]:
        total = reduce(Change.__add__, (self.tensors[name] for name in names), Change())
        return {"name": title, **total.as_dict(sizes=self.sizes, vectors=self.vectors)}


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
) -> Weights | None:
    """Compare shared tensors, piece by piece; None if weights are not known without θ_0.

    Args:
        one: Model A, at scale 1.
        other: Model B, at scale 1.
        base: θ_0's shared tensors, if they are known.
        place: Tells where tensors sit in the detector.
        same_start: Task vectors of the two belong to one θ_0.
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

    def work(name: str, scratch: Scratch) -> Change:
        return _change(inputs, name, scratch, sizes=sizes, vectors=vectors)

    return Weights(inputs.each_tensor(work), place(names), sizes, vectors, tuple(skipped))


def _only(stage: Operand, names: Sequence[str]) -> Operand:
    kept = {name: stage.tensors[name] for name in names}
    if stage.weights is not None:
        return replace(stage, weights=kept)
    return replace(stage, vector=kept)


def _change(inputs: Inputs, name: str, scratch: Scratch, *, sizes: bool, vectors: bool) -> Change:
    """Sum up one tensor piece by piece, in float64."""
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
        sums[1] = max(1.0, float(sums[1]))
    return Change(*sums.tolist())


def _same_correction(a: Operand, b: Operand, name: str) -> bool:
    """Tell whether θ_0 plus a vector is corrected in the same way on both sides."""
    one, other = a.correction.get(name), b.correction.get(name)
    if one is None or other is None:
        return one is other
    return torch.equal(one.indices, other.indices) and torch.equal(one.values, other.values)
