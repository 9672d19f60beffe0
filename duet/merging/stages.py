"""What every merge method shares: the check of its inputs and the comparison of two stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from duet.errors import ModelError
from duet.merging.trace import TensorTrace
from duet.vectors.similarity import cosine_of
from duet.vectors.tensors import Tensors, require_finite, require_same_layout


@dataclass(frozen=True)
class Pair:
    """Facts about tau_old and tau_new of one tensor, accumulated in float64.

    Attributes:
        scalars: Number of scalars.
        norm_old: l1 norm of tau_old = theta_old - theta_0.
        norm_new: l1 norm of tau_new = theta_new - theta_0.
        norm_sum: l1 norm of tau_old + tau_new.
        cosine: Cosine of the two.
        sign_conflict: Share of scalars with a negative product of signs.
    """

    scalars: int
    norm_old: float
    norm_new: float
    norm_sum: float
    cosine: float
    sign_conflict: float

    def trace(self, *, alpha: float, p: float | None = None) -> TensorTrace:
        """Return the trace of a merge with weight ``alpha`` on the old stage."""
        return TensorTrace(
            scalars=self.scalars,
            alpha=alpha,
            p=p,
            norm_old=self.norm_old,
            norm_new=self.norm_new,
            cosine=self.cosine,
            sign_conflict=self.sign_conflict,
        )


def compare(theta_0: torch.Tensor, theta_old: torch.Tensor, theta_new: torch.Tensor) -> Pair:
    """Compare the task vectors of two stages in one tensor (any shape, float32).

    The differences are taken in float64, where they are exact for all but extreme exponents and
    never overflow.
    """
    origin = theta_0.detach().double()
    old, new = theta_old.detach().double() - origin, theta_new.detach().double() - origin
    scalars = old.numel()
    conflicts = int((old.sign() * new.sign() < 0).sum())
    return Pair(
        scalars=scalars,
        norm_old=float(old.abs().sum()),
        norm_new=float(new.abs().sum()),
        norm_sum=float((old + new).abs().sum()),
        cosine=cosine_of(
            float((old * new).sum()), float(old.square().sum()), float(new.square().sum())
        ),
        sign_conflict=conflicts / scalars if scalars else 0.0,
    )


def require_stages(
    base: Tensors, stages: Sequence[Tensors], *, method: str, exactly: int | None = None
) -> None:
    """Refuse inputs that no method can merge.

    Raises:
        ModelError: No stages or the wrong number of them, tensors that differ in layout from the
            base, that are not float32, or that hold NaN or infinity.
    """
    if not stages or (exactly is not None and len(stages) != exactly):
        expected = exactly if exactly is not None else "one or more"
        raise ModelError(
            f"got {len(stages)} stages, expected {expected}",
            where=f"merge '{method}'",
            remedy="merge the previous merged model with the newly trained one, or choose a "
            "method for any number of stages, such as 'average'",
        )
    wrong = sorted(name for name, tensor in base.items() if tensor.dtype != torch.float32)
    if wrong:
        raise ModelError(
            f"only float32 parameters can be merged, got {base[wrong[0]].dtype} in '{wrong[0]}' "
            f"({len(wrong)} tensor(s) in all)",
            where=f"merge '{method}'",
            remedy="keep counters and BatchNorm statistics out: fuse_buffers merges them",
        )
    require_finite(base, f"merge '{method}', base")
    for number, stage in enumerate(stages, start=1):
        place = f"merge '{method}', stage {number} of {len(stages)}"
        require_same_layout(base, stage, place)
        require_finite(stage, place)
