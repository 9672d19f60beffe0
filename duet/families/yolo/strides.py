"""The engine's detection models, made without the picture that they look at to learn their strides.

The engine runs each new model once on 256 x 256 pixels of which nothing but the sizes of its
features is used. On a CPU this first run costs more than all else that makes a detector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from ultralytics.nn.tasks import DetectionModel


def detection_model(described: Mapping[str, Any], classes: int) -> DetectionModel:
    """Make a model as the engine does, with the same weights from the global generator.

    Args:
        described: See `duet.families.ultralytics.names.description`.
        classes: What the engine is told.
    """
    model = _Unrun(described, nc=classes, verbose=False)
    model.__class__ = DetectionModel
    return model


class _Unrun(DetectionModel):  # type: ignore[misc]
    """A model whose convolutions compute sizes alone."""

    def forward(self, x: torch.Tensor) -> Any:
        with _Sizes():
            return super().forward(x)


class _Sizes(TorchFunctionMode):
    """In this thread convolutions with padding in numbers give zeros, which take no memory."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not torch.conv2d or kwargs or isinstance(args[4], str):
            return func(*args, **(kwargs or {}))
        x, weight, _, strides, paddings, dilations, _ = args
        size = (
            (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for side, kernel, stride, padding, dilation in zip(
                x.shape[2:], weight.shape[2:], strides, paddings, dilations, strict=True
            )
        )
        return x.new_zeros(1).expand(len(x), len(weight), *size)
