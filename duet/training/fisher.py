"""The diagonal Fisher of a trained stage: how much its own loss depends on each shared weight.

Fisher merging (Matena & Raffel 2022) weights every scalar of a stage by it. It is the empirical
Fisher: gradients of the loss on the true labels, one image at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import torch
from torch import nn


def diagonal_fisher(
    module: nn.Module, names: Collection[str], losses: Iterable[Callable[[], torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """Return F = mean over images of (dL/dθ)².

    BatchNorm runs on its stored statistics and leaves them as they are: with one image the
    statistics of the batch would not be those that the weights were trained for.

    Args:
        module: The model in training; it is left in train mode with its BatchNorm in eval mode.
        names: Tensors of its state that are wanted.
        losses: Each computes the loss of one image with ``module``, as a scalar.

    Returns:
        float32 tensors on the CPU, shaped like the module's; 0 where nothing may be trained.
    """
    module.train()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    trainable = {
        name: parameter
        for name, parameter in module.named_parameters()
        if name in names and parameter.requires_grad
    }
    sums = {name: torch.zeros_like(parameter) for name, parameter in trainable.items()}
    images = 0
    for loss in losses:
        gradients = torch.autograd.grad(
            loss(), list(trainable.values()), allow_unused=True, materialize_grads=True
        )
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total.addcmul_(gradient, gradient)
        images += 1
    tensors = module.state_dict()
    return {
        name: (sums[name] / images).cpu().contiguous()
        if name in sums
        else torch.zeros(tensors[name].shape)
        for name in names
    }


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """Return at most ``wanted`` of ``count`` positions, spread over all of them: no chance in it.

    Slices are sorted by file name, and names often tell classes; the first few would be one class.
    """
    chosen = min(count, wanted)
    return [index * count // chosen for index in range(chosen)]
