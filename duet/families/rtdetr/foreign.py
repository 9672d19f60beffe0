"""RT-DETR detectors that duet did not train: Ultralytics' own `.pt` files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from duet.errors import ModelError
from duet.families.rtdetr.build import inference_model, stock_model
from duet.families.rtdetr.roles import architecture_file, split_roles
from duet.families.ultralytics.checkpoint import (
    class_names,
    facts,
    file_architecture,
    float_tensors,
    open_checkpoint,
    require_same_answers,
)
from duet.families.ultralytics.tensors import require_fit
from duet.files import sha256_file
from duet.increments.state import DetectorState, HeadForm, HeadPart


def read_detector(
    path: Path, *, name: str, head: HeadForm, trust: bool, licence: str
) -> tuple[DetectorState, dict[str, Any]]:
    """Read a detector of one increment, and what its file says about itself.

    Args:
        path: An RT-DETR `.pt` file of Ultralytics.
        name: Name that its classes get as an increment.
        head: Head form of the result.
        trust: **Dangerous**, see `duet.increments.guard.load_pt`.
        licence: SPDX identifier of the engine.

    Returns:
        The state, and facts as in `duet.families.ultralytics.checkpoint.facts`, with `sha256` and
        `licence`.

    Raises:
        ModelError: The file is damaged, refused, fused or not finite; it holds no RT-DETR, an
            unknown architecture, or unusable class names; or this version of the engine builds
            another network from its architecture.
    """
    checkpoint = open_checkpoint(path, trust=trust)
    module, where = checkpoint.module, checkpoint.where
    layers: Any = getattr(module, "model", None) or [None]
    if type(layers[-1]).__name__ != "RTDETRDecoder":
        raise ModelError(
            f"expected an RT-DETR detector, got a {type(layers[-1]).__name__} head", where=where
        )
    tensors, classes = float_tensors(checkpoint), class_names(module, where)
    architecture, size = file_architecture(module)
    if architecture == "yolov8-rtdetr.yaml":
        architecture = f"yolov8{size}-rtdetr.yaml"
    try:
        architecture_file(architecture)
        stock = stock_model(architecture, len(classes))
        require_fit(tensors, stock.state_dict(), f"tensors do not fit {architecture}")
        roles = split_roles(tensors, head)
    except ModelError as error:
        raise ModelError(error.what, where=where, remedy=error.remedy) from error
    part = HeadPart(classes, roles.own, name)
    state = DetectorState("rtdetr", architecture, head, roles.shared, roles.buffers, (part,))
    require_same_answers(
        module, inference_model(state), _raw, architecture=architecture, where=where
    )
    return state, {**facts(checkpoint), "sha256": sha256_file(path), "licence": licence}


def _raw(output: Any) -> list[torch.Tensor]:
    """Return the boxes and scores of the decoder and of the encoder."""
    return list(output[1][:4])
