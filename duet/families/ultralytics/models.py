"""The engine's models: tensors and class names put in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from duet.families.tensors import require_fit
from duet.increments.state import DetectorState, HeadPart
from duet.vectors.tensors import Tensors


def load_stock(model: Any, state: DetectorState, own: Tensors) -> None:
    """Load the shared tensors and buffers of a state, and ``own`` ones into the head.

    Raises:
        ModelError: Tensors are missing, unexpected or of another shape (all named).
    """
    prefix = f"model.{len(model.model) - 1}."
    tensors = {**state.shared, **state.buffers, **{prefix + k: v for k, v in own.items()}}
    require_fit(tensors, model.state_dict(), f"tensors do not fit {state.architecture}")
    model.load_state_dict(tensors)


def load_part(head: nn.Module, part: HeadPart, own: re.Pattern[str]) -> None:
    """Load an increment's part into a head; ``own`` matches the names of its tensors.

    Raises:
        ModelError: As `load_stock`.
    """
    stock = head.state_dict()
    expected = {name: tensor for name, tensor in stock.items() if own.match(name)}
    require_fit(part.tensors, expected, f"the head part of '{part.increment}' does not fit")
    head.load_state_dict({**stock, **part.tensors})


def set_classes(model: Any, names: Sequence[str]) -> None:
    """Tell a model the names and the number of its classes."""
    model.names = dict(enumerate(names))
    model.nc = model.yaml["nc"] = len(names)
