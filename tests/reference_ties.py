"""TIES as the paper states it (arXiv 2306.01708, algorithm 1), plainly and slowly, for comparison.

Trim: keep the top K % of each vector's magnitudes. Elect: the sign with the larger total movement.
Disjoint merge: the mean of the entries with the elected sign. Where positive and negative movement
are equal, the authors' code takes the sign that most scalars elected.
"""

from __future__ import annotations

import torch


def threshold(tau: torch.Tensor, density: float) -> float:
    """Return the smallest magnitude that stays: `(d,)` float32, density in [0, 1]."""
    rank = len(tau) - int(len(tau) * density)
    return float(tau.abs().kthvalue(rank).values) if rank else 0.0


def authors(taus: list[torch.Tensor], density: float) -> torch.Tensor:
    """Return the merged vector as the authors' code has it: float32, in the order given.

    Two things differ from `duet.merging.methods.ties`, on purpose (docs/method.md, TIES): sums run
    in the order of the arguments, and where the majority is exactly zero the branch "else < 0"
    keeps the negative entries of what cancels out.
    """
    kept = torch.stack([x * (x.abs() >= threshold(x, density)) for x in taus])
    elected = kept.sum(dim=0).sign()
    elected[elected == 0] = elected.sum().sign()
    chosen = kept * torch.where(elected > 0, kept > 0, kept < 0)
    return chosen.sum(dim=0) / (chosen != 0).sum(dim=0).clamp(min=1)


def merge(taus: list[torch.Tensor], density: float, how: str = "mean") -> torch.Tensor:
    """Return the merged vector `(d,)` float64 of flat float32 vectors."""
    kept = torch.stack([x * (x.abs() >= threshold(x, density)) for x in taus]).double()
    elected = kept.sum(dim=0).sign()
    majority = elected.sum().sign()
    elected[elected == 0] = majority
    agrees = (kept.sign() == elected) & (kept != 0)
    chosen = kept * agrees
    if how == "sum":
        return chosen.sum(dim=0)
    if how == "max":
        return chosen.abs().max(dim=0).values * elected
    return chosen.sum(dim=0) / agrees.sum(dim=0).clamp(min=1)
