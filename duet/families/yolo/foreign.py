"""Which of the engine's networks are YOLO detectors, and how they are built anew."""

from __future__ import annotations

import re
from typing import Any

from duet.errors import ModelError
from duet.families.ultralytics.checkpoint import Checkpoint, file_architecture, head_kind
from duet.families.ultralytics.foreign import Kind
from duet.families.ultralytics.names import head_prefix
from duet.families.yolo.build import PLAIN_HEADS, stock_model
from duet.families.yolo.roles import OWN, architecture_file, tower_width
from duet.increments.door.values import told
from duet.vectors.tensors import Tensors


def _require_plain_detector(checkpoint: Checkpoint) -> None:
    head, task = head_kind(checkpoint), checkpoint.says("task")
    if head not in {kind.__name__ for kind in PLAIN_HEADS} or task not in (None, "detect"):
        raise ModelError(
            f"expected a detector with a plain Detect head, got {checkpoint.network.root.kind}"
            f"{f' with {head}' if head else ''}"
            f"{f' for the task {told(task)!r}' if task is not None else ''}",
            where=checkpoint.where,
            remedy="segmentation, pose, oriented-box, open-vocabulary and RT-DETR models cannot "
            "be merged with YOLO detectors; give a detection model (v8, v9, v10, 11, 12, 26)",
        )


def _architecture(checkpoint: Checkpoint) -> str:
    """Return the engine's name of the architecture, such as ``yolo11n.yaml``."""
    named, scale = file_architecture(checkpoint)
    plain = re.fullmatch(r"(yolov?\d+)((-p2|-p6)?\.yaml)", named)
    sized = f"{plain[1]}{scale}{plain[2]}" if plain else named
    try:
        architecture_file(sized)
    except ModelError:
        raise ModelError(
            f"the model was built from '{told(named or 'no architecture file')}', which is not one "
            "of the engine's own architectures",
            where=checkpoint.where,
            remedy="only the engine's stock detectors can be rebuilt and merged, such as "
            "yolov8n.yaml or yolo11n.yaml",
        ) from None
    return sized


def _stock(architecture: str, classes: int, tensors: Tensors) -> Any:
    prefix = head_prefix(tensors)
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return stock_model(architecture, classes, tower_width(own))


KIND = Kind(_require_plain_detector, _architecture, architecture_file, OWN["towers"], _stock)
