"""Head parts that share classes become one: rows paired by class name, all else by its tensor.

A head part is merged as the shared tensors are, by the method of the recipe. What training started
from is known for tensors that θ_0 has in the same shape and for rows of classes that it knows by
name; for all else there is no task vector, and a method that needs one makes its mean instead.
Docs: `docs/merging.md`, "The same classes in several models".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from duet.aliases import match_classes
from duet.config import parse_config
from duet.errors import ModelError
from duet.families.rows import join_rows, require_rows
from duet.families.table import class_rows, resolve_roles
from duet.increments.base import StartWeights
from duet.increments.scores import ScoreMap
from duet.increments.state import HeadPart
from duet.merging.batchnorm import BatchNormFusion, fuse_buffers, is_statistic
from duet.merging.inputs import Inputs
from duet.merging.layers import Layer
from duet.merging.operand import Operand
from duet.merging.shared import merge_shared
from duet.merging.table import METHODS
from duet.merging.trace import MergeTrace
from duet.merging.weights import normalised
from duet.recipes.pairing import Head
from duet.recipes.plan import Plan
from duet.recipes.sources import Opened, Source, open_source
from duet.vectors.tensors import Tensors
from duet.weights.start import Start

Allocate = Callable[[str, Mapping[str, torch.Size]], dict[str, torch.Tensor]]
"""``allocate(purpose, shapes)``: float32 memory for a result, such as a mapped file."""

_NOTHING = StartWeights({})


@dataclass(frozen=True)
class Joint:
    """The parts that become one.

    Attributes:
        head: Classes and members.
        parts: Of each source that takes part.
        rows: Names of the tensors with one row per class.
        start: What their training started from: own tensors of θ_0 and its classes; may be empty.
    """

    head: Head
    parts: tuple[HeadPart, ...]
    rows: frozenset[str]
    start: StartWeights = _NOTHING

    @property
    def statistics(self) -> list[str]:
        """Names of BatchNorm statistics, counters and other buffers."""
        tensors = self.parts[0].tensors.items()
        return [n for n, t in tensors if is_statistic(n) or not t.is_floating_point()]

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shapes of the joined part's parameters."""
        count, buffers = len(self.head.classes), set(self.statistics)
        return {
            name: torch.Size((count, *tensor.shape[1:])) if name in self.rows else tensor.shape
            for name, tensor in self.parts[0].tensors.items()
            if name not in buffers
        }

    def known(self) -> dict[str, str]:
        """Return the classes whose rows training took from the start: name to name there."""
        start, first = self.start, self.parts[0].tensors
        fits = all(
            name in start.tensors
            and start.tensors[name].shape == (len(start.classes), *first[name].shape[1:])
            for name in self.rows
        )
        return match_classes(self.head.classes, start.classes) if fits and start.classes else {}


@dataclass(frozen=True)
class Block:
    """What is merged at once: tensors and rows of the same owners with the same start.

    Attributes:
        owners: Positions in `Joint.parts`.
        classes: Classes whose rows belong to it.
        whole: Tensors without rows.
        base: Task vectors count from the start; else there are none.
    """

    owners: tuple[int, ...]
    classes: tuple[str, ...]
    whole: tuple[str, ...]
    base: bool


# ---- what is joined -----------------------------------------------------------------------------


def head_layout(
    plan: Plan, opened: Sequence[Opened]
) -> list[dict[str, tuple[torch.dtype, torch.Size]]]:
    """Return dtype and shape of the tensors of every head part of the result.

    Raises:
        ModelError: Parts that share classes have other tensors or shapes than each other.
    """
    layouts = []
    for head in plan.heads:
        shapes = _joint(plan, head, opened).shapes if head.joined else {}
        number, place = head.members[0]
        first = opened[number].parts[place].tensors
        layouts.append({name: (t.dtype, shapes.get(name, t.shape)) for name, t in first.items()})
    return layouts


def rehearse_heads(plan: Plan) -> None:
    """Look whether head parts that share classes fit together; for dry runs.

    Raises:
        ModelError: As `join_heads`.
    """
    needed = {number for head in plan.heads if head.joined for number in head.owners}
    if needed:
        opened = {k: open_source(plan.sources[k]) for k in needed}
        for head in plan.heads:
            if head.joined:
                _joint(plan, head, opened)


def _joint(plan: Plan, head: Head, opened: Mapping[int, Opened] | Sequence[Opened]) -> Joint:
    """Collect the parts of a head, one per source, and compare their tensors."""
    first = plan.sources[0]
    parts = []
    for number in head.owners:
        own = [opened[k].parts[place] for k, place in head.members if k == number]
        parts.append(own[0] if len(own) == 1 else _side_by_side(own))
    rows = class_rows(resolve_roles(first.family), first.head, parts[0].tensors)
    for number, part in zip(head.owners, parts, strict=True):
        _require_alike(plan.sources[head.owners[0]], parts[0], plan.sources[number], part, rows)
    return Joint(head, tuple(parts), rows)


def _side_by_side(own: Sequence[HeadPart]) -> HeadPart:
    """Return the parts of one source as one, row under row."""
    classes = tuple(name for part in own for name in part.classes)
    scores = {name: one for part in own for name, one in part.scores.items()}
    colours = own[0].colours if len({part.colours for part in own}) == 1 else None
    return replace(own[0], classes=classes, tensors=join_rows(own), scores=scores, colours=colours)


def _require_alike(
    one: Source, a: HeadPart, other: Source, b: HeadPart, rows: frozenset[str]
) -> None:
    """Refuse parts whose tensors differ in more than their number of rows."""
    require_rows(b, {name: tensor for name, tensor in b.tensors.items() if name in rows})
    shapes = [
        {n: tuple(t.shape[1:] if n in rows else t.shape) for n, t in part.tensors.items()}
        for part in (a, b)
    ]
    if shapes[0] == shapes[1]:
        return
    name = sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())[0]
    shared = next((name for name in b.classes if name in a.classes), b.classes[0])
    raise ModelError(
        f"'{one.name}' and '{other.name}' share classes, but their head parts cannot be merged: "
        f"'{name}' is {_shape(a, name)} and {_shape(b, name)}",
        where=other.entry.path,
        remedy="let each model keep its own head part: --keep-apart, or one owner for the shared "
        f"classes: --drop or --alias them in one model, such as '{other.name}:{shared}'",
    )


def _shape(part: HeadPart, name: str) -> str:
    return str(tuple(part.tensors[name].shape)) if name in part.tensors else "missing"


# ---- joining ------------------------------------------------------------------------------------


def join_heads(
    plan: Plan, opened: Sequence[Opened], allocate: Allocate
) -> tuple[tuple[HeadPart, ...], tuple[MergeTrace, ...]]:
    """Return the head parts of a merge of independent models, and what joining them did.

    A part that shares no class is handed through. Equal parts give themselves back, to the bit
    where the method gives equal shared tensors back.

    Args:
        plan: Checked plan in the independent geometry.
        opened: Its sources.
        allocate: Memory for joined parts.

    Raises:
        ModelError: Parts differ in their tensors or cannot be merged, see `merge_shared`.
    """
    parts, traces = list[HeadPart](), list[MergeTrace]()
    start: StartWeights | None = None
    for index, head in enumerate(plan.heads):
        number, place = head.members[0]
        if not head.joined:
            parts.append(opened[number].parts[place])
            continue
        start = start or _start(plan)
        joint = replace(_joint(plan, head, opened), start=start)
        part, told = _merged(plan, joint, allocate(f"head {index}", joint.shapes))
        parts.append(part)
        traces += told
    return tuple(parts), tuple(traces)


def _start(plan: Plan) -> StartWeights:
    """Return θ_0's own head tensors and the classes that it knows.

    Empty where θ_0 is not given, and where increments started from another head than θ_0's.
    """
    first, path = plan.sources[0], plan.recipe.weights
    if plan.ancestor is not None or path is None:
        return _NOTHING
    start = Start(Path(path), first.family)
    own = resolve_roles(first.family).split_roles(start.tensors, first.head).own
    return StartWeights(own, start.classes)


def _merged(
    plan: Plan, joint: Joint, out: dict[str, torch.Tensor]
) -> tuple[HeadPart, list[MergeTrace]]:
    """Merge the blocks of a part into ``out``, and its statistics like those of shared layers."""
    names, first = [plan.sources[k].name for k in joint.head.owners], joint.parts[0]
    owned = dict(zip(names, (part.classes for part in joint.parts), strict=True))
    traces: list[MergeTrace] = []
    for block in _blocks(joint):
        places = [joint.head.classes.index(name) for name in block.classes]
        if len(block.owners) == 1:
            for name, rows in _rows(joint, joint.parts[block.owners[0]], block.classes).items():
                out[name][places] = rows
            continue
        trace, merged = _merge_block(plan, joint, block, out)
        for name in joint.rows if places else ():
            out[name][places] = merged[name]
        traces.append(replace(trace, part=first.increment, classes=owned))
    fusion = _fusion(plan, joint.head.owners)
    images = [plan.sources[k].images for k in joint.head.owners]
    fused = fuse_buffers(
        [{name: part.tensors[name] for name in joint.statistics} for part in joint.parts],
        fusion,
        images,
    )
    tensors = {name: out[name] if name in out else fused[name] for name in first.tensors}
    return HeadPart(joint.head.classes, tensors, first.increment, _agreed(joint)), traces


def _agreed(joint: Joint) -> dict[str, ScoreMap]:
    """Return the score maps that all owners of a class share; rows of several maps have none."""
    agreed = {}
    for name in joint.head.classes:
        first, *others = [part.scores.get(name) for part in joint.parts if name in part.classes]
        if first is not None and all(one == first for one in others):
            agreed[name] = first
    return agreed


def _blocks(joint: Joint) -> list[Block]:
    """Sort rows by their owners, and rows and tensors by whether the start knows them."""
    known, start = joint.known(), joint.start.tensors
    everyone = tuple(range(len(joint.parts)))
    classes: dict[tuple[tuple[int, ...], bool], list[str]] = {}
    for name in joint.head.classes:
        owners = tuple(k for k in everyone if name in joint.parts[k].classes)
        classes.setdefault((owners, name in known and len(owners) > 1), []).append(name)
    whole: dict[tuple[tuple[int, ...], bool], list[str]] = {}
    for name, shape in joint.shapes.items():
        if name not in joint.rows:
            met = name in start and start[name].shape == shape
            whole.setdefault((everyone, met), []).append(name)
    return [
        Block(owners, tuple(classes.get(key, ())), tuple(whole.get(key, ())), base)
        for key in dict.fromkeys((*whole, *classes))
        for owners, base in (key,)
    ]


def _rows(joint: Joint, part: HeadPart, classes: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the rows of some classes of a part."""
    places = [part.classes.index(name) for name in classes]
    # In the order of the part's tensors: that of a set changes from process to process.
    own = {name: tensor for name, tensor in part.tensors.items() if name in joint.rows}
    return {name: tensor[places] for name, tensor in own.items()} if classes else {}


def _merge_block(
    plan: Plan, joint: Joint, block: Block, out: Tensors
) -> tuple[MergeTrace, Tensors]:
    """Merge one block; whole tensors are written into ``out``, rows are only returned."""
    numbers = [joint.head.owners[k] for k in block.owners]
    stages, sources = [], [plan.sources[k] for k in numbers]
    for source, k in zip(sources, block.owners, strict=True):
        part = joint.parts[k]
        tensors = {name: part.tensors[name] for name in block.whole}
        tensors |= _rows(joint, part, block.classes)
        scale = source.entry.scale if block.base else 1.0
        stages.append(Operand(source.name, weights=tensors, scale=scale, images=source.images))
    base = None
    if block.base:
        start, known = joint.start, joint.known()
        base = {name: start.tensors[name] for name in block.whole}
        places = [start.classes.index(known[name]) for name in block.classes]
        base |= {name: start.tensors[name][places] for name in joint.rows if places}
    rows = {n: torch.empty_like(t) for n, t in stages[0].tensors.items() if n in joint.rows}
    target = {name: out[name] for name in block.whole} | rows
    layers = {name: Layer("head", 1.0) for name in target}
    method, params = _method(plan, numbers, base=block.base)
    merged = merge_shared(
        method, params, Inputs(tuple(stages), start=base, layers=layers),
        buffers=[{} for _ in stages], out=target,
    )  # fmt: skip
    return replace(merged.trace, batchnorm={}), merged.tensors


# ---- by which rule ------------------------------------------------------------------------------


def _method(plan: Plan, numbers: Sequence[int], *, base: bool) -> tuple[str, dict[str, Any]]:
    """Return the method of a block and its parameters: the recipe's, or the mean that it makes.

    The mean takes the place of methods that need what heads do not have: task vectors where the
    start is not known, Fisher information, or a training on images.
    """
    recipe = plan.recipe
    row, places = METHODS[recipe.method], _places(plan, numbers)
    params = dict(recipe.params)
    given = params.get("weights")
    if isinstance(given, Sequence) and not isinstance(given, str):
        normalised(given, len(plan.merged), f"merge '{row.name}'")
        params["weights"] = [given[k] for k in places]
    if base and not {"fisher", "images"} & {*row.needs}:
        return row.name, params
    return without_task_vectors(row.name, params, len(places))


def without_task_vectors(
    method: str, params: Mapping[str, Any], count: int
) -> tuple[str, dict[str, Any]]:
    """Return a method and its parameters for tensors of which no start is known.

    That is the method itself, or the mean in place of one that needs task vectors, Fisher
    information, or a training on images.

    Args:
        method: Name in `duet.merging.METHODS`.
        params: Its parameters.
        count: Models that it joins.
    """
    row = METHODS[method]
    if not {"start", "fisher", "images"} & {*row.needs}:
        return method, dict(params)
    settings = parse_config(row.params, dict(params), where=f"parameters of '{method}'")
    alpha = getattr(settings, "alpha_base", None)
    return "average", {} if alpha is None else {"weights": _folded(alpha, count)}


def _folded(alpha: float, count: int) -> list[float]:
    """Return the weights of models that are folded one after another, each time ``alpha`` old."""
    late = [(1 - alpha) * alpha ** (count - 1 - k) for k in range(1, count)]
    return [alpha ** (count - 1), *late]


def _places(plan: Plan, numbers: Sequence[int]) -> list[int]:
    """Return positions among the models that the method joins, for weights by position."""
    base = plan.ancestor
    return [k - (base is not None and base < k) for k in numbers]


def _fusion(plan: Plan, numbers: Sequence[int]) -> BatchNormFusion:
    """Return the rule for statistics, with the weights of some sources."""
    fusion = plan.recipe.batchnorm
    if isinstance(fusion.weights, str):
        return fusion
    normalised(fusion.weights, len(plan.sources), "BatchNorm fusion")
    return fusion.model_copy(update={"weights": tuple(fusion.weights[k] for k in numbers)})
