"""Which tensor of a YOLO detector belongs to whom, and where it sits: told by name, never by shape.

Trainable shared tensors are merged, BatchNorm statistics of shared layers are fused, counters are
added, and each increment's own head tensors are kept as they are. What is an increment's own
depends on the form: the last class convolutions (`rows`), the class towers (`towers`), or the head
(`parallel`). A tensor that no rule names is an error.

The module implements `duet.families.protocol.RoleRules`. It must stay free of the engine, so that
files can be merged without loading one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from duet.errors import MissingExtraError, ModelError, did_you_mean, together
from duet.families.protocol import Roles
from duet.increments.state import HeadPart
from duet.merging.layers import Layer, Role
from duet.vectors.tensors import Tensors

OWN = {
    "rows": re.compile(r"cv3\.\d+\.2\."),
    "towers": re.compile(r"cv3\."),
    "parallel": re.compile(r"cv[23]\."),
}
STATISTIC = re.compile(r"\.(running_mean|running_var|num_batches_tracked)$")
# gamma: the residual scale of YOLO12's attention blocks (A2C2f) in sizes l and x.
PARAMETER = re.compile(r"\.(weight|bias|gamma)$")
# The branches of a one-to-many Detect head; dfl is a constant that travels with the shared tensors.
HEAD = re.compile(r"cv[23]\.|dfl\.conv\.weight$")
CLASS_ROWS = OWN["rows"]


def split_roles(tensors: Tensors, form: str) -> Roles:
    """Split the state of a stock one-increment detector; every tensor lands exactly once.

    Args:
        tensors: Full state in the engine's names, such as ``model.0.conv.weight``.
        form: Head form: "rows", "towers" or "parallel".

    Raises:
        ModelError: Tensors have no role (all named), or there is no numbered layer.
    """
    prefix = head_prefix(tensors)
    shared, buffers, own, unknown = {}, {}, {}, []
    for name, tensor in tensors.items():
        local = name.removeprefix(prefix)
        in_head = local != name
        statistic = STATISTIC.search(name) is not None
        known = statistic or PARAMETER.search(name) is not None
        if not known or not name.startswith("model.") or (in_head and not HEAD.match(local)):
            unknown.append(name)
        elif in_head and OWN[form].match(local):
            own[local] = tensor
        elif statistic:
            buffers[name] = tensor
        else:
            shared[name] = tensor
    if unknown:
        raise ModelError(
            together(
                [f"{name} {tuple(tensors[name].shape)} has no role" for name in sorted(unknown)],
                summary="tensors that duet does not know how to merge",
            ),
            remedy="expected weights, biases and BatchNorm statistics of a YOLO detector with one "
            "Detect head (v8, v9, 11, 12), as training leaves them",
        )
    return Roles(shared, buffers, own)


def shared_of(tensors: Tensors, form: str) -> Tensors:
    """Return the shared trainable tensors of a stock detector; errors as `split_roles`."""
    return split_roles(tensors, form).shared


def head_prefix(tensors: Iterable[str]) -> str:
    """Return the name prefix of the head, e.g. ``model.23.``: the last numbered layer.

    Raises:
        ModelError: No tensor is named ``model.<number>.…``.
    """
    numbers = [_layer_number(name) for name in tensors]
    last = max((number for number in numbers if number is not None), default=None)
    if last is None:
        raise ModelError(
            "no tensor is named 'model.<number>.…'",
            remedy="expected the state of an Ultralytics detector",
        )
    return f"model.{last}."


def layers(names: Iterable[str], architecture: str) -> dict[str, Layer]:
    """Return where each tensor sits: its part of the detector, and its depth.

    Args:
        names: Tensor names, such as ``model.0.conv.weight``.
        architecture: Architecture file of the engine, such as ``yolo11n.yaml``.

    Raises:
        ModelError: The engine has no such architecture, or a tensor lies outside of it.
        MissingExtraError: Ultralytics is not installed.
    """
    backbone, count = layer_counts(architecture)
    found: dict[str, Layer] = {}
    outside = []
    for name in names:
        number = _layer_number(name)
        if number is None or number >= count:
            outside.append(name)
            continue
        role: Role = "backbone" if number < backbone else "neck"
        found[name] = Layer("head" if number == count - 1 else role, number / (count - 1))
    if outside:
        raise ModelError(
            together(sorted(outside), summary=f"tensors outside the {count} layers"),
            where=architecture,
            remedy="the tensors belong to another architecture",
        )
    return found


def layer_counts(architecture: str) -> tuple[int, int]:
    """Return how many layers the backbone has, and how many there are in all.

    Raises:
        ModelError: The engine has no such architecture.
        MissingExtraError: Ultralytics is not installed.
    """
    import yaml

    content = yaml.safe_load(architecture_file(architecture).read_text(encoding="utf-8"))
    backbone = len(content["backbone"])
    return backbone, backbone + len(content["head"])


def architecture_file(architecture: str) -> Path:
    """Find the engine's description of an architecture, without importing the engine.

    ``yolo11n.yaml`` is described by ``yolo11.yaml``, which serves all sizes; v9 and v10 have one
    file per size.

    Raises:
        ModelError: The engine has no such architecture.
        MissingExtraError: Ultralytics is not installed.
    """
    known = re.fullmatch(r"yolo(v?\d+)[nslmxtceb](6|-p2|-p6)?\.yaml", architecture)
    spec = find_spec("ultralytics")
    if spec is None or spec.origin is None:
        raise MissingExtraError(
            "the YOLO family needs Ultralytics", remedy="pip install 'ultralytics==8.4.190'"
        )
    if known is not None:
        folder = Path(spec.origin).parent / "cfg" / "models" / known[1]
        renamed = re.sub(r"^(yolov[58][nslmx])6\.", r"\1-p6.", architecture)
        for name in (renamed, re.sub(r"^(yolov?\d+)[nslmx]", r"\1", renamed)):
            if (folder / name).is_file():
                return folder / name
    raise ModelError(
        f"unknown YOLO architecture '{architecture}'", remedy="for example yolo11n.yaml"
    )


def tower_width(part: Mapping[str, torch.Tensor]) -> int:
    """Return the channels that enter the last class convolution.

    Raises:
        ModelError: The part holds no such convolution.
    """
    name = "cv3.0.2.weight"
    if name not in part or part[name].ndim != 4:
        raise ModelError(
            f"a head part needs the class convolution '{name}'",
            remedy="the file belongs to another family or is damaged",
        )
    return int(part[name].shape[1])


def drop_classes(part: HeadPart, names: Iterable[str]) -> HeadPart | None:
    """Remove classes from a head part; every other tensor stays bit for bit.

    Args:
        part: A head part of any form.
        names: Classes to remove.

    Returns:
        The part without the output rows of ``names``; None if no class is left.

    Raises:
        ModelError: The part has no such class, or its rows do not fit its classes.
    """
    dropped = set(names)
    _require_classes(part, dropped)
    kept = [index for index, name in enumerate(part.classes) if name not in dropped]
    if not kept:
        return None
    if len(kept) == len(part.classes):
        return part
    tensors = dict(part.tensors)
    for name, tensor in part.tensors.items():
        if CLASS_ROWS.match(name):
            if tensor.shape[0] != len(part.classes):
                raise ModelError(
                    f"'{name}' has {tensor.shape[0]} rows, expected {len(part.classes)}, "
                    "one per class",
                    where=f"head part of '{part.increment}'",
                    remedy="the file is damaged: take it from its source again",
                )
            tensors[name] = tensor[kept].clone()
    return replace(part, classes=tuple(part.classes[index] for index in kept), tensors=tensors)


def rename_classes(part: HeadPart, names: Mapping[str, str]) -> HeadPart:
    """Return the part with classes called otherwise; all renamings happen at once.

    Args:
        part: A head part of any form.
        names: Old name to new name.

    Raises:
        ModelError: The part has no class of an old name.
        DataError: Two classes would have one name, or a name is blank.
    """
    _require_classes(part, names)
    return replace(part, classes=tuple(names.get(name, name) for name in part.classes))


def _require_classes(part: HeadPart, names: Iterable[str]) -> None:
    for name in sorted(names):
        if name not in part.classes:
            raise ModelError(
                f"no class '{name}'{did_you_mean(name, part.classes)}",
                where=f"head part of '{part.increment}'",
                remedy=f"its classes: {', '.join(part.classes)}",
            )


def _layer_number(name: str) -> int | None:
    found = re.match(r"model\.(\d+)\.", name)
    return int(found[1]) if found else None
