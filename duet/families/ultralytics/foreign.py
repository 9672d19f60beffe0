"""Detectors that duet did not train: Ultralytics' own `.pt` files, read through the guarded door.

The network in the file is never made: its tensors move into a detector that duet builds from the
engine's architecture file, and both must agree layer by layer. What duet merges is thus what the
file computes, also where another version of the engine wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duet.errors import ModelError
from duet.families.tensors import require_fit
from duet.families.ultralytics.agreement import require_same_network
from duet.families.ultralytics.checkpoint import (
    Checkpoint,
    class_names,
    facts,
    float_tensors,
    open_checkpoint,
)
from duet.families.ultralytics.family import UltralyticsFamily
from duet.families.ultralytics.recognise import require_architecture
from duet.files import sha256_file
from duet.increments.state import DetectorState, HeadForm, HeadPart
from duet.vectors.tensors import Tensors


@dataclass(frozen=True)
class Kind:
    """How a family knows its own among the engine's networks.

    Attributes:
        require: ``require(checkpoint)`` refuses networks of another kind.
        architecture: ``architecture(checkpoint)`` names what a network was built from.
        file_of: Finds the description of an architecture.
        own: Matches an increment's own tensors, named relative to the head.
        stock: ``stock(architecture, classes, tensors)`` builds such a network anew.
    """

    require: Callable[[Checkpoint], None]
    architecture: Callable[[Checkpoint], str]
    file_of: Callable[[str], Path]
    own: re.Pattern[str]
    stock: Callable[[str, int, Tensors], Any]


def read_detector(
    family: UltralyticsFamily, kind: Kind, path: Path, *, name: str, head: HeadForm, trust: bool
) -> tuple[DetectorState, dict[str, Any]]:
    """Read a detector of one increment, and what its file says about itself.

    Args:
        family: Whose detector it is.
        kind: See `Kind`.
        path: A detection `.pt` file of Ultralytics.
        name: Name that its classes get as an increment.
        head: Head form of the result.
        trust: **Dangerous**, see `duet.increments.guard.load_pt`.

    Returns:
        The state, and facts as in `duet.families.ultralytics.checkpoint.facts`, with `sha256` and
        `licence`.

    Raises:
        ModelError: The file is damaged, refused, fused or not finite; it holds a network of another
            kind, an unknown architecture, or unusable class names; or this version of the engine
            builds another network from its architecture.
        MissingExtraError: Ultralytics is not installed.
    """
    checkpoint = open_checkpoint(path, trust=trust)
    where = checkpoint.where
    kind.require(checkpoint)
    tensors, classes = float_tensors(checkpoint), class_names(checkpoint)
    architecture = kind.architecture(checkpoint)
    try:
        require_architecture(tensors, architecture, kind.file_of(architecture), kind.own)
        roles = family.rules.split_roles(tensors, head)
        _require_rows(roles.own, len(classes))
        stock = kind.stock(architecture, len(classes), tensors)
        require_fit(tensors, stock.state_dict(), f"tensors do not fit {architecture}")
    except ModelError as error:
        raise ModelError(error.what, where=where, remedy=error.remedy) from error
    part = HeadPart(classes, roles.own, name)
    state = DetectorState(family.name, architecture, head, roles.shared, roles.buffers, (part,))
    require_same_network(checkpoint.network, stock, architecture=architecture, where=where)
    return state, {**facts(checkpoint), "sha256": sha256_file(path), "licence": family.licence}


def _require_rows(own: Tensors, classes: int) -> None:
    """Refuse a class list that the head has no rows for, before such a head is built.

    Raises:
        ModelError: No tensor of the head has a row for each class.
    """
    rows = {tensor.shape[0] for tensor in own.values() if tensor.ndim}
    if classes not in rows:
        raise ModelError(
            f"the file names {classes} classes, but its head has no rows for them",
            remedy="the file is damaged, or its class list belongs to another model",
        )
