"""What a file is read into beside numbers, text and tensors, and how much of it there may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ALLOWANCE = 64 << 20
"""Bytes of plain data that any file may hold beyond its own size."""


class RefusedError(ValueError):
    """The file asks for more than data, or for more memory than it is worth."""


class DamagedError(ValueError):
    """The file is not what torch writes."""


@dataclass(frozen=True, eq=False, slots=True)
class Global:
    """The name of a class or function: only the name; nothing is ever looked up.

    Attributes:
        path: Module and name, such as ``torch.nn.modules.conv.Conv2d``.
    """

    path: str

    def __repr__(self) -> str:
        return f"<name {told(self.path)}>"


@dataclass(frozen=True, eq=False, slots=True)
class Stub:
    """An object of the file as data: the name of its class and its attributes.

    Attributes:
        path: Module and name of the class.
        state: Attributes by name; empty until the file gives them.
    """

    path: str
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Name of the class without its module."""
        return self.path.rpartition(".")[2]

    def __repr__(self) -> str:  # shallow: a stranger's objects may hold each other
        return f"<data of {told(self.path)}>"


@dataclass
class Budget:
    """How much memory a file may still ask for.

    Attributes:
        left: Bytes.
    """

    left: int

    def spend(self, size: int) -> None:
        """Take ``size`` bytes.

        Raises:
            RefusedError: There are not as many.
        """
        self.left -= size
        if self.left < 0:
            raise RefusedError("the file unfolds into more data than its size explains")


def told(value: object) -> str:
    """Return a value for a message: short, and shallow however deep the value is."""
    if isinstance(value, str):
        text = value if len(value) <= 80 else value[:77] + "..."
        return text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    if isinstance(value, bool) or value is None or isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 64 else f"a number of {value.bit_length()} bits"
    if isinstance(value, (Global, Stub)):
        return repr(value)
    if isinstance(value, (list, tuple, dict, set, bytes)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
