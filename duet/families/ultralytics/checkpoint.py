"""The engine's `.pt` files: read through the guarded door into data, and held to what duet builds.

A file's network is never made: its tensors move into a detector that duet builds from the engine's
architecture file, and what the file says of each layer must agree with what stands there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from duet.errors import ModelError
from duet.families.exportable import STAMP
from duet.families.opened import stated_classes
from duet.families.ultralytics.names import last_layer
from duet.increments.base import exact_float32, plain_names
from duet.increments.door.network import Network, is_network, read_network
from duet.increments.door.values import Stub, told
from duet.increments.guard import load_pt
from duet.increments.manifest import LARGEST_SIDE, SMALLEST_SIDE, PartEntry
from duet.vectors.tensors import Tensors, require_finite

RENAME = "set model.names in Ultralytics, one different name per class, and save the file again"


@dataclass(frozen=True)
class Checkpoint:
    """A `.pt` file of the engine as data.

    Attributes:
        network: Its network, the averaged one (`ema`) where there are two; as stored, float16.
        content: Everything else in the file.
        where: The file, for error messages.
    """

    network: Network
    content: Mapping[str, Any]
    where: str

    def says(self, name: str) -> Any:
        """Return an attribute of the network itself, such as ``names``; None if there is none."""
        return self.network.root.state.get(name)


def open_checkpoint(path: Path, trust: bool = False) -> Checkpoint:
    """Open a `.pt` file of Ultralytics.

    Args:
        path: The file.
        trust: **Dangerous**, see `duet.increments.guard.load_pt`.

    Raises:
        ModelError: The file is damaged or refused, or holds no whole network.
    """
    content = load_pt(path, trust=trust)
    entries = content if isinstance(content, dict) else {"model": content}
    for key in ("ema", "model"):
        if is_network(entries.get(key)):
            network = read_network(_unwrapped(entries[key]), str(path))
            return Checkpoint(network, entries, str(path))
    raise ModelError(
        "the file holds no Ultralytics model: tensors alone do not say which architecture they "
        "belong to and what their classes are called",
        where=str(path),
        remedy="give a .pt file that Ultralytics wrote (best.pt or last.pt of a training, or "
        "YOLO(...).save('model.pt'))",
    )


def _unwrapped(module: Stub) -> Stub:
    """Return the network inside of a `DataParallel` or a `DistributedDataParallel`."""
    inner = module.state["_modules"].get("module")
    wraps = module.kind in ("DataParallel", "DistributedDataParallel")
    return inner if wraps and is_network(inner) else module


def head_layer(checkpoint: Checkpoint) -> str:
    """Return the path of the last of the network's numbered layers; empty if it has none."""
    last = last_layer(f"{path}." for path in checkpoint.network.layers)
    return "" if last is None else f"model.{last}"


def head_kind(checkpoint: Checkpoint) -> str:
    """Return the name of the head's class; empty where there are no layers."""
    path = head_layer(checkpoint)
    return checkpoint.network.layers[path].kind if path else ""


def float_tensors(checkpoint: Checkpoint) -> Tensors:
    """Return the network's tensors, floats as float32: the upcast of what the file holds.

    Raises:
        ModelError: The network is fused, or holds NaN, infinity or numbers that are not float32's.
    """
    tensors = {
        name: exact_float32(name, tensor, checkpoint.where)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in plain_names(checkpoint.network.tensors).items()
    }
    if not any(name.endswith(".bn.weight") for name in tensors):
        raise ModelError(
            "the model is fused: its BatchNorm layers are gone",
            where=checkpoint.where,
            remedy="use the checkpoint that training wrote",
        )
    require_finite(tensors, checkpoint.where)
    return tensors


def class_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return class names in the order of the outputs; numbers become their text, as in YAML.

    Raises:
        ModelError: Names are missing, blank or not unique.
    """
    found, where = checkpoint.says("names"), checkpoint.where
    head = checkpoint.network.layers.get(head_layer(checkpoint))
    count = head.attributes.get("nc") if head is not None else None
    if isinstance(found, Mapping) and found.keys() == set(range(len(found))):
        found = [found[index] for index in range(len(found))]
    if not isinstance(found, (list, tuple)) or len(found) != count:
        raise ModelError(
            f"expected a name for each of the {told(count)} classes, got {told(found)}",
            where=where,
            remedy=RENAME,
        )
    return stated_classes(found, where, RENAME)


def file_architecture(checkpoint: Checkpoint) -> tuple[str, str]:
    """Return the file name and the size letter of the architecture that a model was built from.

    Each is empty where the model does not say.
    """
    described = checkpoint.says("yaml")
    described = described if isinstance(described, Mapping) else {}
    # Paths of either system: files travel.
    named = described.get("yaml_file")
    scales = described.get("scales")
    scale = described.get("scale")
    if not isinstance(scale, str) or not scale:
        scale = next(iter(scales if isinstance(scales, dict) else ()), "")
    name = PureWindowsPath(named).name if isinstance(named, str) else ""
    return name, scale if isinstance(scale, str) and re.fullmatch("[a-z]", scale) else ""


def stated_parts(checkpoint: Checkpoint) -> list[PartEntry]:
    """Return the increments that an export of duet names; none if it is no such file."""
    stamp = checkpoint.content.get(STAMP)
    stated = stamp.get("increments") if isinstance(stamp, Mapping) else None
    try:
        return TypeAdapter(list[PartEntry]).validate_python(stated)
    except ValidationError:
        return []


def facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return JSON-ready facts that a file states about itself; None where it does not say.

    An image size at which no detector trains or runs says nothing.
    """
    content = checkpoint.content
    given = content.get("train_args")
    train_args: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    size = train_args.get("imgsz")
    sides = size if isinstance(size, (list, tuple)) else (size,)
    sizes = [s for s in sides if type(s) is int and SMALLEST_SIDE <= s <= LARGEST_SIDE]
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
