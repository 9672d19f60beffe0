"""How the task vectors of several stages relate, tensor by tensor: the facts of a `MergeTrace`."""

from __future__ import annotations

import torch

from duet.merging.chunks import Scratch, Span
from duet.merging.inputs import Inputs
from duet.merging.trace import Notes, TensorTrace
from duet.vectors.similarity import cosine_of


def compare(inputs: Inputs, notes: Notes) -> dict[str, TensorTrace]:
    """Return norms, cosine and sign conflicts of the stages in every tensor, with the coefficients.

    Norms and cosine are of the first and the last stage, accumulated in float64; a sign conflict
    is a scalar that one stage moves up and another one down. Without θ_0 nobody knows who moved
    where: changes are counted from the first stage, so that its own norm is 0 and the last one's
    is their distance; cosine and sign conflicts were not measured.
    """
    measured = inputs.start is not None

    def work(name: str, scratch: Scratch) -> TensorTrace:
        sums = torch.zeros(6, dtype=torch.float64)
        for span in inputs.pieces(name):
            sums += _sums(inputs, span, scratch)
        l1_old, l1_new, dot, square_old, square_new, conflicts = sums.tolist()
        size, values = inputs.sizes[name], dict(notes.tensors.get(name, {}))
        return TensorTrace(
            scalars=size,
            alpha=values.pop("alpha", None),
            p=values.pop("p", None),
            norm_old=l1_old,
            norm_new=l1_new,
            cosine=cosine_of(dot, square_old, square_new) if measured else None,
            sign_conflict=(conflicts / size if size else 0.0) if measured else None,
            values=values,
        )

    return inputs.each_tensor(work)


def _sums(inputs: Inputs, span: Span, scratch: Scratch) -> torch.Tensor:
    base = inputs.theta_0(span, scratch)
    if inputs.start is None:
        base = scratch("first", len(span)).copy_(
            inputs.stages[0].theta(span, base, scratch("tau", len(span)))
        )
    # Signs by the largest and the smallest: a product of two small floats underflows to zero.
    high, low = scratch("high", len(span)), scratch("low", len(span))
    taus = inputs.each_tau(span, base, scratch)
    first = last = scratch("old", len(span)).copy_(next(taus))
    high.copy_(first)
    low.copy_(first)
    for last in taus:
        torch.maximum(high, last, out=high)
        torch.minimum(low, last, out=low)
    old, new = first.double(), last.double()
    conflicts = torch.count_nonzero((high > 0) & (low < 0))
    return torch.stack(
        [old.abs().sum(), new.abs().sum(), (old * new).sum(), old.square().sum(),
         new.square().sum(), conflicts.double()]
    )  # fmt: skip
