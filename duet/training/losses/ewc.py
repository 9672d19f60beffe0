"""The penalty of elastic weight consolidation (Kirkpatrick et al., PNAS 2017, arXiv 1612.00796).

L_EWC = λ/2 · Σ_i F_i (p_i − q_i)²: moving a weight that the old classes depend on costs. F is the
diagonal Fisher that each increment stores, summed over increments (`duet.training.fisher`).
"""

from __future__ import annotations

import torch


def ewc_gradient(p: torch.Tensor, q: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
    """Return ∂L_EWC/∂p = F (p − q), no graph needed; 0 at p = q.

    Args:
        p: The tensor in training, any shape.
        q: The same tensor of the previous detector.
        importance: Its F, at least 0.
    """
    return (p - q).mul_(importance)
