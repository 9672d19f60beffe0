"""Following the objective of a merge downhill: gradients, the curve, progress and facts."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from duet.errors import ModelError
from duet.merging.inputs import Inputs
from duet.vectors.tensors import Tensors

POINTS = 200
"""At most this many points of a curve are kept."""
PROBES = 8
"""The objective before and after is the mean over the images of this many steps, the same ones."""


class Descent:
    """The objective of a merge, step by step; every gradient looks at the next images.

    Args:
        inputs: With an objective.
        steps: Steps in all, for progress.
    """

    def __init__(self, inputs: Inputs, steps: int) -> None:
        assert inputs.objective is not None  # `require_needs` refuses such a merge
        self._objective, self._listen = inputs.objective, inputs.listen
        self._steps, self._calls = steps, 0
        self._curve: list[float] = []
        self._start = time.perf_counter()

    def slope(self, theta: Tensors, *, inner: bool = False) -> dict[str, torch.Tensor]:
        """Return the gradient of the objective at θ, 0 where it does not depend on a tensor.

        Args:
            theta: θ; it is not copied.
            inner: Part of a step: neither the curve nor the progress moves on.

        Raises:
            ModelError: The objective is NaN or infinite.
        """
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
        with torch.enable_grad():
            loss = self._objective(leaves, self._calls)
        value = self._finite(loss)
        found = torch.autograd.grad(
            loss, list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        self._calls += 1
        if not inner:
            self._curve.append(value)
            if self._listen is not None:
                self._listen(len(self._curve), self._steps)
        # A gradient may be one number repeated by strides, which has no flat view.
        return {name: one.contiguous() for name, one in zip(leaves, found, strict=True)}

    def probe(self, theta: Tensors) -> float:
        """Return the mean of the objective at θ over the images of the first steps.

        Raises:
            ModelError: The objective is NaN or infinite.
        """
        with torch.no_grad():
            return sum(self._finite(self._objective(theta, n)) for n in range(PROBES)) / PROBES

    def facts(self, before: float, after: float) -> dict[str, Any]:
        """Return JSON-ready facts: entropy in nats, before and after and as a curve; seconds."""
        return {
            "entropy_before": before,
            "entropy_after": after,
            "entropy_curve": thinned(self._curve),
            "seconds": time.perf_counter() - self._start,
        }

    def _finite(self, loss: torch.Tensor) -> float:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ModelError(
                f"the entropy became {value} in step {len(self._curve) + 1} of {self._steps}",
                where="learning from unlabelled images",
                remedy="lower weight or the learning rates, and check that each increment alone "
                "detects something",
            )
        return value


def thinned(values: Sequence[float]) -> list[float]:
    """Return at most `POINTS` means of equally many neighbours (the last of fewer)."""
    size = max(-(-len(values) // POINTS), 1)
    groups = [values[start : start + size] for start in range(0, len(values), size)]
    return [sum(group) / len(group) for group in groups]
