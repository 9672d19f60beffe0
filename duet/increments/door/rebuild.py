"""What becomes of each call in a file: a literal table of functions that are ours."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from duet.increments.door.known import NAMESPACES
from duet.increments.door.values import Budget, DamagedError, Global, RefusedError, Stub, told

MOST_DIMENSIONS = 16

LONGEST_KEY = 4096
"""Letters or bytes of a key; two equal ones are compared to the end each time they meet."""


class Storage:
    """Numbers of the file, in one row.

    Attributes:
        flat: One dimension, as long as the file's bytes say.
        views: Bytes that tensors may still show of the file's storages altogether.
    """

    __slots__ = ("flat", "views")

    def __init__(self, flat: torch.Tensor, views: Budget) -> None:
        self.flat, self.views = flat, views


Rebuild = Callable[..., Any]


def key_of(value: object) -> Any:
    """Return what may be a key of a dict or a member of a set: what is hashed at once.

    Raises:
        DamagedError: Anything else. A tuple nested a million deep overflows the stack when it is
            hashed; large numbers and floats can be chosen so that all their hashes collide.
    """
    if isinstance(value, (str, bytes)) and len(value) > LONGEST_KEY:
        raise DamagedError(f"a key of {len(value)} letters")
    if value is None or isinstance(value, (str, bool, bytes)):
        return value
    if isinstance(value, int) and -(1 << 48) < value < 1 << 48:
        return value
    raise DamagedError(f"{told(value)} as a key")


def tensor(
    storage: object, offset: object, size: object, stride: object, *rest: object
) -> torch.Tensor:
    """Return a tensor over a storage; nothing is copied, and nothing lies outside of it.

    Args:
        storage: A `Storage`.
        offset: Where the first element stands.
        size: Shape.
        stride: Steps, one a dimension.
        rest: ``requires_grad``, hooks and metadata, which must be empty.
    """
    if not isinstance(storage, Storage):
        raise DamagedError("a tensor without a storage")
    if len(rest) > 3 or not all(map(_is_empty, rest[1:])):
        raise RefusedError("a tensor has hooks or marks of its own")
    sides, steps = _whole(size), _whole(stride)
    (start,) = _whole((offset,))
    if len(sides) != len(steps) or len(sides) > MOST_DIMENSIONS:
        raise DamagedError(f"a tensor of {len(sides)} dimensions with {len(steps)} strides")
    flat, count = storage.flat, math.prod(sides)
    if count == 0:
        if max(sides) > 1 << 31:
            raise DamagedError("an empty tensor with an endless side")
        return flat.new_empty(sides)
    last = start + sum((side - 1) * step for side, step in zip(sides, steps, strict=True))
    # A step of 0 repeats numbers: a few bytes would become any number of elements.
    if last >= len(flat) or count > len(flat):
        raise DamagedError(f"a tensor of {told(count)} numbers over {len(flat)} in its storage")
    storage.views.spend(count * flat.element_size())
    return flat.as_strided(sides, steps, start)


def _is_empty(hooks: object) -> bool:
    return hooks is None or (isinstance(hooks, dict) and not hooks)


def _whole(values: object) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)):
        raise DamagedError(f"{told(values)} as a shape")
    if len(values) > MOST_DIMENSIONS:
        raise DamagedError(f"a tensor of {len(values)} dimensions")
    for value in values:
        if type(value) is not int or not 0 <= value < 1 << 62:
            raise DamagedError(f"{told(value)} in a shape")
    return tuple(values)


def _parameter(data: object, *rest: object) -> torch.Tensor:
    """Return the tensor of a parameter; whether it is one stands in its module."""
    if not isinstance(data, torch.Tensor) or len(rest) != 2 or not _is_empty(rest[1]):
        raise DamagedError("a parameter without a tensor, or with hooks")
    return data


def _ordered(*arguments: object) -> dict[Any, Any]:
    if not arguments:
        return {}
    (rows,) = arguments
    if not isinstance(rows, list) or any(not isinstance(row, (list, tuple)) for row in rows):
        raise DamagedError("an OrderedDict that is not made of pairs")
    return {key_of(key): value for key, value in rows}


def _set(*arguments: object) -> set[Any]:
    (rows,) = arguments or ([],)
    if not isinstance(rows, (list, tuple)):
        raise DamagedError(f"a set of {told(rows)}")
    return {key_of(row) for row in rows}


def _path(*parts: object) -> str:
    if not parts or not all(isinstance(part, str) for part in parts):
        raise DamagedError("a path that is not made of text")
    first, *others = map(str, parts)
    return "/".join([first.rstrip("/"), *others]) if others else first


def _device(kind: object, number: object = 0) -> str:
    return f"{told(kind)}:{told(number)}"


def _encoded(text: object, encoding: object) -> bytes:
    """Return bytes as pickles of protocol 2 spell them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise DamagedError(f"{told(text)} in the encoding {told(encoding)}")
    return text.encode("latin-1")


class NumberType:
    """numpy's dtype.

    Attributes:
        code: Such as ``f8``.
    """

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        self.code = code


_CODES = MappingProxyType(
    {"f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B",
     "u2": "H", "u4": "I", "u8": "Q", "b1": "?"}
)  # fmt: skip


def _number_type(code: object, *_: object) -> NumberType:
    if not isinstance(code, str) or code.lstrip("<|=") not in _CODES:
        raise RefusedError(f"a numpy type {told(code)}")
    return NumberType(code.lstrip("<|="))


def _number(kind: object, content: object = None) -> Any:
    """Return numpy's scalar as a number of Python."""
    if not isinstance(kind, NumberType) or not isinstance(content, bytes):
        raise DamagedError("a number of numpy without its bytes")
    return struct.unpack("<" + _CODES[kind.code], content)[0]


def _bound_method(owner: object, name: object) -> Stub:
    """Return what stands for an attribute of an object, such as the `forward` of a fused layer."""
    if not isinstance(owner, (Stub, Global)) or not isinstance(name, str):
        raise RefusedError("the file looks into an object of another kind")
    return Stub("builtins.getattr", {"owner": owner, "name": name})


def _array(*_: object) -> Stub:
    return Stub("numpy.ndarray")


def _namespace(path: str, *arguments: object) -> Stub:
    if arguments:
        raise DamagedError(f"{path} with arguments")
    return Stub(path)


REBUILDS: Mapping[str, Rebuild] = MappingProxyType(
    {
        "torch._utils._rebuild_tensor": tensor,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_parameter_with_state": lambda data, grad, hooks, _: _parameter(
            data, grad, hooks
        ),
        "torch.Size": lambda sides=(): tuple(_whole(sides)),
        "torch.device": _device,
        "collections.OrderedDict": _ordered,
        "builtins.set": _set,
        "builtins.frozenset": _set,
        "builtins.getattr": _bound_method,
        "_codecs.encode": _encoded,
        "numpy.dtype": _number_type,
        "numpy.core.multiarray.scalar": _number,
        "numpy._core.multiarray.scalar": _number,
        "numpy.core.multiarray._reconstruct": _array,
        "numpy._core.multiarray._reconstruct": _array,
        **{f"pathlib.{kind}Path": _path for kind in ("Posix", "PurePosix", "Windows", "Pure", "")},
        **{f"pathlib._local.{kind}Path": _path for kind in ("Posix", "Windows")},
        **{name: functools.partial(_namespace, name) for name in NAMESPACES},
    }
)
"""What a file may call, and what is called in its place."""
