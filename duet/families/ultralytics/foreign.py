"""Detectors that duet did not train: Ultralytics' own `.pt` files, read through the guarded door.

The network in the file is never made: its tensors move into a detector that duet builds from the
engine's architecture file, and both must agree layer by layer. What duet merges is thus what the
file computes, also where another version of the engine wrote it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duet.errors import ModelError
from duet.families.opened import ForeignModel
from duet.families.parts import PartsFamily
from duet.families.tensors import require_fit
from duet.families.ultralytics.agreement import require_same_network
from duet.families.ultralytics.checkpoint import (
    Checkpoint,
    class_names,
    facts,
    float_tensors,
    open_checkpoint,
)
from duet.families.ultralytics.recognise import architectures_of, unknown
from duet.increments.state import DetectorState, HeadForm, HeadPart
from duet.vectors.tensors import Tensors


@dataclass(frozen=True)
class Kind:
    """How a family knows its own among the engine's networks.

    Attributes:
        require: ``require(checkpoint)`` refuses networks of another kind.
        said: ``said(checkpoint)`` returns what a file says that its architecture is; any text.
        known: ``known()`` yields the architectures that there are.
        file_of: Finds the description of an architecture.
        own: Matches an increment's own tensors, named relative to the head.
        parts: ``parts(checkpoint, architecture, part, head)`` splits the head part of a file that
            duet exported into those of its increments.
        stock: ``stock(architecture, parts)`` builds such a network anew.
    """

    require: Callable[[Checkpoint], None]
    said: Callable[[Checkpoint], str]
    known: Callable[[], Iterable[str]]
    file_of: Callable[[str], Path]
    own: re.Pattern[str]
    parts: Callable[[Checkpoint, str, HeadPart, HeadForm], tuple[HeadPart, ...]]
    stock: Callable[[str, tuple[HeadPart, ...]], Any]


def read_detector(
    family: PartsFamily, kind: Kind, model: ForeignModel, *, name: str, head: HeadForm,
    architecture: str | None,
) -> tuple[DetectorState, dict[str, Any]]:  # fmt: skip
    """Read a detector, and what its file says about itself.

    Its architecture is the one that builds its tensors and agrees with it layer by layer; what the
    file calls itself decides nothing, only what is tried first.

    Args:
        family: Whose detector it is.
        kind: See `Kind`.
        model: A detection `.pt` file of Ultralytics, or one that duet exported.
        name: Name that its classes get as an increment, unless it is an export of several.
        head: Head form of the result.
        architecture: The only one to try; None: all that there are.

    Returns:
        The state, and facts as in `duet.families.ultralytics.checkpoint.facts`, with `sha256` and
        `licence`.

    Raises:
        ModelError: The file is damaged, refused, fused or not finite, or holds a network of another
            kind or unusable class names; or no architecture builds its network (the nearest and
            the first difference are named).
        MissingExtraError: Ultralytics is not installed.
    """
    checkpoint = model.once(open_checkpoint)
    kind.require(checkpoint)
    tensors, classes = float_tensors(checkpoint), class_names(checkpoint)
    candidates = [architecture] if architecture else _candidates(kind, kind.said(checkpoint))
    refused: ModelError | None = None
    for found in architectures_of(tensors, candidates, kind.file_of, kind.own):
        try:
            roles = family.rules.split_roles(tensors, head)
            part = HeadPart(classes, roles.own, name)
            parts = _agreed_parts(kind, checkpoint, tensors, found, part, head)
        except ModelError as error:
            refused = refused or ModelError(error.what, where=checkpoint.where, remedy=error.remedy)
            continue
        state = DetectorState(family.name, found, head, roles.shared, roles.buffers, parts)
        return state, {
            **facts(checkpoint),
            "sha256": model.fingerprint,
            "licence": family.licence,
        }
    raise refused or unknown(
        checkpoint.network, tensors, candidates, kind.file_of, kind.own, where=checkpoint.where
    )


def _agreed_parts(
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


def _candidates(kind: Kind, said: str) -> list[str]:
    """Return the names of all architectures, the one that a file says first if there is such."""
    known = list(kind.known())
    with contextlib.suppress(ModelError):
        kind.file_of(said)
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
