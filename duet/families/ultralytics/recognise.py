"""Which of the engine's architectures some tensors belong to, told by names and shapes alone."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from duet.errors import DuetError
from duet.families.tensors import require_fit
from duet.families.ultralytics.engine import prepare
from duet.families.ultralytics.names import description, head_prefix, layer_counts
from duet.vectors.tensors import Tensors

Shapes = Mapping[str, tuple[int, ...]]


def architecture_of(
    tensors: Tensors,
    candidates: Iterable[str],
    file_of: Callable[[str], Path],
    own: re.Pattern[str],
) -> str | None:
    """Return the architecture that builds just these tensors; None if none does.

    Classes decide neither: the tensors that belong to an increment are not compared. Networks are
    laid out without memory.

    Args:
        tensors: State of a detector in the engine's names.
        candidates: Names of architectures, the likely ones first.
        file_of: Finds the description of an architecture.
        own: Matches an increment's own tensors, named relative to the head.
    """
    try:
        prefix = head_prefix(tensors)
    except DuetError:
        return None
    wanted = _shapes(_of_all(tensors, prefix, own))
    for name in candidates:
        file = file_of(name)
        if f"model.{layer_counts(file)[1] - 1}." != prefix:
            continue
        described = description(file, name)
        if not _may_begin(described, wanted):
            continue
        if _shapes(_of_all(_laid_out(described), prefix, own)) == wanted:
            return name
    return None


def require_architecture(
    tensors: Tensors, architecture: str, file: Path, own: re.Pattern[str]
) -> None:
    """Refuse tensors that an architecture does not build, before any memory goes into building it.

    Args:
        tensors: State of a detector in the engine's names.
        architecture: Name of the architecture.
        file: Its description.
        own: See `architecture_of`; these tensors are not compared.

    Raises:
        ModelError: Tensors are missing, unexpected or of another shape (all named).
    """
    prefix = f"model.{layer_counts(file)[1] - 1}."
    expected = _laid_out(description(file, architecture))
    require_fit(
        _of_all(tensors, prefix, own), _of_all(expected, prefix, own),
        f"tensors do not fit {architecture}",
    )  # fmt: skip


def _of_all(tensors: Tensors, prefix: str, own: re.Pattern[str]) -> Tensors:
    """Return the tensors that do not belong to an increment."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not (name.startswith(prefix) and own.match(name.removeprefix(prefix)))
    }


def _shapes(tensors: Tensors) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _may_begin(described: Mapping[str, Any], wanted: Shapes) -> bool:
    """Tell whether the first convolution has the right width: laying out takes half a second."""
    first, scales = described["backbone"][0], described.get("scales") or {}
    found = wanted.get("model.0.conv.weight")
    if found is None or first[2] != "Conv":
        return True
    _, width, most = scales.get(described["scale"]) or next(
        iter(scales.values()), (1, described.get("width_multiple", 1.0), float("inf"))
    )
    return bool(found[0] == -(-min(first[3][0], most) * width // 8) * 8)


def _laid_out(described: Mapping[str, Any]) -> Tensors:
    """Return the tensors of an architecture, on torch's meta device: shapes without numbers."""
    prepare()
    from ultralytics.nn.tasks import parse_model

    with torch.device("meta"):
        layers, _ = parse_model(copy.deepcopy(dict(described)), ch=3, verbose=False)
    return {f"model.{name}": tensor for name, tensor in layers.state_dict().items()}
