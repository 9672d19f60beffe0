"""Losses of the weights alone: their gradients in closed form, added before each step.

L_DC and EWC look at no image, so both training loops add what they contribute to each parameter's
gradient instead of building a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from duet.training.job import DIRECTION, IMPORTANCE, Job
from duet.training.losses.directional import directional_gradient
from duet.training.losses.ewc import ewc_gradient
from duet.vectors.tensors import Tensors

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
