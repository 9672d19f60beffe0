"""What a merge starts from: θ_0, the stages, and where each tensor sits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch

from duet.errors import ModelError
from duet.merging.chunks import CHUNK, Listen, Scratch, Span, each, spans
from duet.merging.layers import Layer
from duet.merging.operand import Operand
from duet.vectors.tensors import Tensors, require_finite, require_same_layout

HELD = 1 << 23
"""Scalars of all stages that the workers of a merge hold together: 32 MB."""
SMALLEST = 1 << 13
"""Scalars per piece below which calls cost more than their work."""

Result = TypeVar("Result")
Objective = Callable[[Tensors, int], torch.Tensor]
"""``objective(parameters, step)``: a scalar to minimise, differentiable in the parameters."""


@dataclass(frozen=True)
class Inputs:
    """Only trainable shared tensors: statistics and counters are fused elsewhere.

    Attributes:
        stages: One or more models, oldest first.
        start: θ_0, float32 or float16 (upcast piece by piece); None where no method needs it.
        layers: Place of each tensor, for settings by role or depth.
        threads: At most this many; 0 = one per core.
        listen: Progress, see `duet.merging.chunks.each`.
        objective: For methods that learn from unlabelled images.
    """

    stages: tuple[Operand, ...]
    start: Tensors | None = None
    layers: Mapping[str, Layer] = field(default_factory=dict)
    threads: int = 0
    listen: Listen | None = None
    objective: Objective | None = None

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Shape of every tensor to merge."""
        first = self.start if self.start is not None else self.stages[0].tensors
        return {name: tensor.shape for name, tensor in first.items()}

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Scalars of every tensor."""
        return {name: shape.numel() for name, shape in self.shapes.items()}

    @cached_property
    def _flat_start(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().reshape(-1) for name, tensor in (self.start or {}).items()}

    def theta_0(self, span: Span, scratch: Scratch) -> torch.Tensor:
        """Return θ_0 of a piece as float32; meaningless zeros where there is no base."""
        if self.start is None:
            return scratch("no base", len(span)).zero_()
        piece = self._flat_start[span.name][span.lo : span.hi]
        if piece.dtype == torch.float32:
            return piece
        return scratch("base", len(span)).copy_(piece)

    def taus(self, span: Span, base: torch.Tensor, scratch: Scratch) -> list[torch.Tensor]:
        """Return τ_k of a piece for every stage; do not write into them."""
        count = len(span)
        return [
            stage.tau(span, base, scratch(f"tau {k}", count)) for k, stage in enumerate(self.stages)
        ]

    def each_tau(self, span: Span, base: torch.Tensor, scratch: Scratch) -> Iterator[torch.Tensor]:
        """Yield τ_k of a piece for every stage, in memory that the next one may overwrite."""
        for stage in self.stages:
            yield stage.tau(span, base, scratch("tau", len(span)))

    def by_name(self) -> Inputs:
        """Return the inputs with the stages sorted by name, for sums that ignore their order."""
        return replace(self, stages=tuple(sorted(self.stages, key=lambda stage: stage.name)))

    def pieces(self, name: str, chunk: int | None = None) -> list[Span]:
        """Return the pieces of one tensor."""
        return spans({name: self.sizes[name]}, chunk or CHUNK)

    def each_span(self, work: Callable[[Span, Scratch], Any], chunk: int = CHUNK) -> list[Any]:
        """Call ``work(span, scratch)`` on every piece; results in order."""
        return each(
            spans(self.sizes, chunk), work, size=len, threads=self.threads, listen=self.listen
        )

    def each_span_of_all(self, work: Callable[[Span, Scratch], Any]) -> list[Any]:
        """As `each_span`, for work that holds all stages of a piece in scratch memory.

        Pieces are larger than elsewhere, as threads would wait for each other in so many
        operations, but all workers together hold no more than `HELD` scalars, however many stages
        and threads there are.
        """
        stages = max(len(self.stages), 4)
        most = max(HELD // (stages * SMALLEST), 1)
        threads = min(self.threads or os.cpu_count() or 1, most)
        chunk = max(min((1 << 20) // stages, HELD // (stages * threads)), SMALLEST)
        return replace(self, threads=threads).each_span(work, chunk)

    def each_tensor(self, work: Callable[[str, Scratch], Result]) -> dict[str, Result]:
        """Call ``work(name, scratch)`` on every tensor; results by name."""
        names = list(self.sizes)
        results = each(
            names, work, size=self.sizes.__getitem__, threads=self.threads, listen=self.listen
        )
        return dict(zip(names, results, strict=True))


def require_mergeable(inputs: Inputs, *, method: str) -> None:
    """Refuse inputs that no method can merge.

    Raises:
        ModelError: No stages, tensors that differ in layout, that are not float32, or that hold
            NaN or infinity.
    """
    if not inputs.stages:
        raise ModelError("got 0 stages, expected one or more", where=f"merge '{method}'")
    doubled = [stage.name for stage in inputs.stages]
    if len(set(doubled)) != len(doubled):
        raise ModelError(f"stages occur twice: {', '.join(doubled)}", where=f"merge '{method}'")
    first = inputs.stages[0].tensors
    if inputs.start is not None:
        first = {name: _as_float32(tensor) for name, tensor in inputs.start.items()}
        require_finite(inputs.start, f"merge '{method}', base")
    wrong = sorted(name for name, tensor in first.items() if tensor.dtype != torch.float32)
    if wrong:
        raise ModelError(
            f"only float32 parameters can be merged, got {first[wrong[0]].dtype} in '{wrong[0]}' "
            f"({len(wrong)} tensor(s) in all)",
            where=f"merge '{method}'",
            remedy="keep counters and BatchNorm statistics out: fuse_buffers merges them",
        )
    for stage in inputs.stages:
        place = f"merge '{method}', stage '{stage.name}'"
        require_same_layout(first, stage.tensors, place)
        require_finite(stage.tensors, place)


def _as_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Return a float16 tensor's shape as float32, without memory; others as they are."""
    return tensor.to("meta", torch.float32) if tensor.dtype == torch.float16 else tensor
