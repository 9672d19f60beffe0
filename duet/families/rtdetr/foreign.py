"""Which of the engine's networks are RT-DETR detectors, and how they are built anew."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from duet.errors import ModelError
from duet.families.rtdetr.build import stock_model
from duet.families.ultralytics.checkpoint import file_architecture
from duet.families.ultralytics.foreign import Kind
from duet.vectors.tensors import Tensors


def _require_decoder(module: nn.Module, where: str) -> None:
    layers: Any = getattr(module, "model", None) or [None]
    if type(layers[-1]).__name__ != "RTDETRDecoder":
        raise ModelError(
            f"expected an RT-DETR detector, got a {type(layers[-1]).__name__} head", where=where
        )


def _architecture(module: nn.Module, where: str) -> str:
    """Return the engine's name of the architecture, such as ``rtdetr-l.yaml``."""
    named, size = file_architecture(module)
    return f"yolov8{size}-rtdetr.yaml" if named == "yolov8-rtdetr.yaml" else named


def _stock(architecture: str, classes: int, tensors: Tensors) -> Any:
    return stock_model(architecture, classes)


def _raw(output: Any) -> list[torch.Tensor]:
    """Return the boxes and scores of the decoder and of the encoder."""
    return list(output[1][:4])


KIND = Kind(_require_decoder, _architecture, _stock, _raw)
