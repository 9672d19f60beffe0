"""One whole merge: parameters by a method, BatchNorm by a rule, and the trace of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from duet.config import parse_config
from duet.errors import ModelError
from duet.merging.batchnorm import BatchNormFusion, fuse_buffers
from duet.merging.compare import compare
from duet.merging.inputs import Inputs, Objective, require_mergeable
from duet.merging.table import MergeMethod, resolve
from duet.merging.trace import MergeTrace
from duet.vectors.tensors import Tensors, require_finite

SO_FAR = "(merged so far)"
"""Name of the first stage where a chain is folded: what was merged before the second one."""


@dataclass(frozen=True)
class Merged:
    """The shared part after a merge.

    Attributes:
        tensors: Trainable tensors, float32.
        buffers: BatchNorm statistics and counters.
        trace: What the merge did.
    """

    tensors: Tensors
    buffers: dict[str, torch.Tensor]
    trace: MergeTrace


def merge_shared(
    method: str,
    params: Mapping[str, Any],
    inputs: Inputs,
    *,
    buffers: Sequence[Tensors],
    fusion: BatchNormFusion | None = None,
    images: Sequence[int] | None = None,
    objective: Callable[[Tensors], Objective] | None = None,
    out: Tensors | None = None,
) -> Merged:
    """Merge the shared part of several stages.

    Args:
        method: Name in `duet.merging.METHODS`.
        params: Parameters of the method; missing ones take their defaults.
        inputs: θ_0 and the stages, oldest first; only trainable shared tensors.
        buffers: Buffers of the shared layers, one mapping per model that the statistics describe.
        fusion: How buffers are fused; the default is a uniform mixture.
        images: Images behind each entry of ``buffers``, for `weights: images`.
        objective: Makes what the method learns from, once the buffers are fused.
        out: float32 tensors to write into, such as a memory-mapped file; default new memory.
            They must not be inputs as well.

    Raises:
        ConfigError: The method or one of its parameters is not known or out of range.
        ModelError: The stages cannot be merged, lack what the method needs, or the result is not
            finite.
    """
    row = resolve(method)
    settings = parse_config(row.params, dict(params), where=f"parameters of '{method}'")
    fusion = fusion or BatchNormFusion()
    weights = fusion.weights_for(len(buffers), images)
    require_mergeable(inputs, method=method)
    fused = fuse_buffers(buffers, fusion, images)
    if objective is not None:
        inputs = replace(inputs, objective=objective(fused))
    require_needs(row, inputs)
    out = out or {name: torch.empty(shape) for name, shape in inputs.shapes.items()}
    notes = row.merge(inputs, settings, out)
    require_finite(out, f"merge '{method}', result")
    trace = MergeTrace(
        method=method,
        params=settings.model_dump(mode="json"),
        tensors=compare(inputs, notes),
        batchnorm={"rule": fusion.rule, "weights": list(weights)},
        stages=tuple(stage.name for stage in inputs.stages),
        facts=dict(notes.facts),
    )
    return Merged(out, fused, trace)


def require_needs(method: MergeMethod, inputs: Inputs) -> None:
    """Refuse a merge that lacks something its method needs.

    Raises:
        ModelError: Names what is missing, of which stage.
    """
    where = f"merge '{method.name}'"
    if "start" in method.needs and inputs.start is None:
        raise ModelError(
            "the method adds task vectors to the start weights θ_0, which are not given",
            where=where,
            remedy="give --weights FILE, or choose a method without θ_0, such as 'average'",
        )
    lost = [s.name for s in inputs.stages if s.vector is not None and s.origin is None]
    if lost and inputs.start is None:
        raise ModelError(
            f"task vectors need the start weights θ_0, which are not given: {', '.join(lost)}",
            where=where,
            remedy="give --weights FILE",
        )
    without = [stage.name for stage in inputs.stages if stage.fisher is None]
    if "fisher" in method.needs and without:
        raise ModelError(
            f"no Fisher information is kept in: {', '.join(without)}",
            where=where,
            remedy="give the commands that learned them again, with --fisher-images 128: what they "
            "trained stays, the Fisher is added; or choose another method",
        )
    if "images" in method.needs and inputs.objective is None:
        raise ModelError(
            "the method learns from unlabelled images, and none are given",
            where=where,
            remedy="give --images FOLDER",
        )
