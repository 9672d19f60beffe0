"""How two task vectors relate: norms, cosine, sign conflicts (pure functions).

All sums run in float64 or integers: a float32 sum over millions of small entries loses digits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from duet.vectors.tensors import Tensors, floating, require_same_layout


class Norms(NamedTuple):
    """Norms of one tensor.

    Attributes:
        l1: Sum of magnitudes.
        l2: Euclidean length.
    """

    l1: float
    l2: float


def norms(tensors: Tensors) -> dict[str, Norms]:
    """Return the norms of each floating tensor, by name."""
    result = {}
    for name, tensor in floating(tensors).items():
        values = tensor.detach().double()
        result[name] = Norms(float(values.abs().sum()), math.sqrt(float(values.square().sum())))
    return result


def cosine(a: Tensors, b: Tensors) -> float:
    """Return the cosine between two vectors over all their floating scalars.

    Args:
        a: One vector, such as `TaskVector.delta`.
        b: Another vector of the same layout.

    Returns:
        A number in [-1, 1]; 0.0 if one of the vectors is zero (no direction, so no agreement).

    Raises:
        ModelError: The layouts differ.
    """
    a, b = floating(a), floating(b)
    require_same_layout(a, b, "cosine of task vectors")
    dot = sum(float((a[name].double() * b[name].double()).sum()) for name in a)
    square_a = sum(float(tensor.double().square().sum()) for tensor in a.values())
    square_b = sum(float(tensor.double().square().sum()) for tensor in b.values())
    return cosine_of(dot, square_a, square_b)


def cosine_of(dot: float, square_a: float, square_b: float) -> float:
    """Return the cosine from a dot product and two squared lengths, within [-1, 1]."""
    # The root of each length first: the product of two squares can leave the range of float64.
    length = math.sqrt(square_a) * math.sqrt(square_b)
    return max(-1.0, min(1.0, dot / length)) if length > 0 else 0.0


def sign_conflicts(a: Tensors, b: Tensors) -> float:
    """Return the share of scalars that two vectors push in opposite directions.

    The paper counts sign(tau_old) != sign(tau_curr) without saying what a zero is. Here a
    conflict is a negative product of signs, and the share is taken over **all** scalars: a scalar
    that one stage did not move is no conflict, but it stays in the denominator.

    Args:
        a: One vector, such as `TaskVector.delta`.
        b: Another vector of the same layout.

    Returns:
        A number in [0, 1]; 0.0 for vectors without scalars.

    Raises:
        ModelError: The layouts differ.
    """
    a, b = floating(a), floating(b)
    require_same_layout(a, b, "sign conflicts of task vectors")
    # Signs, not values, are multiplied: the product of two small floats underflows to zero.
    conflicts = sum(int((a[name].sign() * b[name].sign() < 0).sum()) for name in a)
    scalars = sum(tensor.numel() for tensor in a.values())
    return conflicts / scalars if scalars else 0.0
