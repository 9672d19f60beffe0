"""Newest: no merge; the last stage bit for bit (sequential fine-tuning, the lower control)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duet.config import Config
from duet.merging.trace import Notes

if TYPE_CHECKING:
    from duet.merging.chunks import Scratch, Span
    from duet.merging.inputs import Inputs
    from duet.vectors.tensors import Tensors


class Params(Config):
    """The method has no parameters."""


def merge(inputs: Inputs, params: Params, out: Tensors) -> Notes:
    """Write theta_K into ``out``."""
    newest = inputs.stages[-1]

    def work(span: Span, scratch: Scratch) -> None:
        base = inputs.theta_0(span, scratch)
        span.of(out).copy_(newest.theta(span, base, scratch("theta", len(span))))

    inputs.each_span(work)
    alpha = 1.0 if len(inputs.stages) == 1 else 0.0  # a single stage is both oldest and newest
    return Notes({name: {"alpha": alpha} for name in inputs.shapes})
