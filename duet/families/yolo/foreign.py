"""Detectors that duet did not train: Ultralytics' own `.pt` files, read through the guarded door.

The network is not kept as it was pickled: its tensors move into a detector that duet builds from
the engine's architecture file, and both must answer alike. What duet merges is thus what the file
computes, also where another version of the engine wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from torch import nn

from duet.errors import DataError, ModelError
from duet.families.yolo.engine import prepare

prepare()

from ultralytics.nn.modules.head import Detect  # noqa: E402  (the engine must be tamed first)

from duet.families.yolo.build import inference_model, require_fit, stock_model  # noqa: E402
from duet.families.yolo.roles import (  # noqa: E402
    architecture_file,
    head_prefix,
    split_roles,
    tower_width,
)
from duet.files import sha256_file  # noqa: E402
from duet.increments.guard import load_pt  # noqa: E402
from duet.increments.state import DetectorState, HeadForm, HeadPart  # noqa: E402
from duet.labels import LabelSpace  # noqa: E402
from duet.vectors.tensors import Tensors, require_finite  # noqa: E402

TOLERANCE = 1e-4
"""Largest difference of raw outputs, as a share of the largest output."""

RENAME = "set model.names in Ultralytics, one different name per class, and save the file again"


@dataclass(frozen=True)
class Checkpoint:
    """A `.pt` file of the engine, opened.

    Attributes:
        module: Its network, the averaged one (`ema`) where there are two; as stored, float16.
        content: Everything else in the file.
        where: The file, for error messages.
    """

    module: nn.Module
    content: Mapping[str, Any]
    where: str


def open_checkpoint(path: Path, *, trust: bool = False) -> Checkpoint:
    """Open a `.pt` file of Ultralytics.

    Args:
        path: The file.
        trust: **Dangerous**, see `duet.increments.guard.load_pt`.

    Raises:
        ModelError: The file is damaged or refused, or holds no network.
        MissingExtraError: Ultralytics is not installed.
    """
    content = load_pt(path, trust=trust)
    entries = content if isinstance(content, dict) else {}
    for key in ("ema", "model"):
        if isinstance(entries.get(key), nn.Module):
            return Checkpoint(entries[key], entries, str(path))
    raise ModelError(
        "the file holds no Ultralytics model: tensors alone do not say which architecture they "
        "belong to and what their classes are called",
        where=str(path),
        remedy="give a .pt file that Ultralytics wrote (best.pt or last.pt of a training, or "
        "YOLO(...).save('model.pt'))",
    )


def float_tensors(checkpoint: Checkpoint) -> Tensors:
    """Return the network's tensors, floats as float32: the upcast of what the file holds.

    Raises:
        ModelError: The network is fused, or holds NaN or infinity.
    """
    tensors = {
        name: tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
        for name, tensor in checkpoint.module.state_dict().items()
    }
    if not any(name.endswith(".bn.weight") for name in tensors):
        raise ModelError(
            "the model is fused: its BatchNorm layers are gone",
            where=checkpoint.where,
            remedy="use the checkpoint that training wrote",
        )
    require_finite(tensors, checkpoint.where)
    return tensors


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
        The state, and JSON-ready facts: `file`, `sha256`, `licence`, and, None where the file does
        not say, `image_size` (pixels), `model` and `pretrained` (what training started from),
        `date`, `version` and `stated_licence`.

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
    classes = _class_names(module, where)
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
    _require_same_answers(module, state, where)
    return state, {**_facts(checkpoint), "sha256": sha256_file(path), "licence": licence}


def _require_plain_detector(module: nn.Module, where: str) -> None:
    layers = getattr(module, "model", None)
    head: Any = layers[-1] if isinstance(layers, nn.Sequential) and len(layers) else None
    task = getattr(module, "task", None)
    if type(head) is not Detect or task not in (None, "detect"):
        raise ModelError(
            f"expected a detector with a plain Detect head, got {type(module).__name__}"
            f"{f' with {type(head).__name__}' if head is not None else ''}"
            f"{f' for the task {task!r}' if task is not None else ''}",
            where=where,
            remedy="segmentation, pose, oriented-box, open-vocabulary and RT-DETR models cannot "
            "be merged; give a detection model (v8, v9, 11, 12)",
        )
    if hasattr(head, "one2one_cv3"):
        raise ModelError(
            "the head is end-to-end: its one-to-one branch would have to merge too",
            where=where,
            remedy="use a one-to-many detector such as yolov8 or yolo11",
        )


def _class_names(module: nn.Module, where: str) -> tuple[str, ...]:
    """Return class names in the order of the outputs; numbers become their text, as in YAML."""
    found: Any = getattr(module, "names", None)
    layers: Any = module.model
    count = getattr(layers[-1], "nc", None)
    if isinstance(found, Mapping) and sorted(found, key=str) == sorted(range(len(found)), key=str):
        found = [found[index] for index in range(len(found))]
    if not isinstance(found, (list, tuple)) or len(found) != count:
        raise ModelError(
            f"expected a name for each of the {count} classes, got {found!r:.200}",
            where=where,
            remedy=RENAME,
        )
    names = tuple(str(one).strip() if isinstance(one, (str, int)) else "" for one in found)
    try:
        LabelSpace(names)
    except DataError as error:
        raise ModelError(error.what, where=where, remedy=RENAME) from error
    return names


def _architecture(module: nn.Module, where: str) -> str:
    """Return the engine's name of the architecture, such as ``yolo11n.yaml``."""
    described: Any = getattr(module, "yaml", None)
    described = described if isinstance(described, Mapping) else {}
    # Paths of either system: files travel.
    named = PureWindowsPath(str(described.get("yaml_file") or "")).name
    scale = described.get("scale") or next(iter(described.get("scales") or {}), "")
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


def _require_same_answers(module: nn.Module, state: DetectorState, where: str) -> None:
    """Refuse a network that this engine builds otherwise than the one that wrote the file.

    Tensors alone do not show it: between 8.4.0 and its fix, for example, the pooling block of the
    same architecture file lost an activation.
    """
    rebuilt = inference_model(state)
    side = 2 * int(rebuilt.stride.max())
    image = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0))
    for layer in module.modules():
        if isinstance(layer, nn.Upsample) and not hasattr(layer, "recompute_scale_factor"):
            layer.recompute_scale_factor = None  # as the engine does for files of torch < 1.11
    try:
        with torch.no_grad():
            expected, got = module.float().eval()(image)[1], rebuilt(image)[1]
        pairs = [(expected[key], got[key]) for key in ("boxes", "scores")]
        same = all(float((a - b).abs().max()) <= TOLERANCE * float(a.abs().max()) for a, b in pairs)
    except Exception as error:  # an old pickle can miss any attribute that the engine now reads
        raise ModelError(
            f"the engine cannot run the model of this file: {type(error).__name__}: {error}",
            where=where,
            remedy="open and save it again with the version of Ultralytics that wrote it",
        ) from error
    if not same:
        raise ModelError(
            f"Ultralytics now builds another network from '{state.architecture}' than the one in "
            "this file: the same tensors give other outputs",
            where=where,
            remedy="the model was changed by hand or by another version of Ultralytics; train it "
            "further with the installed version and use that file",
        )


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    content = checkpoint.content
    given = content.get("train_args")
    train_args: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    size = train_args.get("imgsz")
    sides = size if isinstance(size, (list, tuple)) else (size,)
    sizes = [side for side in sides if type(side) is int and side > 0]
    return {
        "file": Path(checkpoint.where).name,
        "image_size": max(sizes, default=None),
        "model": _file_name(train_args.get("model")),
        "pretrained": _file_name(train_args.get("pretrained")),
        "date": _text(content.get("date")),
        "version": _text(content.get("version")),
        "stated_licence": _text(content.get("license")),
    }


def _file_name(value: object) -> str | bool | None:
    """Return a file's name without its folders, which are nobody's business."""
    if isinstance(value, (str, Path)) and str(value):
        return PureWindowsPath(str(value)).name
    return value if isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
