"""The diagonal Fisher of a trained stage: how much its own loss depends on each shared weight.

Fisher merging (Matena & Raffel 2022) weights every scalar of a stage by it. It is the empirical
Fisher: gradients of the loss on the true labels, one image at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn


def diagonal_fisher(
    model: nn.Module, names: Collection[str], batches: Iterable[dict[str, Any]]
) -> dict[str, torch.Tensor]:
    """Return F = mean over images of (dL/dθ)², the engine's loss L of one image.

    BatchNorm runs on its stored statistics and leaves them as they are: with one image the
    statistics of the batch would not be those that the weights were trained for.

    Args:
        model: A training model with the engine's hyper-parameters in ``args``; it is left in
            train mode with its BatchNorm layers in eval mode.
        names: Tensors of its state that are wanted.
        batches: Preprocessed batches of exactly one image, on the model's device.

    Returns:
        float32 tensors on the CPU, shaped like the model's; 0 where nothing may be trained.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    trainable = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name in names and parameter.requires_grad
    }
    sums = {name: torch.zeros_like(parameter) for name, parameter in trainable.items()}
    images = 0
    for batch in batches:
        loss, _ = model(batch)
        gradients = torch.autograd.grad(
            loss.sum(), list(trainable.values()), allow_unused=True, materialize_grads=True
        )
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total.addcmul_(gradient, gradient)
        images += 1
    tensors = model.state_dict()
    return {
        name: (sums[name] / images).cpu() if name in sums else torch.zeros(tensors[name].shape)
        for name in names
    }


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """Return at most ``wanted`` of ``count`` positions, spread over all of them: no chance in it.

    Slices are sorted by file name, and names often tell classes; the first few would be one class.
    """
    chosen = min(count, wanted)
    return [index * count // chosen for index in range(chosen)]
