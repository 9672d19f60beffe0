"""In which numbers a training computes: float32, or bfloat16 or float16 where that is safe.

Convolutions and matrix products may run in half as many bits; what is added up over many steps may
not: weights, their moving average, the optimizer's memory, task vectors and checkpoints stay
float32, and so do the losses. The previous detector computes in the same numbers as the one that
learns from it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from duet.errors import ConfigError
from duet.training.schedule import PrecisionChoice

Module = TypeVar("Module", bound=nn.Module)
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_MULTIPLYING = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class Precision:
    """The numbers of one training.

    Attributes:
        name: Never ``auto``.
        device: Where it runs.
    """

    name: Literal["fp32", "bf16", "fp16"]
    device: torch.device

    @property
    def dtype(self) -> torch.dtype | None:
        """What convolutions compute in; None where nothing is to be changed."""
        return _DTYPES.get(self.name)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which convolutions and matrix products compute in these numbers."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Return what keeps float16's small gradients; it does nothing for the others."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")

    def within(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that computes in these numbers and gives float32."""
        if self.dtype is None:
            return function

        @functools.wraps(function)
        def computed(*args: Any, **options: Any) -> Any:
            with self.autocast():
                return as_float32(function(*args, **options))

        return computed

    def settled(self, module: Module) -> Module:
        """Cast, once, what autocast would cast at every step: for a module that does not train."""
        if self.dtype is not None:
            for layer in module.modules():
                if isinstance(layer, _MULTIPLYING):
                    layer.to(self.dtype)
        return module


def as_float32(value: Any) -> Any:
    """Return containers of tensors with every float in float32."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: as_float32(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(as_float32(one) for one in value)
    return value


def resolve_precision(choice: PrecisionChoice, device: torch.device) -> Precision:
    """Return the numbers that a choice means on a device.

    Raises:
        ConfigError: float16 elsewhere than on CUDA.
    """
    if choice == "auto":
        choice = "bf16" if has_bfloat16(device) else "fp32"
    if choice == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"precision fp16 needs a CUDA device, got '{device}'",
            where="precision",
            remedy="use fp32, bf16 or auto: float16 loses small gradients, and only CUDA has the "
            "scaler that saves them",
        )
    return Precision(choice, device)


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device of this machine multiplies bfloat16 by itself, as torch reports it."""
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(told.get("amx_bf16") or told.get("avx512_bf16"))
