"""Which of the engine's networks are YOLO detectors, and how they are built anew."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from duet.errors import ModelError
from duet.families.ultralytics.checkpoint import file_architecture
from duet.families.ultralytics.foreign import Kind
from duet.families.ultralytics.names import head_prefix
from duet.families.yolo.build import PLAIN_HEADS, stock_model
from duet.families.yolo.roles import architecture_file, tower_width
from duet.vectors.tensors import Tensors


def _require_plain_detector(module: nn.Module, where: str) -> None:
    layers = getattr(module, "model", None)
    head: Any = layers[-1] if isinstance(layers, nn.Sequential) and len(layers) else None
    task = getattr(module, "task", None)
    if type(head) not in PLAIN_HEADS or task not in (None, "detect"):
        raise ModelError(
            f"expected a detector with a plain Detect head, got {type(module).__name__}"
            f"{f' with {type(head).__name__}' if head is not None else ''}"
            f"{f' for the task {task!r}' if task is not None else ''}",
            where=where,
            remedy="segmentation, pose, oriented-box, open-vocabulary and RT-DETR models cannot "
            "be merged with YOLO detectors; give a detection model (v8, v9, v10, 11, 12, 26)",
        )


def _architecture(module: nn.Module, where: str) -> str:
    """Return the engine's name of the architecture, such as ``yolo11n.yaml``."""
    named, scale = file_architecture(module)
    sized = re.sub(r"^(yolov?\d+)((-p2|-p6)?\.yaml)$", rf"\g<1>{scale}\2", named)
    try:
        architecture_file(sized)
    except ModelError:
        raise ModelError(
            f"the model was built from '{named or 'no architecture file'}', which is not one of "
            "the engine's own architectures",
            where=where,
            remedy="only the engine's stock detectors can be rebuilt and merged, such as "
            "yolov8n.yaml or yolo11n.yaml",
        ) from None
    return sized


def _raw(output: Any) -> list[torch.Tensor]:
    """Return boxes and scores of every branch of the head."""
    raw = output[1]
    branches = [raw["one2many"], raw["one2one"]] if "one2one" in raw else [raw]
    return [branch[kind] for branch in branches for kind in ("boxes", "scores")]


def _stock(architecture: str, classes: int, tensors: Tensors) -> Any:
    prefix = head_prefix(tensors)
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return stock_model(architecture, classes, tower_width(own))


KIND = Kind(_require_plain_detector, _architecture, _stock, _raw)
