"""Rows of known classes that an increment refined: cut out, put back, and joined with those before.

With a trunk that stays, and head parts that stay, an increment of known classes trains nothing but
their class rows. Nothing else can depend on them, so nothing else is merged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from duet.errors import ModelError
from duet.families.rows import drop_classes
from duet.families.table import class_rows, resolve_roles
from duet.increments.scores import ScoreMap, chosen
from duet.increments.state import DetectorState, HeadPart
from duet.merging.inputs import Inputs
from duet.merging.layers import Layer
from duet.merging.operand import Operand
from duet.merging.shared import merge_shared
from duet.recipes.heads import without_task_vectors
from duet.recipes.plan import Plan
from duet.recipes.sources import REFINEMENT
from duet.vectors.tensors import Tensors


def cut_to(state: DetectorState, classes: Collection[str]) -> DetectorState:
    """Return the detector of some classes: their rows, and whatever these read, bit for bit.

    Raises:
        ModelError: It knows none of them.
    """
    rules, parts = resolve_roles(state.family), []
    for part in state.parts:
        kept = drop_classes(rules, part, [name for name in part.classes if name not in classes])
        if kept is not None:
            parts.append(kept)
    return replace(state, parts=tuple(parts))


def rows_of(state: DetectorState, classes: Sequence[str], name: str) -> HeadPart:
    """Return the class rows of some classes, wherever in the head parts they are.

    Args:
        state: A detector that knows them.
        classes: In the order that the rows shall have.
        name: Of the increment that they shall belong to.

    Raises:
        ModelError: They read class towers of different widths, so that no tensor can hold them.
    """
    rules, own = resolve_roles(state.family), state.parts[0].tensors
    rows = _stacked(state.parts, classes, class_rows(rules, state.head, own), name)
    return HeadPart(tuple(classes), rows, name, chosen(state.scores, classes))


def grown(
    plan: Plan, number: int, parts: tuple[HeadPart, ...], own: tuple[HeadPart, ...]
) -> tuple[HeadPart, ...]:
    """Return the head parts of a chain after one more source.

    Args:
        plan: Checked plan in the sequential geometry.
        number: Position of the source.
        parts: Before it.
        own: Its parts, or the rows of a refinement.
    """
    source, recipe = plan.sources[number], plan.recipe
    if source.kind != REFINEMENT:
        return (*parts, *own)
    images = (sum(one.images for one in plan.sources[:number]), source.images)
    for rows in own:
        parts = refined(
            parts, rows, recipe.method, recipe.params, images=images, scale=source.entry.scale
        )
    return parts


def refined(
    parts: Sequence[HeadPart], rows: HeadPart, method: str, params: Mapping[str, Any], *,
    images: tuple[int, int], scale: float = 1.0,
) -> tuple[HeadPart, ...]:  # fmt: skip
    """Return head parts whose rows of some classes are joined with refined ones.

    They are joined by the method of the merge, which takes them as it takes rows of a class in
    several models that have no task vector (`docs/merging.md`). `newest` gives the refined ones.

    Args:
        parts: Before the refinement; everything in them but these rows stays bit for bit.
        rows: Class rows and nothing else; those of classes that no part has are passed over.
        method: Name in `duet.merging.METHODS`.
        params: Its parameters.
        images: Seen before and in the refinement, for `weights: images`.
        scale: The rows count as before + scale · (rows - before).
    """
    known = [name for part in parts for name in part.classes]
    classes = [name for name in rows.classes if name in known]
    if not classes:
        return tuple(parts)
    before = _stacked(parts, classes, rows.tensors, rows.increment)
    after = _stacked([rows], classes, rows.tensors, rows.increment)
    stages = (
        Operand("(before)", weights=before, images=images[0]),
        Operand(rows.increment, weights=after, scale=scale, centre=before, images=images[1]),
    )
    chosen, settings = without_task_vectors(method, params, 2)
    layers = {name: Layer("head", 1.0) for name in before}
    merged = merge_shared(
        chosen, settings, Inputs(stages, layers=layers), buffers=[{}, {}], images=images
    ).tensors
    return tuple(_with_rows(part, classes, merged, rows.scores) for part in parts)


def _with_rows(
    part: HeadPart, classes: Sequence[str], rows: Tensors, scores: Mapping[str, ScoreMap]
) -> HeadPart:
    """Return a part with its rows of some classes replaced, and their score maps where given.

    It is the part itself if it has none of these classes.
    """
    pairs = [(part.classes.index(n), k) for k, n in enumerate(classes) if n in part.classes]
    if not pairs:
        return part
    there, here = map(list, zip(*pairs, strict=True))
    tensors = {name: part.tensors[name].detach().clone() for name in rows}
    for name, tensor in tensors.items():
        tensor[there] = rows[name][here]
    maps = {**part.scores, **chosen(scores, part.classes)}
    return replace(part, tensors={**part.tensors, **tensors}, scores=maps)


def _stacked(
    parts: Sequence[HeadPart], classes: Sequence[str], names: Collection[str], where: str
) -> dict[str, torch.Tensor]:
    """Return the rows of some classes as ``(classes, ...)`` tensors of their own."""
    owner = {name: part for part in parts for name in part.classes}
    stacked = {}
    for name in names:
        rows = [owner[one].tensors[name][owner[one].classes.index(one)] for one in classes]
        if len({row.shape for row in rows}) > 1:
            widths = ", ".join(f"{c}: {len(r)}" for c, r in zip(classes, rows, strict=True))
            raise ModelError(
                f"its classes read class towers of different widths ({widths} channels)",
                where=f"increment '{where}'",
                remedy="split it: an increment for the classes of each width",
            )
        stacked[name] = torch.stack(rows).detach()
    return stacked
