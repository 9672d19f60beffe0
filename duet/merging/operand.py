"""One model to merge, read in pieces: as weights θ_k or as a task vector τ_k = θ_k - θ_0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from duet.errors import ModelError
from duet.merging.chunks import Span
from duet.vectors.task_vector import Correction
from duet.vectors.tensors import Tensors


@dataclass(frozen=True)
class Operand:
    """Either ``weights`` or ``vector`` is given; tensors may be memory-mapped files.

    Attributes:
        name: Increment or model, shown in errors and traces, and the seed of random methods.
        weights: θ_k, float32.
        vector: τ_k, float32.
        correction: The scalars that θ_0 + τ_k rounds (`TaskVector.correction`).
        origin: The θ_0 that ``vector`` belongs to, where the merge starts from another model.
        scale: The stage counts as centre + scale · (θ_k - centre).
        centre: Weights around which ``scale`` shrinks or stretches; default θ_0 of the merge.
        images: Training images, for `weights: images`; 0: not known.
        increments: How many increments it holds, for `weights: uniform`.
        fisher: Diagonal Fisher of the parameters, float32 >= 0, for `fisher`.
    """

    name: str
    weights: Tensors | None = None
    vector: Tensors | None = None
    correction: Mapping[str, Correction] = field(default_factory=dict)
    origin: Tensors | None = None
    scale: float = 1.0
    centre: Tensors | None = None
    images: int = 0
    increments: int = 1
    fisher: Tensors | None = None

    def __post_init__(self) -> None:
        if (self.weights is None) == (self.vector is None):
            raise ModelError("give either weights or a task vector", where=f"stage '{self.name}'")

    @property
    def tensors(self) -> Tensors:
        """The tensors that are stored: weights or vector."""
        stored = self.weights if self.weights is not None else self.vector
        assert stored is not None
        return stored

    @property
    def is_stored(self) -> bool:
        """Whether `tau` is a view of ``vector``, which leads from θ_0 of the merge to θ_k."""
        plain = self.centre is None and self.origin is None and self.scale == 1
        return self.vector is not None and plain

    @cached_property
    def _flat(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().reshape(-1) for name, tensor in self.tensors.items()}

    def tau(self, span: Span, base: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
        """Return what the stage adds to θ_0 in a piece: a view, or computed into ``scratch``.

        Args:
            span: The piece.
            base: θ_0 of the piece, float32; not read where τ_k is stored.
            scratch: float32 of the piece's size.
        """
        if self.centre is not None:
            return torch.sub(self.theta(span, base, scratch), base, out=scratch)
        tau = self._flat[span.name][span.lo : span.hi]
        if self.vector is None or self.origin is not None:
            tau = torch.sub(self._trained(span, base, scratch), base, out=scratch)
        return tau if self.scale == 1 else torch.mul(tau, self.scale, out=scratch)

    def theta(self, span: Span, base: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
        """Return the weights of the stage in a piece, exact to the bit at scale 1.

        Args and result as in `tau`.
        """
        theta = self._trained(span, base, scratch)
        if self.scale == 1:
            return theta
        centre = base if self.centre is None else span.of(self.centre)
        return torch.sub(theta, centre, out=scratch).mul_(self.scale).add_(centre)

    def _trained(self, span: Span, base: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
        stored = self._flat[span.name][span.lo : span.hi]
        if self.weights is not None:
            return stored
        origin = base if self.origin is None else span.of(self.origin)
        theta = torch.add(origin, stored, out=scratch)  # a float16 origin is upcast exactly
        fix = self.correction.get(span.name)
        if fix is not None:
            first, last = torch.searchsorted(fix.indices, torch.tensor([span.lo, span.hi])).tolist()
            theta[fix.indices[first:last] - span.lo] = fix.values[first:last]
        return theta
