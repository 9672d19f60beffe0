"""A stage whose task vector lost scalars at random (DARE)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields

import numpy as np
import torch

from duet.merging.chunks import Span
from duet.merging.operand import Operand

BLOCK = 1 << 16
"""Scalars per random stream, whatever the pieces of a merge: part of what a seed means."""


@dataclass(frozen=True)
class DroppedStage(Operand):
    """A stage whose τ_k is multiplied by a mask of zeros and 1 / (1 - drop).

    The mask is a function of the seed, the names of stage and tensor, and the position, so that a
    method may read a piece as often, in parts and on as many threads as it likes.

    Attributes:
        whole: The stage before dropping.
        drop: Probability of a zero, in [0, 1).
        seed: Any integer.
    """

    whole: Operand = field(kw_only=True)
    drop: float = 0.0
    seed: int = 0

    @classmethod
    def of_stage(cls, stage: Operand, *, drop: float, seed: int) -> DroppedStage:
        """Return ``stage`` with dropout."""
        given = {item.name: getattr(stage, item.name) for item in fields(Operand)}
        return cls(**given, whole=stage, drop=drop, seed=seed)

    def tau(self, span: Span, base: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
        """Return the masked τ_k of a piece; args as in `Operand.tau`."""
        tau = self.whole.tau(span, base, scratch)
        if not self.drop:
            return tau
        for lo in range(span.lo - span.lo % BLOCK, span.hi, BLOCK):
            first, last = max(lo, span.lo), min(lo + BLOCK, span.hi)
            mask = torch.from_numpy(self._mask(span.name, lo, last - lo)[first - lo :])
            part = slice(first - span.lo, last - span.lo)
            torch.mul(tau[part], mask, out=scratch[part])
        return scratch

    def theta(self, span: Span, base: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
        """Return θ_0 + the masked τ_k of a piece; args as in `Operand.tau`."""
        return torch.add(base, self.tau(span, base, scratch), out=scratch)

    def _mask(self, tensor: str, start: int, count: int) -> np.ndarray:
        """Return the float32 factors of ``count`` scalars from the start of a block."""
        name = json.dumps([self.seed, self.name, tensor, start]).encode()
        stream = np.random.SFC64(int.from_bytes(hashlib.sha256(name).digest(), "big"))
        # The raw stream is the part of numpy's generators that stays the same in all versions.
        raw = stream.random_raw((count + 1) // 2).astype("<u8", copy=False).view("<u4")[:count]
        kept = raw >= np.uint32(round(self.drop * 2**32))
        return np.multiply(kept, np.float32(1 / (1 - self.drop)), dtype=np.float32)
