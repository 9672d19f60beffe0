"""Layers, tensors and attributes of a network, read out of a file's data or of a real module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from duet.errors import ModelError
from duet.increments.door.values import Budget, Global, RefusedError, Stub, told

MOST_LAYERS = 20_000
DEEPEST = 32
MOST_ITEMS = 256
"""Numbers of one attribute, such as the wiring of a layer."""

LONGEST_NAME = 200
"""Letters of the name of a layer or tensor within its layer: real ones are identifiers."""

MOST_MEMBERS = 32 << 20
"""Bytes that the members of all layers and the names of their places may cost, each place counted:
ten times what the engine's largest network needs."""

MEMBER = 48
"""Bytes charged for a member that is looked at: they bound the time, too."""

Spend = Callable[[int], object]

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
    spend = Budget(MOST_MEMBERS).spend
    try:
        for path, stub in _walk(root, spend, where):
            tensors.update(_own_tensors(stub, path, spend, where))
            _require_no_hooks(stub, path, where)
            layers[path] = _layer(stub, spend)
    except RefusedError as error:
        raise _not_whole(str(error), where) from None
    distinct = {id(tensor): tensor.nbytes for tensor in tensors.values()}
    if sum(tensor.nbytes for tensor in tensors.values()) > 2 * sum(distinct.values()) + (1 << 20):
        raise _not_whole("one tensor stands in many places", where)
    return Network(root, layers, tensors)


def _own_tensors(
    stub: Stub, path: str, spend: Spend, where: str
) -> Iterator[tuple[str, torch.Tensor]]:
    prefix = f"{path}." if path else ""
    dropped = stub.state.get("_non_persistent_buffers_set")
    dropped = dropped if isinstance(dropped, (set, frozenset)) else set()
    for group, hidden in ((_PARAMETERS, ()), (_BUFFERS, dropped)):
        for name, value in _members(stub, group, path, spend, where):
            if value is None or name in hidden:
                continue
            if not isinstance(value, torch.Tensor):
                raise _not_whole(f"'{prefix}{name}' is {told(value)}", where)
            yield prefix + name, value


def _walk(root: Stub, spend: Spend, where: str) -> Iterator[tuple[str, Stub]]:
    """Yield paths and modules, parents before children; the tree may be a snare."""
    waiting, count = [("", root, 0)], 0
    while waiting:
        path, stub, depth = waiting.pop()
        count += 1
        if count > MOST_LAYERS or depth > DEEPEST:
            raise _not_whole("its layers are nested without end", where)
        yield path, stub
        children = []
        for name, child in _members(stub, _CHILDREN, path, spend, where):
            if child is None:
                continue
            if not is_network(child) or not name or "." in name:
                raise _not_whole(f"the layer {name} in '{path}' is {told(child)}", where)
            children.append((f"{path}.{name}" if path else name, child, depth + 1))
        waiting += reversed(children)


def _members(
    stub: Stub, group: str, path: str, spend: Spend, where: str
) -> Iterator[tuple[str, Any]]:
    """Yield the layers, parameters or buffers of a module; the names can be shown as they are."""
    found = stub.state.get(group)
    if not isinstance(found, dict):
        raise _not_whole(f"{stub.kind} at '{path}' has no {group}", where)
    for name, value in found.items():
        if not isinstance(name, str) or len(name) > LONGEST_NAME or not name.isprintable():
            raise _not_whole(f"{told(name)} as a name in {group} of '{path}'", where)
        spend(MEMBER + len(path) + len(name))
        yield name, value


def _require_no_hooks(stub: Stub, path: str, where: str) -> None:
    for name, value in stub.state.items():
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")) and value:
            raise ModelError(
                f"the layer '{path}' has {told(name)}: functions that run beside it",
                where=where,
                remedy="remove the hooks and save the model again",
            )


def _layer(stub: Stub, spend: Spend) -> Layer:
    attributes: dict[str, Any] = {}
    for name, value in stub.state.items():
        spend(MEMBER)
        try:
            found = plain(value, spend)
        except RefusedError:
            raise
        except ValueError:
            continue
        if not name.startswith("_") or name == "_qkv_same_embed_dim" or is_function(found):
            attributes[name] = found
    return Layer(stub.kind, attributes)


def is_function(value: object) -> bool:
    """Tell whether an attribute of a `Layer` is a function or a method."""
    return isinstance(value, str) and value.startswith(FUNCTION)


def plain(value: Any, spend: Spend = lambda size: None) -> Any:
    """Return a scalar, or (nested) tuples of scalars.

    A small tensor becomes its numbers, a function its name.

    Args:
        value: An attribute of a layer.
        spend: Told how many bytes the copy takes.

    Raises:
        ValueError: The value is of another kind, or too large.
    """
    left = MOST_ITEMS

    def flatten(one: Any, depth: int) -> Any:
        nonlocal left
        row = isinstance(one, torch.Tensor) and one.dim() <= 1
        count = max(one.numel(), 1) if row else 1
        left -= count
        if left < 0 or depth > 3:
            raise ValueError("too large")
        spend(MEMBER * count)
        if one is None or isinstance(one, (str, int, float, bool)):
            return one
        if isinstance(one, (list, tuple)):
            return tuple(flatten(item, depth + 1) for item in one)
        if row:
            return tuple(one.reshape(-1).tolist())
        if isinstance(one, Global):
            return FUNCTION + one.path
        if isinstance(one, Stub) and one.path == "builtins.getattr":
            name = str(one.state.get("name"))
            spend(len(name))
            return FUNCTION + name
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
