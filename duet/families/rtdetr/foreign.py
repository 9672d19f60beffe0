"""Which of the engine's networks are RT-DETR detectors, and how they are built anew."""

from __future__ import annotations

from typing import Any

from duet.errors import ModelError
from duet.families.rtdetr.build import stock_model
from duet.families.ultralytics.checkpoint import Checkpoint, file_architecture, head_kind
from duet.families.ultralytics.foreign import Kind
from duet.increments.state import HeadForm, HeadPart


def _require_decoder(checkpoint: Checkpoint) -> None:
    head = head_kind(checkpoint)
    if head != "RTDETRDecoder":
        raise ModelError(
            f"expected an RT-DETR detector, got a network with {f'a {head}' if head else 'no'} "
            "head",
            where=checkpoint.where,
            remedy="give an RT-DETR detector that Ultralytics saved",
        )


def _said(checkpoint: Checkpoint) -> str:
    """Return what a file says, such as ``rtdetr-l.yaml``."""
    named, size = file_architecture(checkpoint)
    return f"yolov8{size}-rtdetr.yaml" if named == "yolov8-rtdetr.yaml" else named


def _one_part(
    checkpoint: Checkpoint, architecture: str, part: HeadPart, head: HeadForm
) -> tuple[HeadPart, ...]:
    return (part,)


def _stock(architecture: str, parts: tuple[HeadPart, ...]) -> Any:
    return stock_model(architecture, len(parts[0].classes))


def _owns(head: str) -> bool:
    return "RTDETR" in head


KIND = Kind(_owns, _require_decoder, _said, _one_part, _stock)
