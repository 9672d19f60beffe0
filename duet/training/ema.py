"""The moving average of a model in training; it is what a stage returns."""

from __future__ import annotations

import math

import torch
from torch import nn

from duet.training.memory import laid_like

DECAY = 0.9999
WARM_UP = 2000  # steps after which the decay has grown to 63 % of it, as in the YOLO trainer


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and stored buffers under one name each, although names may be tied."""
    stored = module.state_dict().keys()
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items() if name in stored}


# Not torch.optim.swa_utils.AveragedModel: its first update copies where this one averages, and it
# would average the counters of batches too, or no statistics at all.
class Ema:
    """Average of all floating tensors; counters are the latest.

    A tensor, or a part of one, that never moves stays as it is bit for bit: x + w (x − x) is x,
    where (1 − w) x + w x need not be.

    Args:
        module: What is averaged.
        tensors: Averages to continue from; copies of the module's by default.
        updates: How often they were updated.
    """

    def __init__(
        self, module: nn.Module, tensors: dict[str, torch.Tensor] | None = None, updates: int = 0
    ) -> None:
        now = tensors_of(module)
        self.tensors = {k: laid_like((tensors or now)[k], v) for k, v in now.items()}
        self.updates = updates

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's tensors."""
        self.updates += 1
        weight = 1 - DECAY * (1 - math.exp(-self.updates / WARM_UP))
        now = tensors_of(module)
        moving = [name for name, tensor in now.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [self.tensors[name] for name in moving], [now[name] for name in moving], weight
        )
        for name in now.keys() - set(moving):
            self.tensors[name].copy_(now[name])

    def on_cpu(self) -> dict[str, torch.Tensor]:
        """Return copies on the CPU, in the default order in memory."""
        order = torch.contiguous_format
        return {name: one.cpu().clone(memory_format=order) for name, one in self.tensors.items()}
