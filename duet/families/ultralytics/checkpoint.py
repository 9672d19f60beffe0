"""The engine's `.pt` files: opened through the guarded door, read, and held to what they compute.

Where another version of the engine wrote a file, its network is not kept as it was pickled: the
tensors move into a detector that duet builds, and both must answer alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from torch import nn

from duet.errors import DataError, ModelError
from duet.increments.guard import load_pt
from duet.labels import LabelSpace
from duet.vectors.tensors import Tensors, require_finite

TOLERANCE = 1e-4
"""Largest difference of raw outputs, as a share of the largest output."""

Outputs = Callable[[Any], list[torch.Tensor]]

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


def head_kind(checkpoint: Checkpoint) -> str:
    """Return the name of the head's class; empty where there are no layers."""
    layers: Any = getattr(checkpoint.module, "model", None)
    return type(layers[-1]).__name__ if isinstance(layers, nn.Sequential) and len(layers) else ""


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


def class_names(module: nn.Module, where: str) -> tuple[str, ...]:
    """Return class names in the order of the outputs; numbers become their text, as in YAML.

    Raises:
        ModelError: Names are missing, blank or not unique.
    """
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


def file_architecture(module: nn.Module) -> tuple[str, str]:
    """Return the file name and the size letter of the architecture that a model was built from.

    Both are empty where the model does not say.
    """
    described: Any = getattr(module, "yaml", None)
    described = described if isinstance(described, Mapping) else {}
    # Paths of either system: files travel.
    named = PureWindowsPath(str(described.get("yaml_file") or "")).name
    scale = described.get("scale") or next(iter(described.get("scales") or {}), "")
    return named, str(scale)


def require_same_answers(
    module: nn.Module, rebuilt: nn.Module, outputs: Outputs, *, architecture: str, where: str
) -> None:
    """Refuse a network that this engine builds otherwise than the one that wrote the file.

    Tensors alone do not show it: between 8.4.0 and its fix, for example, the pooling block of the
    same architecture file lost an activation.

    Args:
        module: The network of the file; it is made float32 and put into evaluation mode.
        rebuilt: The same detector, built by duet.
        outputs: Picks the raw outputs to compare from what a network returns.
        architecture: For the message.
        where: The file, for the message.

    Raises:
        ModelError: The networks differ, or that of the file does not run.
    """
    side = 2 * int(max(getattr(rebuilt, "stride", [32])))
    image = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0))
    for layer in module.modules():
        if isinstance(layer, nn.Upsample) and not hasattr(layer, "recompute_scale_factor"):
            layer.recompute_scale_factor = None  # as the engine does for files of torch < 1.11
    try:
        with torch.no_grad():
            expected, got = outputs(module.float().eval()(image)), outputs(rebuilt(image))
        pairs = list(zip(expected, got, strict=True))
        same = all(float((a - b).abs().max()) <= TOLERANCE * float(a.abs().max()) for a, b in pairs)
    except Exception as error:  # an old pickle can miss any attribute that the engine now reads
        raise ModelError(
            f"the engine cannot run the model of this file: {type(error).__name__}: {error}",
            where=where,
            remedy="open and save it again with the version of Ultralytics that wrote it",
        ) from error
    if not same:
        raise ModelError(
            f"Ultralytics now builds another network from '{architecture}' than the one in "
            "this file: the same tensors give other outputs",
            where=where,
            remedy="the model was changed by hand or by another version of Ultralytics; train it "
            "further with the installed version and use that file",
        )


def facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return JSON-ready facts that a file states about itself; None where it does not say."""
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
