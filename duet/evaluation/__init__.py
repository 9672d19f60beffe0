"""Measuring: AP per class, the stage matrix, and the indices that summarise it."""

from __future__ import annotations

from duet.evaluation.ap import ClassAP, Truth, evaluate_ap
from duet.evaluation.indices import Indices, Term, compute_indices
from duet.evaluation.matrix import Cell, References, Slice, StageMatrix
from duet.evaluation.pairs import (
    Pair,
    cells_needed,
    gi_pairs,
    history_pairs,
    pi_pairs,
    reference_slices,
    ri_pairs,
)

__all__ = [
    "Cell",
    "ClassAP",
    "Indices",
    "Pair",
    "References",
    "Slice",
    "StageMatrix",
    "Term",
    "Truth",
    "cells_needed",
    "compute_indices",
    "evaluate_ap",
    "gi_pairs",
    "history_pairs",
    "pi_pairs",
    "reference_slices",
    "ri_pairs",
]
