"""The engine's models: what builds them, and tensors and class names put in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import nn

from duet.families.rows import cut_rows, join_rows
from duet.families.tensors import plain_tensors, require_fit
from duet.families.ultralytics.names import EngineRules, head_prefix
from duet.increments.state import DetectorState, HeadPart


class Build(Protocol):
    """The module ``build`` of a family on this engine: from tensors to modules and back."""

    def inference_model(self, state: DetectorState) -> Any:
        """Build the detector of a state for inference: stock where one head suffices."""
        ...

    def training_model(self, state: DetectorState, *, mask_old: bool, run_old: float) -> Any:
        """Build the detector of a state for training its last part.

        Args:
            state: The part to train comes last.
            mask_old: The detector loss sees only the new classes.
            run_old: Share of a step's images whose old outputs are needed too.
        """
        ...

    def trained_state(self, model: nn.Module, start: DetectorState) -> DetectorState:
        """Read the state back from a trained `training_model`, float32 on the CPU."""
        ...


def load_stock(
    model: Any, state: DetectorState, parts: Sequence[HeadPart], rules: EngineRules
) -> None:
    """Load the shared tensors and buffers of a state, and ``parts`` into the head: rows, or one.

    Raises:
        ModelError: Tensors are missing, unexpected or of another shape (all named).
    """
    prefix, own = f"model.{len(model.model) - 1}.", parts[0].tensors
    if state.head == "rows":
        for part in parts:
            _require_rows(model.model[-1], part, rules)
        own = join_rows(parts)
    tensors = {**state.shared, **state.buffers, **{prefix + k: v for k, v in own.items()}}
    require_fit(tensors, model.state_dict(), f"tensors do not fit {state.architecture}")
    model.load_state_dict(tensors)


def _require_rows(head: nn.Module, part: HeadPart, rules: EngineRules) -> None:
    mine, count = rules.own_pattern("rows"), len(part.classes)
    expected = {name: rows[:count] for name, rows in head.state_dict().items() if mine.match(name)}
    require_fit(part.tensors, expected, f"the head part of '{part.increment}' does not fit")


def load_part(head: nn.Module, part: HeadPart, own: re.Pattern[str]) -> None:
    """Load an increment's part into a head; ``own`` matches the names of its tensors.

    Raises:
        ModelError: As `load_stock`.
    """
    stock = head.state_dict()
    expected = {name: tensor for name, tensor in stock.items() if own.match(name)}
    require_fit(part.tensors, expected, f"the head part of '{part.increment}' does not fit")
    head.load_state_dict({**stock, **part.tensors})


OLD_PLACES = {"old_towers": "cv3.", "old_one2one_towers": "one2one_cv3.", "old_heads": ""}
"""Attributes of a training head that hold old parts -> where their tensors are in a stock head."""


def read_back(model: nn.Module, start: DetectorState, rules: EngineRules) -> DetectorState:
    """Read the state back from a trained model, float32 on the CPU; old parts as trained along."""
    tensors = plain_tensors(model)
    prefix = head_prefix(tensors)
    stock = {k: v for k, v in tensors.items() if not k.startswith(f"{prefix}old_")}
    roles, own = rules.split_roles(stock, start.head), rules.own_pattern(start.head)

    def old_part(index: int) -> HeadPart:
        part, found = start.parts[index], {}
        for attribute, local in OLD_PLACES.items():
            place = f"{prefix}{attribute}.{index}."
            for name in (name for name in tensors if name.startswith(place)):
                found[local + name.removeprefix(place)] = tensors[name]
        kept = {name: tensor for name, tensor in found.items() if own.match(name)}
        return replace(part, tensors=kept or part.tensors)  # none if it did not run

    if start.head == "rows":
        parts = cut_rows(roles.own, start.parts)
    else:
        old = (old_part(index) for index in range(len(start.parts) - 1))
        parts = (*old, replace(start.parts[-1], tensors=roles.own))
    return replace(start, shared=roles.shared, buffers=roles.buffers, parts=parts)


def set_classes(model: Any, names: Sequence[str]) -> None:
    """Tell a model the names and the number of its classes."""
    model.names = dict(enumerate(names))
    model.nc = model.yaml["nc"] = len(names)
