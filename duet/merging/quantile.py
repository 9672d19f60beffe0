"""The exact k-th smallest magnitude of a task vector, without a copy of the vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from duet.merging.chunks import Scratch, Span, each, spans
from duet.merging.inputs import Inputs

_LARGEST = 0x7F800000  # bits of infinity: no finite magnitude has larger ones
_SAMPLES = 1 << 18
_GATHER = 1 << 22
"""At most this many candidates are copied (16 MB)."""


def kth_magnitude(inputs: Inputs, stage: int, names: Sequence[str], rank: int) -> float:
    """Return the ``rank``-th smallest |τ| (1-based) over the tensors ``names``, exactly.

    The bits of nonnegative floats sort like the floats. A sample brackets the answer; one pass
    counts the magnitudes below the bracket and copies those inside, and the answer is picked from
    them. A bracket that misses, or holds too many, is replaced by a smaller one that cannot.

    Args:
        inputs: The stages.
        stage: Index of the stage.
        names: Tensors that count as one vector of d scalars.
        rank: 1 to d.
    """
    sizes = {name: inputs.sizes[name] for name in names}
    low, high = 0, _LARGEST
    bracket = _bracket(_sample(inputs, stage, sizes), rank, sum(sizes.values()))
    while True:
        first, last = bracket
        below, inside, candidates = _count(inputs, stage, sizes, first, last)
        if rank <= below:
            high = first - 1
        elif rank > below + inside:
            low = last + 1
        elif first == last:
            return _magnitude(first)
        elif candidates is not None:
            index = rank - below - 1
            return _magnitude(int(np.partition(candidates, index)[index]))
        else:
            low, high = first, last
        # Any half of what is left: at most 31 passes, for vectors with millions of equal scalars.
        bracket = low, (low + high) // 2


def _magnitude(bits: int) -> float:
    return float(np.int32(bits).view(np.float32))


def _bits(inputs: Inputs, stage: int, span: Span, scratch: Scratch) -> np.ndarray:
    """Return the magnitudes of a piece as int32 bits, in scratch memory."""
    base = inputs.theta_0(span, scratch)
    tau = inputs.stages[stage].tau(span, base, scratch("tau", len(span)))
    target = scratch("bits", len(span), torch.int32).numpy()
    np.bitwise_and(tau.numpy().view(np.int32), 0x7FFFFFFF, out=target)
    return target


def _sample(inputs: Inputs, stage: int, sizes: dict[str, int]) -> np.ndarray:
    """Return the sorted bits of short runs spread over the vector."""
    share = min(1.0, _SAMPLES / max(sum(sizes.values()), 1))
    scratch, found = Scratch(), []
    for span in spans(sizes):
        count = min(len(span), max(int(len(span) * share) + 1, 16))
        part = Span(span.name, span.lo, span.lo + count)
        found.append(_bits(inputs, stage, part, scratch).copy())
    return np.sort(np.concatenate(found))


def _bracket(sample: np.ndarray, rank: int, count: int) -> tuple[int, int]:
    """Return bits that very likely enclose the answer: four standard errors to each side."""
    if len(sample) >= count:
        return int(sample[rank - 1]), int(sample[rank - 1])
    share = rank / count
    # Runs of neighbours are correlated: as if there were a quarter as many samples.
    error = 4 * float(np.sqrt(share * (1 - share) * 4 / len(sample))) + 8 / len(sample)
    first, last = int((share - error) * len(sample)), int((share + error) * len(sample)) + 1
    low = int(sample[first]) if first > 0 else 0
    high = int(sample[last]) if last < len(sample) else _LARGEST
    return low, high


def _count(
    inputs: Inputs, stage: int, sizes: dict[str, int], first: int, last: int
) -> tuple[int, int, np.ndarray | None]:
    """Count the magnitudes below and inside a bracket, and copy those inside if they are few."""
    gathered = [0]

    def work(span: Span, scratch: Scratch) -> tuple[int, int, np.ndarray | None]:
        bits = _bits(inputs, stage, span, scratch)
        mask = scratch("mask", len(span), torch.bool).numpy()
        below = int(np.count_nonzero(np.less(bits, first, out=mask)))
        # One comparison for both ends: below the bracket the difference wraps around.
        shifted = np.subtract(bits, np.int32(first), out=bits).view(np.uint32)
        inside = np.less_equal(shifted, np.uint32(last - first), out=mask)
        if gathered[0] > _GATHER:
            return below, int(np.count_nonzero(inside)), None
        copied = np.compress(inside, bits) + np.int32(first)  # twice as fast as bits[inside]
        gathered[0] += len(copied)
        return below, len(copied), copied

    rows = each(spans(sizes), work, size=len, threads=inputs.threads)
    parts = [part for _, _, part in rows if part is not None]
    complete = len(parts) == len(rows)
    candidates = np.concatenate(parts) if complete and parts else None
    return sum(row[0] for row in rows), sum(row[1] for row in rows), candidates
