"""How two task vectors relate.

All sums run in float64: a float32 sum over millions of small entries loses digits.
"""

from __future__ import annotations

import math

from duet.vectors.tensors import Tensors, floating, require_same_layout


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
