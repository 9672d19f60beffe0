"""Detectors that duet did not train: Ultralytics' own `.pt` files, read through the guarded door.

The network in the file is never made: its tensors move into a detector that duet builds from the
engine's architecture file, and both must agree layer by layer. What duet merges is thus what the
file computes, also where another version of the engine wrote it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from duet.errors import ModelError
from duet.families.tensors import require_fit
from duet.families.ultralytics.agreement import require_same_network
from duet.families.ultralytics.checkpoint import Checkpoint
from duet.families.ultralytics.names import EngineRules
from duet.increments.forms import HeadForm
from duet.increments.state import HeadPart
from duet.vectors.tensors import Tensors


@dataclass(frozen=True)
class Kind:
    """How a family knows its own among the engine's networks.

    Attributes:
        owns: Tells whether a head, by the name of its class, may be one of the family's.
        require: ``require(checkpoint)`` refuses networks of another kind.
        said: ``said(checkpoint)`` returns what a file says that its architecture is; any text.
        parts: ``parts(checkpoint, architecture, part, head)`` splits the head part of a file that
            duet exported into those of its increments.
        stock: ``stock(architecture, parts)`` builds such a network anew.
    """

    owns: Callable[[str], bool]
    require: Callable[[Checkpoint], None]
    said: Callable[[Checkpoint], str]
    parts: Callable[[Checkpoint, str, HeadPart, HeadForm], tuple[HeadPart, ...]]
    stock: Callable[[str, tuple[HeadPart, ...]], Any]


def agreed_parts(
    kind: Kind,
    checkpoint: Checkpoint,
    tensors: Tensors,
    architecture: str,
    part: HeadPart,
    head: HeadForm,
) -> tuple[HeadPart, ...]:
    """Return the head parts of a file whose network is what duet builds of them.

    Raises:
        ModelError: It is not; the first difference is named.
    """
    _require_rows(part.tensors, len(part.classes))
    parts = kind.parts(checkpoint, architecture, part, head)
    stock = kind.stock(architecture, parts)
    require_fit(tensors, stock.state_dict(), f"tensors do not fit {architecture}")
    require_same_network(
        checkpoint.network, stock, architecture=architecture, where=checkpoint.where
    )
    return parts


def candidates(rules: EngineRules, said: str) -> list[str]:
    """Return the names of all architectures, the one that a file says first if there is such."""
    known = list(rules.known_architectures())
    with contextlib.suppress(ModelError):
        rules.architecture_file(said)
        known = [said, *(name for name in known if name != said)]
    return known


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
