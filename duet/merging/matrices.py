"""Merging weights as matrices: convolutions are [C_out, C_in * k * k], as in the matrix methods.

Singular vectors come from the eigenvectors of A Aᵀ in float64. Squaring costs half of the digits,
and half of float64's 16 is still more than a float32 SVD has; it takes a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from duet.merging.chunks import Scratch, Span
from duet.merging.inputs import Inputs
from duet.merging.trace import Notes
from duet.vectors.tensors import Tensors

Join = Callable[[Iterator[torch.Tensor], int], torch.Tensor]
"""``join(τ_1 to τ_K as matrices, K)``: the merged matrix; each matrix is valid until the next."""

_RANK = 1e-6
"""Smaller singular values, relative to the largest, are rounding of float32: no direction."""


def merge_matrices(inputs: Inputs, weights: Mapping[str, float], join: Join, out: Tensors) -> Notes:
    """Write θ_0 + weight · join(τ_1 ... τ_K) into ``out``.

    Tensors of one dimension (biases, BatchNorm) are not matrices; they take the mean of τ_k.

    Args:
        inputs: Stages; the result does not depend on their order.
        weights: By tensor name.
        join: Merges matrices of shape `(C_out, C_in * k * k)`, float32.
        out: float32 tensors to overwrite.
    """
    inputs = inputs.by_name()

    def work(name: str, scratch: Scratch) -> None:
        shape, count = inputs.shapes[name], len(inputs.stages)
        span = Span(name, 0, inputs.sizes[name])
        if not len(span):
            return
        base = inputs.theta_0(span, scratch)
        taus = (stage.tau(span, base, scratch("tau", len(span))) for stage in inputs.stages)
        if len(shape) < 2:
            merged = add_up(taus, scratch("sum", len(span)).zero_()).div_(count)
        else:
            merged = join((tau.view(shape[0], -1) for tau in taus), count)
        torch.add(base, merged.reshape(-1), alpha=weights[name], out=span.of(out))

    inputs.each_tensor(work)
    return Notes({name: {"weight": value} for name, value in weights.items()})


def add_up(taus: Iterator[torch.Tensor], total: torch.Tensor) -> torch.Tensor:
    """Add ``taus`` to ``total`` and return it."""
    for tau in taus:
        total.add_(tau)
    return total


def polar(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return U Vᵀ of the singular value decomposition U S Vᵀ, and S: the nearest orthogonal matrix.

    Directions without a singular value have no place in U Vᵀ; an SVD would choose them at random.

    Args:
        matrix: `(M, N)` float32 or float64.

    Returns:
        `(M, N)` float64, and the min(M, N) singular values ascending, float64.
    """
    rows, columns = matrix.shape
    if rows > columns:
        turned, values = polar(matrix.T)
        return turned.T, values
    wide = matrix.double()
    values, vectors = _eigen(wide)
    kept = values > _RANK * values[-1]
    left = vectors[:, kept]
    return (left / values[kept]) @ left.T @ wide, values


def leading(matrix: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the ``count`` largest singular triples, fewer where the rank is lower.

    Args:
        matrix: `(M, N)` float32 or float64.
        count: 1 to min(M, N).

    Returns:
        U `(M, n)`, S `(n,)` and Vᵀ `(n, N)`, float64.
    """
    rows, columns = matrix.shape
    if rows > columns:
        right, values, left = leading(matrix.T, count)
        return left.T, values, right.T
    wide = matrix.double()
    values, vectors = _eigen(wide)
    kept = values[-count:] > _RANK * values[-1]
    left, values = vectors[:, -count:][:, kept], values[-count:][kept]
    return left, values, (left.T @ wide) / values[:, None]


def _eigen(wide: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return singular values, ascending, and left singular vectors of a wide float64 matrix."""
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    return squares.clamp_(min=0).sqrt_(), vectors
