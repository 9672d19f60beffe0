"""Losses of the weights alone: their gradients in closed form, added before each step.

L_DC and EWC look at no image, so both training loops add what they contribute to each parameter's
gradient instead of building a graph.

L_DC, the directional consistency loss (DuET, ICCV 2025; docs/method.md), is
Σ_i ReLU[ −(τ_t − τ_{t−1})_i · (τ_{t−1} − τ_{t−2})_i ] over the scalars of θ_s, with τ_0 = 0. θ_0
cancels in both brackets, so with p = θ_t, q = θ_{t−1} and d = θ_{t−1} − θ_{t−2} the summand is
ReLU[−(p − q)·d]: moving against the direction in which the previous stage moved costs.

L_EWC (elastic weight consolidation, Kirkpatrick et al., PNAS 2017, arXiv 1612.00796) is
λ/2 · Σ_i F_i (p_i − q_i)²: moving a weight that the old classes depend on costs. F is the diagonal
Fisher that each increment stores, summed over increments (`duet.training.fisher`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from duet.training.job import DIRECTION, IMPORTANCE, Job
from duet.training.memory import laid_like
from duet.vectors.tensors import Tensors

Many = tuple[torch.Tensor, ...] | list[torch.Tensor]
"""The same tensor of several parameters."""

Steps = Callable[[Many, Many, Many], list[torch.Tensor]]

GROUP = 1 << 17
"""Scalars that are looked at together on a CPU: what is in between stays in the core's cache. On
other devices all go together, since there the calls are what costs."""


def directional_steps(p: Many, q: Many, d: Many) -> list[torch.Tensor]:
    """Return s with ∂L_DC/∂p = s · d: −1 where (p − q)·d < 0, else 0. No graph is needed.

    It is exactly 0 at p = q, the first step of a stage.

    Args:
        p: Tensors in training.
        q: The same tensors of the previous merged detector.
        d: Previous merged detector minus the one before (θ_0 at the second stage).
    """
    steps = list(torch._foreach_sub(p, q))
    torch._foreach_mul_(steps, d)
    torch._foreach_sign_(steps)
    torch._foreach_clamp_max_(steps, 0.0)
    return steps


def ewc_steps(p: Many, q: Many, importance: Many) -> list[torch.Tensor]:
    """Return s with ∂L_EWC/∂p = s · F: p − q, no graph needed; 0 at p = q.

    Args:
        p: Tensors in training.
        q: The same tensors of the previous detector.
        importance: Their F, at least 0; what the gradient is multiplied by.
    """
    return list(torch._foreach_sub(p, q))


@dataclass(frozen=True, eq=False)
class Pull:
    """What one of the losses does to some parameters, all at once.

    Attributes:
        parameters: p, in training.
        anchors: q, the same tensors of the previous detector.
        factors: d of L_DC, or F of EWC; shaped like both.
        weight: λ per image.
        steps: ``steps(p, q, factors)`` times the factors is the gradient.
    """

    parameters: tuple[nn.Parameter, ...]
    anchors: tuple[torch.Tensor, ...]
    factors: tuple[torch.Tensor, ...]
    weight: float
    steps: Steps

    @torch.no_grad()
    def add(self, scale: float) -> None:
        """Add ``scale`` · λ · gradient to the gradient of every parameter that has one."""
        rows = zip(self.parameters, self.anchors, self.factors, strict=True)
        reached = [(p.grad, p, q, factor) for p, q, factor in rows if p.grad is not None]
        if reached:
            gradients, p, q, factors = zip(*reached, strict=True)
            steps = self.steps(p, q, factors)
            torch._foreach_addcmul_(gradients, steps, factors, value=scale * self.weight)


def read_pulls(
    folder: Path,
    job: Job,
    parameters: Iterable[tuple[str, nn.Parameter]],
    start: Tensors,
    device: torch.device,
) -> list[Pull]:
    """Return what a job's losses of the weights do to its trainable shared tensors.

    Args:
        folder: Job folder; holds d and F.
        job: Its settings.
        parameters: Of the model in training, by name.
        start: Shared tensors of the previous detector.
        device: Where the parameters are.
    """
    if job.phase != "increment":
        return []
    named = list(parameters)
    pulls: list[Pull] = []
    losses = (
        (job.directional, DIRECTION, directional_steps),
        (job.ewc, IMPORTANCE, ewc_steps),
    )
    for choice, file, steps in losses:
        if choice is None or choice.weight == 0:
            continue
        from safetensors.torch import load_file

        factors = load_file(folder / file)
        pulled = [(name, p) for name, p in named if name in factors and p.requires_grad]
        for group in _groups(pulled, GROUP if device.type == "cpu" else None):
            members = tuple(p for _, p in group)
            anchors = tuple(laid_like(start[name], p) for name, p in group)
            laid = tuple(laid_like(factors[name], p) for name, p in group)
            pulls.append(Pull(members, anchors, laid, choice.weight, steps))
    return pulls


def _groups(
    named: Sequence[tuple[str, nn.Parameter]], size: int | None
) -> list[list[tuple[str, nn.Parameter]]]:
    """Cut a list where ``size`` scalars are full; None keeps it whole."""
    groups: list[list[tuple[str, nn.Parameter]]] = []
    room = 0
    for name, parameter in named:
        if not groups or (size is not None and room <= 0):
            groups.append([])
            room = size or 0
        groups[-1].append((name, parameter))
        room -= parameter.numel()
    return groups
