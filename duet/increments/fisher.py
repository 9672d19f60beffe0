"""The diagonal Fisher of a stage on disk: one bfloat16 file, checked whenever it is used.

Squared gradients spread over some thirty powers of ten. bfloat16 has the exponent range of float32
and half its size; its rounding (at most 0.4 %) is far below the noise of a hundred images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from duet.errors import ModelError, together
from duet.increments.tensorfile import write_tensors
from duet.vectors.tensors import Tensors, require_finite

FISHER = "fisher.safetensors"


def write_fisher(path: Path, fisher: Tensors, *, metadata: Mapping[str, str] | None = None) -> str:
    """Write a Fisher as bfloat16, atomically; return the SHA-256 of the file.

    Args:
        path: Target file.
        fisher: float32, finite, not negative.
        metadata: Text beside the tensors.

    Raises:
        ModelError: A value is not finite.
        DuetError: The file system refuses the write.
    """
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in fisher.items()}
    return write_tensors(path, rounded, metadata=metadata)


def sum_fishers(
    fishers: Sequence[Tensors | None], names: Iterable[str]
) -> dict[str, torch.Tensor] | None:
    """Return the Fisher of a merged detector: what its increments know together, float32.

    Args:
        fishers: Of each increment; None where it was not kept.
        names: Shared tensors of the merged detector; a base trained in another head form has more.

    Returns:
        The sum, or None if one is not known.
    """
    known = [fisher for fisher in fishers if fisher is not None]
    if len(known) < len(fishers) or not known:
        return None
    total = {name: known[0][name].float().clone() for name in names}
    for fisher in known[1:]:
        for name, tensor in total.items():
            tensor += fisher[name]
    return total


def require_fisher(fisher: Tensors, shared: Tensors, where: str) -> None:
    """Refuse a Fisher that does not belong to these shared tensors.

    Args:
        fisher: What to check.
        shared: Tensors with the names and shapes that it must have.
        where: Shown in the error.

    Raises:
        ModelError: Names or shapes differ, a tensor is neither float32 nor bfloat16, or values
            are negative, NaN or infinite.
    """
    problems = [f"missing: {name}" for name in shared.keys() - fisher.keys()]
    problems += [f"unexpected: {name}" for name in fisher.keys() - shared.keys()]
    for name in shared.keys() & fisher.keys():
        got, expected = tuple(fisher[name].shape), tuple(shared[name].shape)
        if got != expected:
            problems.append(f"{name}: shape {got}, expected {expected}")
        if fisher[name].dtype not in (torch.float32, torch.bfloat16):
            problems.append(f"{name}: {fisher[name].dtype}, expected float32 or bfloat16")
        elif fisher[name].numel() and bool(fisher[name].min() < 0):
            problems.append(f"{name}: {int((fisher[name] < 0).sum())} negative values")
    if problems:
        raise ModelError(
            together(sorted(problems)[:20], summary="the Fisher does not fit the task vector"),
            where=where,
            remedy="a Fisher holds the mean squared gradients of the same stage's shared tensors",
        )
    require_finite(fisher, f"{where}, Fisher")
