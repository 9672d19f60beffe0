"""Tensors of engines' modules."""

from __future__ import annotations

from torch import nn

from duet.errors import ModelError, together
from duet.text import printable
from duet.vectors.tensors import Tensors


def plain_tensors(model: nn.Module) -> Tensors:
    """Return copies of a module's tensors on the CPU, floats as float32."""
    return {
        k: v.detach().float().cpu().clone() if v.is_floating_point() else v.cpu().clone()
        for k, v in model.state_dict().items()
    }


def require_fit(tensors: Tensors, expected: Tensors, summary: str) -> None:
    """Raise unless names, shapes and data types agree.

    Raises:
        ModelError: They do not.
    """
    problems = [f"missing: {name}" for name in expected.keys() - tensors.keys()]
    problems += [f"unexpected: {printable(name)}" for name in tensors.keys() - expected.keys()]
    for name in expected.keys() & tensors.keys():
        got, wanted = tensors[name], expected[name]
        if got.shape != wanted.shape:
            problems.append(f"{name}: got {tuple(got.shape)}, expected {tuple(wanted.shape)}")
        elif got.dtype != wanted.dtype:
            problems.append(f"{name}: got {got.dtype}, expected {wanted.dtype}")
    if problems:
        raise ModelError(
            together(sorted(problems), summary=summary),
            remedy="the file belongs to another architecture, is damaged, or was written with "
            "another version of the engine",
        )
