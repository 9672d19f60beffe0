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

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from duet.training.job import DIRECTION, IMPORTANCE, Job
from duet.vectors.tensors import Tensors


def directional_gradient(p: torch.Tensor, q: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Return ∂L_DC/∂p = −d where (p − q)·d < 0, else 0: the closed form, no graph needed.

    It is exactly 0 at p = q, the first step of a stage.

    Args:
        p: The tensor in training, any shape.
        q: The same tensor of the previous merged detector.
        d: Previous merged detector minus the one before (θ_0 at the second stage).
    """
    # In place, three times as fast as torch.where: 21.7 -> 7 ms a step for YOLO11n's trunk.
    return (p - q).mul_(d).lt_(0).mul_(d).neg_()


def ewc_gradient(p: torch.Tensor, q: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
    """Return ∂L_EWC/∂p = F (p − q), no graph needed; 0 at p = q.

    Args:
        p: The tensor in training, any shape.
        q: The same tensor of the previous detector.
        importance: Its F, at least 0.
    """
    return (p - q).mul_(importance)


Gradient = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Pull:
    """What one of the losses does to one parameter.

    Attributes:
        parameter: p, in training.
        anchor: q, the same tensor of the previous detector.
        factor: d of L_DC, or F of EWC; shaped like both.
        weight: λ per image.
        gradient: ``gradient(p, q, factor)``.
    """

    parameter: nn.Parameter
    anchor: torch.Tensor
    factor: torch.Tensor
    weight: float
    gradient: Gradient

    def add(self, scale: float) -> None:
        """Add ``scale`` · λ · gradient to the parameter's gradient, if it has one."""
        if self.parameter.grad is not None:
            found = self.gradient(self.parameter.detach(), self.anchor, self.factor)
            self.parameter.grad.add_(found, alpha=scale * self.weight)


def read_pulls(
    folder: Path,
    job: Job,
    parameters: Iterable[tuple[str, nn.Parameter]],
    start: Tensors,
    device: torch.device,
) -> list[Pull]:
    """Return what a job's losses of the weights do to each trainable shared tensor.

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
        (job.directional, DIRECTION, directional_gradient),
        (job.ewc, IMPORTANCE, ewc_gradient),
    )
    for choice, file, gradient in losses:
        if choice is None or choice.weight == 0:
            continue
        from safetensors.torch import load_file

        factors = load_file(folder / file)
        pulls += [
            Pull(
                parameter,
                start[name].to(device),
                factors[name].to(device=device, dtype=torch.float32),
                choice.weight,
                gradient,
            )
            for name, parameter in named
            if name in factors and parameter.requires_grad
        ]
    return pulls
