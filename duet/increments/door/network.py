"""Layers, tensors and attributes of a network, read out of a file's data or of a real module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from duet.errors import ModelError
from duet.increments.door.values import Global, Stub, told

MOST_LAYERS = 20_000
DEEPEST = 32
MOST_ITEMS = 256
"""Numbers of one attribute, such as the wiring of a layer."""

FUNCTION = "function "
"""How the text begins that stands for a function or method, which may take another one's place."""

_CHILDREN, _PARAMETERS, _BUFFERS = "_modules", "_parameters", "_buffers"


@dataclass(frozen=True)
class Layer:
    """One module.

    Attributes:
        kind: Name of its class, without the module that defined it.
        attributes: Plain attributes by name: scalars, tuples of them, and functions as text that
            begins with `FUNCTION`. Names with an underscore only where they are functions.
    """

    kind: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Network:
    """A network as data.

    Attributes:
        root: The object that holds it.
        layers: By path, the network itself as ``""``, in the order of `Module.named_modules`; a
            layer with several places stands at each.
        tensors: As in `Module.state_dict`, with the same names in the same order.
    """

    root: Stub
    layers: Mapping[str, Layer]
    tensors: Mapping[str, torch.Tensor]


def is_network(value: object) -> bool:
    """Tell whether a value of a file is a module."""
    return isinstance(value, Stub) and isinstance(value.state.get(_CHILDREN), dict)


def read_network(root: Stub, where: str) -> Network:
    """Read a network out of a file's data.

    Args:
        root: The outermost module.
        where: The file, for messages.

    Raises:
        ModelError: It is not whole, holds hooks, or is larger than any detector.
    """
    layers: dict[str, Layer] = {}
    tensors: dict[str, torch.Tensor] = {}
    for path, stub in _walk(root, where):
        prefix = f"{path}." if path else ""
        dropped = stub.state.get("_non_persistent_buffers_set")
        dropped = dropped if isinstance(dropped, (set, frozenset)) else set()
        for group, hidden in ((_PARAMETERS, ()), (_BUFFERS, dropped)):
            for name, value in _members(stub, group, path, where):
                if value is None or name in hidden:
                    continue
                if not isinstance(value, torch.Tensor):
                    raise _not_whole(f"'{prefix}{told(name)}' is {told(value)}", where)
                tensors[prefix + name] = value
        _require_no_hooks(stub, path, where)
        layers[path] = _layer(stub)
    distinct = {id(tensor): tensor.nbytes for tensor in tensors.values()}
    if sum(tensor.nbytes for tensor in tensors.values()) > 2 * sum(distinct.values()) + (1 << 20):
        raise _not_whole("one tensor stands in many places", where)
    return Network(root, layers, tensors)


def _walk(root: Stub, where: str) -> Iterator[tuple[str, Stub]]:
    """Yield paths and modules, parents before children; the tree may be a snare."""
    waiting, count = [("", root, 0)], 0
    while waiting:
        path, stub, depth = waiting.pop()
        count += 1
        if count > MOST_LAYERS or depth > DEEPEST:
            raise _not_whole("its layers are nested without end", where)
        yield path, stub
        children = []
        for name, child in _members(stub, _CHILDREN, path, where):
            if child is None:
                continue
            if not is_network(child) or not name or "." in name:
                raise _not_whole(f"the layer {told(name)} in '{path}' is {told(child)}", where)
            children.append((f"{path}.{name}" if path else name, child, depth + 1))
        waiting += reversed(children)


def _members(stub: Stub, group: str, path: str, where: str) -> list[tuple[str, Any]]:
    found = stub.state.get(group)
    if not isinstance(found, dict) or any(not isinstance(name, str) for name in found):
        raise _not_whole(f"{stub.kind} at '{path}' has no {group}", where)
    return list(found.items())


def _require_no_hooks(stub: Stub, path: str, where: str) -> None:
    for name, value in stub.state.items():
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")) and value:
            raise ModelError(
                f"the layer '{path}' has {told(name)}: functions that run beside it",
                where=where,
                remedy="remove the hooks and save the model again",
            )


def _layer(stub: Stub) -> Layer:
    attributes: dict[str, Any] = {}
    for name, value in stub.state.items():
        try:
            found = plain(value)
        except ValueError:
            continue
        if not name.startswith("_") or name == "_qkv_same_embed_dim" or is_function(found):
            attributes[name] = found
    return Layer(stub.kind, attributes)


def is_function(value: object) -> bool:
    """Tell whether an attribute of a `Layer` is a function or a method."""
    return isinstance(value, str) and value.startswith(FUNCTION)


def plain(value: Any) -> Any:
    """Return a scalar, or (nested) tuples of scalars.

    A small tensor becomes its numbers, a function its name.

    Raises:
        ValueError: The value is of another kind, or too large.
    """
    left = MOST_ITEMS

    def flatten(one: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > 3:
            raise ValueError("too large")
        if one is None or isinstance(one, (str, int, float, bool)):
            return one
        if isinstance(one, (list, tuple)):
            return tuple(flatten(item, depth + 1) for item in one)
        if isinstance(one, torch.Tensor) and one.numel() <= left and one.dim() <= 1:
            return tuple(one.reshape(-1).tolist())
        if isinstance(one, Global):
            return FUNCTION + one.path
        if isinstance(one, Stub) and one.path == "builtins.getattr":
            return f"{FUNCTION}{one.state.get('name')}"
        raise ValueError("not plain")

    return flatten(value, 0)


def as_data(value: Any) -> Any:
    """Return a real object as a file's data: each module and other object becomes a `Stub`.

    For networks that duet built itself, and for files that the user told it to trust.
    """
    return _as_data(value, {})


def _as_data(value: Any, done: dict[int, Any]) -> Any:
    if id(value) in done:
        return done[id(value)][0]
    if isinstance(value, torch.Tensor):
        return value.detach()
    if value is None or isinstance(value, (str, int, float, bool, bytes)):
        return value
    if isinstance(value, Mapping):
        pairs: dict[Any, Any] = {}
        done[id(value)] = pairs, value  # the value too: ids are only good while it lives
        pairs.update((key, _as_data(item, done)) for key, item in value.items())
        return pairs
    if isinstance(value, (list, tuple, set, frozenset)):
        known = next(known for known in (list, tuple, set, frozenset) if isinstance(value, known))
        return known(_as_data(item, done) for item in value)
    if hasattr(value, "__qualname__") or not hasattr(value, "__dict__"):  # classes and functions
        kind = value if hasattr(value, "__qualname__") else type(value)
        return Global(f"{kind.__module__}.{kind.__qualname__}")
    path = f"{type(value).__module__}.{type(value).__qualname__}"
    stub = Stub(path)
    done[id(value)] = stub, value
    stub.state.update((name, _as_data(item, done)) for name, item in vars(value).items())
    return stub


def _not_whole(what: str, where: str) -> ModelError:
    return ModelError(
        f"the network in the file is not whole: {what}",
        where=where,
        remedy="take the file from its source again",
    )
