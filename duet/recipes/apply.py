"""Doing a planned merge: fold a chain of increments, or join independent ones at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from duet.errors import ModelError
from duet.families.table import resolve_roles
from duet.increments.fisher import sum_fishers
from duet.increments.state import DetectorState, HeadPart, rescored
from duet.merging.chunks import Listen
from duet.merging.inputs import Inputs, Objective
from duet.merging.methods import newest
from duet.merging.operand import Operand
from duet.merging.shared import SO_FAR, merge_shared
from duet.merging.table import METHODS
from duet.merging.trace import MergeTrace
from duet.merging.weights import together
from duet.recipes.descent import base_of, require_descent, stranger
from duet.recipes.heads import Allocate, join_heads, rehearse_heads
from duet.recipes.plan import Plan, require_weights
from duet.recipes.refined import grown
from duet.recipes.sources import REFINEMENT, Opened, open_source
from duet.vectors.similarity import cosine
from duet.vectors.tensors import Tensors, fingerprint
from duet.weights.start import Start

COMMON = 0.5
"""Smallest cosine of convolution weights for models of one start; see `docs/merging.md`."""

MakeObjective = Callable[[DetectorState], Objective]
"""From the detector with fused statistics (its shared tensors do not matter) to an objective."""


@dataclass(frozen=True)
class Remerged:
    """A detector that was merged again.

    Attributes:
        state: The detector; its tensors may be memory-mapped files.
        traces: One per merge of shared tensors; then of head parts that share classes.
        remarks: What a user should know before relying on the result.
    """

    state: DetectorState
    traces: tuple[MergeTrace, ...]
    remarks: tuple[str, ...]


def in_memory(purpose: str, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Allocate plain memory."""
    return {name: torch.empty(shape) for name, shape in shapes.items()}


def merge_plan(
    plan: Plan,
    *,
    opened: Sequence[Opened] | None = None,
    theta_0: Tensors | None = None,
    allocate: Allocate = in_memory,
    make_objective: MakeObjective | None = None,
    listen: Listen | None = None,
) -> Remerged:
    """Merge what a plan names.

    Args:
        plan: Checked plan.
        opened: Its sources, if they are open already.
        theta_0: What `start_tensors` returned for it, if it was asked already.
        allocate: Where results go; ``"result"`` is the detector, other purposes are temporary.
        make_objective: For methods that learn from unlabelled images.
        listen: Progress of each merge.

    Raises:
        ModelError: Files are damaged, θ_0 is missing or another one, or the merge is impossible.
    """
    if opened is None:
        opened = tuple(open_source(source) for source in plan.sources)
    first = plan.sources[0]
    like = opened[0].stage.tensors
    layers = resolve_roles(first.family).layers(like, first.architecture)
    start = start_tensors(plan) if theta_0 is None else theta_0
    inputs = Inputs((), start=start, layers=layers, listen=listen)
    if plan.geometry == "sequential":
        result = _fold(plan, opened, inputs, allocate, make_objective)
    else:
        parts, traces = join_heads(plan, opened, allocate)
        result = _join(plan, opened, inputs, parts, allocate, make_objective)
        result = replace(result, traces=(*result.traces, *traces))
    return replace(result, remarks=(*plan.remarks, *result.remarks))


def start_tensors(plan: Plan) -> Tensors | None:
    """Return θ_0's shared tensors, and make sure they are the ones that increments belong to.

    Raises:
        ModelError: θ_0 is needed and not given, or not the right one.
    """
    require_weights(plan)
    if plan.recipe.weights is None:
        _require_unscaled(plan)
        return None
    first = plan.sources[0]
    start = Start(Path(plan.recipe.weights), first.family)
    shared = start.shared(first.head)
    expected = {source.base for source in plan.sources if source.base is not None}
    if expected and (got := start.fingerprint(first.head)) not in expected:
        raise ModelError(
            f"the increments belong to other start weights: got fingerprint {got}, expected "
            f"{next(iter(expected))}",
            where=plan.recipe.weights,
            remedy="give the start weights that the increments were trained from",
        )
    return shared


def rehearse(plan: Plan, theta_0: Tensors | None) -> None:
    """Look whether increments belong to their base and head parts fit together; for dry runs.

    Args:
        plan: Checked plan.
        theta_0: What `start_tensors` returned for it.

    Raises:
        ModelError: As `merge_plan`.
    """
    rehearse_heads(plan)
    if (number := base_of(plan)) is None or len(plan.sources) == 1:
        return
    base = open_source(plan.sources[number])
    inputs = Inputs((base.stage,), start=theta_0)
    shared = in_memory("base", inputs.shapes)
    _weights_of(base.stage, inputs, shared)
    require_descent(plan, base, shared)


def _require_unscaled(plan: Plan) -> None:
    """Refuse factors that would shrink whole weights, not what training changed of them."""
    folded = plan.geometry == "sequential"
    for source in plan.sources[:1] if folded else plan.sources:
        if source.entry.scale != 1:
            raise ModelError(
                f"scale {source.entry.scale:g} counts from the start weights θ_0, which are not "
                "given",
                where=source.name,
                remedy="give --weights FILE, or leave the scale at 1",
            )


def _fold(
    plan: Plan, opened: Sequence[Opened], inputs: Inputs, allocate: Allocate,
    make_objective: MakeObjective | None,
) -> Remerged:  # fmt: skip
    """Merge each increment with the result of those before it, as they were learned."""
    first = opened[0]
    inputs = replace(inputs, stages=(first.stage,))
    last = max(k for k, source in enumerate(plan.sources) if source.kind != REFINEMENT)
    shared = allocate("result" if last == 0 else "fold 0", inputs.shapes)
    _weights_of(first.stage, inputs, shared)
    require_descent(plan, first, shared)
    fused, parts = first.buffers, first.parts
    traces, remarks = [], []
    for number, item in enumerate(opened[1:], start=1):
        source = plan.sources[number]
        if number > 1:
            found = stranger(plan, opened[: number + 1], shared, fused)
            remarks += [found] if found else []
        parts = grown(plan, number, parts, item.parts if item.refit is None else (item.refit,))
        parts = rescored(parts, item.rescored)
        if source.kind == REFINEMENT:  # all else stays
            continue
        seen = together([one.images for one in plan.sources[:number]])
        previous = Operand(
            SO_FAR, weights=shared, fisher=_known(plan, opened[:number]), images=seen,
            increments=number,
        )  # fmt: skip
        stage = replace(item.stage, centre=shared)
        buffers, images = (fused, item.buffers), (seen, source.images)
        fusion = plan.recipe.batchnorm.with_one_more(number)
        objective = _objective(plan, make_objective, shared, parts)
        shared = allocate("result" if number == last else f"fold {number}", inputs.shapes)
        merged = merge_shared(
            plan.recipe.method, plan.recipe.params, replace(inputs, stages=(previous, stage)),
            buffers=buffers, fusion=fusion, images=images, objective=objective, out=shared,
        )  # fmt: skip
        traces.append(merged.trace)
        fused = merged.buffers
        if item.refit is not None and item.refit_on != fingerprint(shared):
            remarks.append(
                f"'{source.name}' was re-fit on other merged weights; its re-fit head part is used "
                "all the same"
            )
    return Remerged(plan.state(shared, fused, parts), tuple(traces), tuple(remarks))


def _known(plan: Plan, opened: Sequence[Opened]) -> Tensors | None:
    """Return the Fisher of the merge so far, if the method wants it."""
    if "fisher" not in METHODS[plan.recipe.method].needs:
        return None
    return sum_fishers([item.stage.fisher for item in opened], opened[0].stage.tensors)


def _join(
    plan: Plan, opened: Sequence[Opened], inputs: Inputs, parts: tuple[HeadPart, ...],
    allocate: Allocate, make_objective: MakeObjective | None,
) -> Remerged:  # fmt: skip
    """Merge all increments at once, from θ_0 or from the increment that they all started from."""
    stages = tuple(item.stage for item in opened)
    inputs = replace(inputs, stages=stages)
    if plan.ancestor is not None:
        ancestor = allocate("ancestor", inputs.shapes)
        _weights_of(stages[plan.ancestor], inputs, ancestor)
        require_descent(plan, opened[plan.ancestor], ancestor)
        rest = [stage for number, stage in enumerate(stages) if number != plan.ancestor]
        moved = tuple(replace(stage, origin=inputs.start) for stage in rest)
        inputs = replace(inputs, stages=moved, start=ancestor)
    buffers = tuple(item.buffers for item in opened)
    images = tuple(source.images for source in plan.sources)
    shared = allocate("result", inputs.shapes)
    objective = _objective(plan, make_objective, opened[0].stage.tensors, parts)
    merged = merge_shared(
        plan.recipe.method, plan.recipe.params, inputs, buffers=buffers,
        fusion=plan.recipe.batchnorm, images=images, objective=objective, out=shared,
    )  # fmt: skip
    state = plan.state(shared, merged.buffers, parts)
    return Remerged(state, (merged.trace,), tuple(_strangers(opened, inputs)))


def _objective(
    plan: Plan, make: MakeObjective | None, shared: Tensors, parts: tuple[HeadPart, ...]
) -> Callable[[Tensors], Objective] | None:
    """Return what makes the objective on unlabelled images from fused statistics."""
    return None if make is None else lambda fused: make(plan.state(shared, fused, parts))


def _weights_of(stage: Operand, inputs: Inputs, out: dict[str, torch.Tensor]) -> None:
    """Write the weights of one stage, bit for bit."""
    newest.merge(replace(inputs, stages=(stage,)), newest.Params(), out)


def _angle(a: Tensors, b: Tensors) -> float:
    """Return the cosine of the convolutions; constants, equal in every detector, do not count."""
    kernels = [
        name
        for name, tensor in b.items()
        if tensor.ndim == 4 and name in a and not torch.equal(a[name].float(), tensor)
    ]
    if not kernels:
        return 1.0
    return cosine({name: a[name].float() for name in kernels}, {name: b[name] for name in kernels})


def _strangers(opened: Sequence[Opened], inputs: Inputs) -> list[str]:
    """Warn of whole models that do not descend from one start: their mean is no detector.

    Weights that were trained from one start stay close to it in angle; those of independent starts
    are orthogonal. Increments need no check, because their fingerprints prove where they are from.
    """
    whole = [item for item in opened if item.stage.vector is None]
    if not whole:
        return []
    against: list[tuple[str, Tensors]] = [(item.stage.name, item.stage.tensors) for item in whole]
    if inputs.start is not None:
        against = [("θ_0", inputs.start), *against]
    (reference, tensors), *others = against
    remarks = []
    for name, other in others:
        angle = _angle(tensors, other)
        if angle < COMMON:
            remarks.append(
                f"'{name}' and {reference} do not seem to come from the same start weights (cosine "
                f"of their convolutions {angle:.2f}): a merge of such models usually detects "
                "nothing; fine-tune both from one base"
            )
    if inputs.start is None and len(whole) > 1 and not remarks:
        remarks.append(
            "no start weights were given, so that the models descend from one base was judged by "
            "their angle alone; --weights FILE proves nothing more but allows every method"
        )
    return remarks
