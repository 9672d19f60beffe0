"""Detectors that duet did not train: Ultralytics' own `.pt` files, read through the guarded door.

The network is not kept as it was pickled: its tensors move into a detector that duet builds from
the engine's architecture file, and both must answer alike. What duet merges is thus what the file
computes, also where another version of the engine wrote it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from duet.errors import ModelError
from duet.families.ultralytics.checkpoint import (
    class_names,
    facts,
    file_architecture,
    float_tensors,
    open_checkpoint,
    require_same_answers,
)
from duet.families.ultralytics.names import head_prefix
from duet.families.ultralytics.tensors import require_fit
from duet.families.yolo.build import PLAIN_HEADS, inference_model, stock_model
from duet.families.yolo.roles import architecture_file, split_roles, tower_width
from duet.files import sha256_file
from duet.increments.state import DetectorState, HeadForm, HeadPart


def read_detector(
    path: Path, *, name: str, head: HeadForm, trust: bool, licence: str
) -> tuple[DetectorState, dict[str, Any]]:
    """Read a detector of one increment, and what its file says about itself.

    Args:
        path: A detection `.pt` file of Ultralytics.
        name: Name that its classes get as an increment.
        head: Head form of the result.
        trust: **Dangerous**, see `duet.increments.guard.load_pt`.
        licence: SPDX identifier of the engine.

    Returns:
        The state, and facts as in `duet.families.ultralytics.checkpoint.facts`, with `sha256` and
        `licence`.

    Raises:
        ModelError: The file is damaged, refused, fused or not finite; it holds no plain detector,
            an unknown architecture, or unusable class names; or this version of the engine builds
            another network from its architecture.
        MissingExtraError: Ultralytics is not installed.
    """
    checkpoint = open_checkpoint(path, trust=trust)
    module, where = checkpoint.module, checkpoint.where
    _require_plain_detector(module, where)
    tensors = float_tensors(checkpoint)
    classes = class_names(module, where)
    architecture = _architecture(module, where)
    prefix = head_prefix(tensors)
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    try:
        stock = stock_model(architecture, len(classes), tower_width(own))
        require_fit(tensors, stock.state_dict(), f"tensors do not fit {architecture}")
        roles = split_roles(tensors, head)
    except ModelError as error:
        raise ModelError(error.what, where=where, remedy=error.remedy) from error
    state = DetectorState(
        "yolo", architecture, head, roles.shared, roles.buffers,
        (HeadPart(classes, roles.own, name),),
    )  # fmt: skip
    require_same_answers(
        module, inference_model(state), _raw, architecture=architecture, where=where
    )
    return state, {**facts(checkpoint), "sha256": sha256_file(path), "licence": licence}


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
