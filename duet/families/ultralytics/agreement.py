"""Whether the network that duet builds is the one that a file describes.

Tensors alone do not show it: between 8.4.0 and its fix, for example, the pooling block of the same
architecture file lost an activation. A pickle holds no code, only class names, attributes and
tensors; so with the engine that is installed here, a network computes what these three say. When
all of them are equal, the outputs are, and running the file's network beside ours could show
nothing more; it would only run what a stranger wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from duet.errors import ModelError
from duet.increments.door.network import (
    FUNCTION,
    Layer,
    Network,
    as_data,
    is_function,
    plain,
    read_network,
)
from duet.increments.door.values import told
from duet.text import shown

HARMLESS = frozenset(
    {
        "agnostic_nms", "anchors", "criterion", "dynamic", "export", "format", "inplace", "legacy",
        "max_det", "momentum", "names", "np", "p", "pt_path", "shape", "strides", "task",
        "training", "type", "valid_mask",
    }
)  # fmt: skip
"""Attributes that do not change what a detector computes for an image: what training, export and
the choice of boxes read, and what the engine works out anew for each size of image."""

WORKED_OUT = frozenset(("end2end",))
"""Attributes of earlier versions that the engine's classes work out now: the only properties whose
value is asked for. What else a file names is looked at as it stands in the class, and never run."""

OF_THE_NETWORK = frozenset(("save", "stride"))
"""The network itself carries settings of all kinds; these two say how it computes."""

RENAMED = MappingProxyType({"_LinearWithBias": "NonDynamicallyQuantizableLinear"})
"""Classes by the names that they had before."""

ADDED: Mapping[str, Mapping[str, Any]] = MappingProxyType({"SPPF": {"n": 3}})
"""What the engine takes for attributes that files of earlier versions lack; elsewhere "off"."""


def require_same_network(
    found: Network, module: nn.Module, *, architecture: str, where: str
) -> None:
    """Refuse a network that this engine builds otherwise than the one that wrote the file.

    Args:
        found: The network of the file.
        module: The same detector, built by duet.
        architecture: For the message.
        where: The file, for the message.

    Raises:
        ModelError: The networks differ; the first layer and attribute are named.
    """
    modules = dict(module.named_modules(remove_duplicate=False))
    ours = read_network(as_data(module), architecture)
    for path, layer in ours.layers.items():
        if path not in found.layers:
            raise _difference(f"the layer '{path}' ({layer.kind}) is missing", architecture, where)
        told_of = _first_difference(path, found.layers[path], layer, modules[path])
        if told_of:
            raise _difference(told_of, architecture, where)
    for path in found.layers:
        if path not in ours.layers:
            name = f"{told(path)} ({found.layers[path].kind})"
            raise _difference(f"the layer {name} is added", architecture, where)


def _first_difference(path: str, theirs: Layer, ours: Layer, module: nn.Module) -> str:
    kind = RENAMED.get(theirs.kind, theirs.kind)
    if path and kind != ours.kind:
        return f"'{path}' is {kind}, expected {ours.kind}"
    for name in sorted({**theirs.attributes, **ours.attributes}):
        got = theirs.attributes.get(name, ADDED.get(ours.kind, {}).get(name))
        settings = name in HARMLESS or (not path and name not in OF_THE_NETWORK)
        if settings and not is_function(got):
            continue
        if name in ours.attributes:
            expected = ours.attributes[name]
        else:
            owner = next((kind for kind in type(module).__mro__ if name in vars(kind)), None)
            if owner is None:
                continue  # no code of this engine reads it
            # The file sets what belongs to the class here.
            expected = _constant(module, name, vars(owner)[name])
        if got != expected and (got or expected):
            return f"'{path}.{told(name)}' is {_shown(got)}, expected {_shown(expected)}"
    return ""


def _constant(module: nn.Module, name: str, value: Any) -> Any:
    """Return what stands in the class: a constant, or its own method's name."""
    value = getattr(module, name) if name in WORKED_OUT else value
    try:
        return f"{FUNCTION}{name} of {type(module).__name__}" if callable(value) else plain(value)
    except ValueError:
        return told(value)


def _shown(value: Any) -> str:
    return shown(value, 80) if isinstance(value, tuple) else told(value)


def _difference(what: str, architecture: str, where: str) -> ModelError:
    return ModelError(
        f"Ultralytics now builds another network from '{architecture}' than the one in this file: "
        f"{what}",
        where=where,
        remedy="the model was changed by hand or by another version of Ultralytics; train it "
        "further with the installed version and use that file",
    )
