"""The order in which images and weights lie in memory while they train.

Convolutions read and write channels-last memory (NHWC) without reordering it at every layer: a
step of YOLO11n at 160 px takes about 0.8 of the CPU time (tools/bench_train.py). It is a matter of
speed alone: shapes and names stay, results differ by rounding. Files hold the default order,
whatever trained them.
"""

from __future__ import annotations

import os
import platform
from typing import Any, TypeVar, cast

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def channels_last(device: torch.device) -> bool:
    """Tell whether channels-last is the faster order on a device, and right.

    The engine measured it three times slower on CUDA under Windows, and numerically wrong on MPS
    (its issue 26105); on CPUs it is oneDNN, on x86, that gains by it.
    """
    if device.type == "cuda":
        return os.name != "nt"
    x86 = platform.machine() in {"AMD64", "x86_64"}
    return device.type == "cpu" and x86 and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def fast_module(module: Module, device: torch.device) -> Module:
    """Return a module on a device, its convolutions in the order that is fast there."""
    module = module.to(device)
    if channels_last(device):
        # Parameters and buffers with four dimensions alone; torch's overloads do not say so.
        return cast("Module", cast("Any", module).to(memory_format=torch.channels_last))
    return module


def fast_images(images_B3SS: torch.Tensor) -> torch.Tensor:
    """Return images in the order that is fast where they are."""
    if channels_last(images_B3SS.device):
        return images_B3SS.contiguous(memory_format=torch.channels_last)
    return images_B3SS.contiguous()


def laid_like(tensor: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """Return a copy with the device, the type and the order in memory of a tensor of its shape."""
    return torch.empty_like(model, requires_grad=False).copy_(tensor)


def in_default_order(value: Any) -> Any:
    """Return containers of tensors with every tensor in the default order, as files hold them."""
    if isinstance(value, torch.Tensor):
        return value.contiguous()
    if isinstance(value, dict):
        return {key: in_default_order(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(in_default_order(one) for one in value)
    return value


def lay_out_state(optimizer: torch.optim.Optimizer) -> None:
    """Give what an optimizer remembers of each parameter that parameter's order in memory."""
    for parameter, remembered in optimizer.state.items():
        for name, value in remembered.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                remembered[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
