"""Tensors of engines' modules, and what their names tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from duet.errors import ModelError, together
from duet.families.protocol import Roles
from duet.merging.layers import Layer, Role
from duet.text import printable
from duet.vectors.tensors import Tensors


def plain_tensors(model: nn.Module) -> Tensors:
    """Return copies of a module's tensors on the CPU in the default order, floats as float32."""
    copied = {
        k: v.detach().float().cpu() if v.is_floating_point() else v.cpu()
        for k, v in model.state_dict().items()
    }
    return {k: v.clone(memory_format=torch.contiguous_format) for k, v in copied.items()}


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


def split_tensors(
    tensors: Tensors, role_of: Callable[[str], str], *, prefix: str = "", remedy: str
) -> Roles:
    """Give every tensor of a one-increment detector one role, told by its name.

    Args:
        tensors: The detector.
        role_of: Returns ``shared``, ``buffers`` or ``own`` of a name; else what is wrong with it.
        prefix: What own tensors lose from their names.
        remedy: Of the error.

    Raises:
        ModelError: A tensor has another role (all are named), or none is an increment's own.
    """
    found: dict[str, dict[str, torch.Tensor]] = {"shared": {}, "buffers": {}, "own": {}}
    problems = []
    for name, tensor in tensors.items():
        role = role_of(name)
        if role in found:
            found[role][name.removeprefix(prefix) if role == "own" else name] = tensor
        else:
            problems.append(f"{name} {tuple(tensor.shape)} has {role}")
    if problems or not found["own"]:
        raise ModelError(
            together(
                sorted(problems) or ["there are no class rows"],
                summary="tensors that duet does not know how to merge",
            ),
            remedy=remedy,
        )
    return Roles(**found)


def place_tensors(
    names: Iterable[str],
    place: Callable[[str], tuple[Role, int] | None],
    *,
    count: int,
    architecture: str,
) -> dict[str, Layer]:
    """Return where each tensor sits: its part of the detector, and its depth.

    Args:
        names: Of the tensors.
        place: Returns role and layer, from 0, that a name tells; None if it tells none.
        count: Number of layers.
        architecture: For the message.

    Raises:
        ModelError: A tensor lies outside of the architecture.
    """
    places = {name: place(name) for name in names}
    inside = {name: at for name, at in places.items() if at is not None and at[1] < count}
    if outside := sorted(places.keys() - inside.keys()):
        raise ModelError(
            together(outside, summary=f"tensors outside the {count} layers"),
            where=architecture,
            remedy="the tensors belong to another architecture",
        )
    return {name: Layer(role, layer / (count - 1)) for name, (role, layer) in inside.items()}
