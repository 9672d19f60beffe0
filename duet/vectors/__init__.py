"""Tensors, fingerprints and task vectors: what a stage changed, exactly.

Names load on first use, so that importing this package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duet.vectors.similarity import Norms, cosine, norms, sign_conflicts
    from duet.vectors.task_vector import Correction, TaskVector
    from duet.vectors.tensors import (
        Tensors,
        fingerprint,
        floating,
        require_finite,
        require_same_layout,
    )

__all__ = [
    "Correction",
    "Norms",
    "TaskVector",
    "Tensors",
    "cosine",
    "fingerprint",
    "floating",
    "norms",
    "require_finite",
    "require_same_layout",
    "sign_conflicts",
]

_HOME = {
    "Correction": "task_vector",
    "Norms": "similarity",
    "TaskVector": "task_vector",
    "Tensors": "tensors",
    "cosine": "similarity",
    "fingerprint": "tensors",
    "floating": "tensors",
    "norms": "similarity",
    "require_finite": "tensors",
    "require_same_layout": "tensors",
    "sign_conflicts": "similarity",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'duet.vectors' has no attribute '{name}'")
    return getattr(importlib.import_module(f"duet.vectors.{_HOME[name]}"), name)
