"""Which of the engine's networks are RT-DETR detectors, and how they are built anew."""

from __future__ import annotations

from typing import Any

from duet.errors import ModelError
from duet.families.rtdetr.build import stock_model
from duet.families.rtdetr.roles import CLASS_ROWS, architecture_file
from duet.families.ultralytics.checkpoint import Checkpoint, file_architecture, head_kind
from duet.families.ultralytics.foreign import Kind
from duet.vectors.tensors import Tensors


def _require_decoder(checkpoint: Checkpoint) -> None:
    head = head_kind(checkpoint)
    if head != "RTDETRDecoder":
        raise ModelError(
            f"expected an RT-DETR detector, got a network with {f'a {head}' if head else 'no'} "
            "head",
            where=checkpoint.where,
            remedy="give an RT-DETR detector that Ultralytics saved",
        )


def _architecture(checkpoint: Checkpoint) -> str:
    """Return the engine's name of the architecture, such as ``rtdetr-l.yaml``."""
    named, size = file_architecture(checkpoint)
    return f"yolov8{size}-rtdetr.yaml" if named == "yolov8-rtdetr.yaml" else named


def _stock(architecture: str, classes: int, tensors: Tensors) -> Any:
    return stock_model(architecture, classes)


KIND = Kind(_require_decoder, _architecture, architecture_file, CLASS_ROWS, _stock)
