"""Which of the engine's networks are YOLO detectors, and how they are built anew."""

from __future__ import annotations

import re
from typing import Any

from duet.errors import ModelError
from duet.families.ultralytics.checkpoint import Checkpoint, file_architecture, head_kind
from duet.families.ultralytics.foreign import Kind
from duet.families.yolo.build import PLAIN_HEADS, stock_model
from duet.families.yolo.roles import tower_width
from duet.families.yolo.stock import join_heads
from duet.families.yolo.unjoin import split_part
from duet.increments.door.values import told
from duet.increments.state import HeadPart


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


def _said(checkpoint: Checkpoint) -> str:
    """Return what a file says, with the size in its name, such as ``yolo11n.yaml``."""
    named, scale = file_architecture(checkpoint)
    plain = re.fullmatch(r"(yolov?\d+)((-p2|-p6)?\.yaml)", named)
    return f"{plain[1]}{scale}{plain[2]}" if plain else named


def _stock(architecture: str, parts: tuple[HeadPart, ...]) -> Any:
    model, *others = (
        stock_model(architecture, len(part.classes), tower_width(part.tensors)) for part in parts
    )
    if others:
        join_heads([one.model[-1] for one in (model, *others)])
    return model


def _owns(head: str) -> bool:
    return "RTDETR" not in head


KIND = Kind(_owns, _require_plain_detector, _said, split_part, _stock)
