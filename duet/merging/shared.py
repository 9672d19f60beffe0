"""One whole merge: parameters by a method, BatchNorm by a rule, and the trace of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from duet.config import parse_config
from duet.errors import ModelError
from duet.merging.batchnorm import BatchNormFusion, fuse_buffers
from duet.merging.methods import resolve
from duet.merging.trace import MergeTrace

if TYPE_CHECKING:
    import torch

    from duet.vectors import Tensors


@dataclass(frozen=True)
class Merged:
    """The shared part after a merge.

    Attributes:
        tensors: Trainable tensors, float32.
        buffers: BatchNorm statistics and counters.
        trace: What the merge did.
    """

    tensors: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]
    trace: MergeTrace


def merge_shared(
    method: str,
    params: Mapping[str, Any],
    *,
    base: Tensors,
    stages: Sequence[Tensors],
    buffers: Sequence[Tensors],
    fusion: BatchNormFusion | None = None,
    images: Sequence[int] | None = None,
) -> Merged:
    """Merge the shared part of several stages.

    Args:
        method: Name in `duet.merging.METHODS`.
        params: Parameters of the method; missing ones take their defaults.
        base: theta_0, float32, only trainable shared tensors.
        stages: theta of each stage, oldest first.
        buffers: Buffers of the shared layers of each stage, in the same order.
        fusion: How buffers are fused; the default is a uniform mixture.
        images: Images that each stage saw, for `weights: images`.

    Raises:
        ConfigError: The method or one of its parameters is not known or out of range.
        ModelError: The stages cannot be merged.
    """
    if len(buffers) != len(stages):
        raise ModelError(f"got buffers of {len(buffers)} stages, expected {len(stages)}")
    row = resolve(method)
    settings = parse_config(row.params, dict(params), where=f"parameters of '{method}'")
    fusion = fusion or BatchNormFusion()
    weights = fusion.weights_for(len(stages), images)
    tensors, traces = row.merge(base, stages, settings)
    return Merged(
        tensors=tensors,
        buffers=fuse_buffers(buffers, weights, rule=fusion.rule),
        trace=MergeTrace(
            method=method,
            params=settings.model_dump(mode="json"),
            tensors=traces,
            batchnorm={"rule": fusion.rule, "weights": list(weights)},
        ),
    )
