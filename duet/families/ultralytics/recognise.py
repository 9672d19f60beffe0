"""Which of the engine's architectures some tensors belong to, told by names and shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from ultralytics import __version__
from ultralytics.nn.tasks import parse_model

from duet.errors import DuetError, ModelError
from duet.families.ultralytics.checkpoint import Checkpoint
from duet.families.ultralytics.names import (
    EngineRules,
    description,
    head_prefix,
    layer_counts,
    layer_number,
)
from duet.increments.door.network import Network
from duet.increments.door.values import told
from duet.vectors.tensors import Tensors

CONTAINERS = frozenset(("Sequential", "ModuleList"))

Shapes = Mapping[str, tuple[int, ...]]


def architectures_of(
    tensors: Tensors,
    candidates: Iterable[str],
    rules: EngineRules,
) -> Iterator[str]:
    """Yield the architectures that build just these tensors.

    Classes decide neither: the tensors that belong to an increment are not compared. Networks are
    laid out without memory.

    Args:
        tensors: State of a detector in the engine's names.
        candidates: Names of architectures, the likely ones first.
        rules: Of the family.
    """
    try:
        prefix = head_prefix(tensors)
    except DuetError:
        return
    wanted = _compared(tensors, prefix, rules)
    for name in candidates:
        file = rules.architecture_file(name)
        if not _may_be(name, file, prefix, wanted):
            continue
        layers = _laid_out(description(file, name))
        if _compared(_tensors_of(layers), prefix, rules) == wanted:
            yield name


def unknown(
    checkpoint: Checkpoint,
    tensors: Tensors,
    candidates: Sequence[str],
    rules: EngineRules,
) -> ModelError:
    """Return the error for a network that none of the architectures builds.

    Args:
        checkpoint: The file.
        tensors: Its state in the engine's names.
        candidates: See `architectures_of`; must name one.
        rules: Of the family.
    """
    prefix = head_prefix(tensors)
    wanted = _compared(tensors, prefix, rules)
    files = {name: rules.architecture_file(name) for name in candidates}
    alike = [name for name in files if _may_be(name, files[name], prefix, wanted)]
    laid = {name: _laid_out(description(files[name], name)) for name in alike or files}
    expected = {name: _compared(_tensors_of(laid[name]), prefix, rules) for name in laid}
    # Of equally near ones the first, which is what the file says that it is.
    nearest = min(laid, key=lambda name: len(expected[name].items() ^ wanted.items()))
    other = _other_code(checkpoint.network, laid[nearest])
    told_of = other or _first_difference(wanted, expected[nearest])
    none = f"no architecture of Ultralytics {__version__} is this network: the nearest is"
    one = f"this network is not what Ultralytics {__version__} builds as"
    return ModelError(
        f"{none if len(files) > 1 else one} '{nearest}', and the first difference is {told_of}",
        where=checkpoint.where,
        remedy="the file was written by another program or version than the installed Ultralytics; "
        "train one of its architectures, such as yolo11n.yaml, with it"
        if other
        else "only the engine's own architectures can be rebuilt and merged, such as yolo11n.yaml; "
        "a network that was changed by hand cannot",
    )


def _compared(tensors: Tensors, prefix: str, rules: EngineRules) -> Shapes:
    """Return the shapes of the tensors that do not belong to an increment."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in tensors.items()
        if not (name.startswith(prefix) and rules.varying.match(name.removeprefix(prefix)))
    }


def _may_be(name: str, file: Path, prefix: str, wanted: Shapes) -> bool:
    """Tell whether an architecture has so many layers and such a first one, without building it."""
    if f"model.{layer_counts(file)[1] - 1}." != prefix:
        return False
    described = description(file, name)
    first, scales = described["backbone"][0], described.get("scales") or {}
    found = wanted.get("model.0.conv.weight")
    if found is None or first[2] != "Conv":
        return True
    _, width, most = scales.get(described["scale"]) or next(
        iter(scales.values()), (1, described.get("width_multiple", 1.0), float("inf"))
    )
    # The engine rounds widths up to multiples of 8.
    return bool(found[:1] == (-(-min(first[3][0], most) * width // 8) * 8,))


def _laid_out(described: Mapping[str, Any]) -> nn.Sequential:
    """Return the layers of an architecture, on torch's meta device: shapes without numbers."""
    with torch.device("meta"):
        layers, _ = parse_model(copy.deepcopy(dict(described)), ch=3, verbose=False)
    return cast("nn.Sequential", layers)


def _tensors_of(layers: nn.Sequential) -> Tensors:
    return {f"model.{name}": tensor for name, tensor in layers.state_dict().items()}


def _first_difference(got: Shapes, wanted: Shapes) -> str:
    """Return the first tensor in which a network is not the expected one."""
    names = [*wanted, *(name for name in got if name not in wanted)]
    differing = (name for name in names if got.get(name) != wanted.get(name))
    name = min(differing, key=lambda name: layer_number(name) or 0)
    if name not in got:
        return f"missing: {name} {wanted[name]}"
    if name not in wanted:
        return f"unexpected: {told(name)} {got[name]}"
    return f"{name}: got {got[name]}, expected {wanted[name]}"


def _other_code(network: Network, layers: nn.Sequential) -> str:
    """Return the first layer that holds others than its class makes here; empty if none does.

    A container holds what an architecture file says; what another layer holds, its code says.
    """
    here: dict[str, list[set[str]]] = {}
    for module in layers.modules():
        held = {name for name, _ in module.named_children()}
        here.setdefault(type(module).__name__, []).append(held)
    there: dict[str, set[str]] = {path: set() for path in network.layers}
    for path in filter(None, network.layers):
        above, _, name = path.rpartition(".")
        there[above].add(name)
    for path, layer in network.layers.items():
        known = here.get(layer.kind, [])
        if layer.kind not in CONTAINERS and known and there[path] not in known:
            got, expected = (told(", ".join(sorted(held))) for held in (there[path], known[0]))
            return f"that {told(path)} ({layer.kind}) holds {got}, expected {expected}"
    return ""
