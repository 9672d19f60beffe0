"""Finished runs side by side: which method is better, by how much, and whether that is noise.

Reads `results.json` of each run and the matches it points to; needs no detector and no image.
"""

from __future__ import annotations

from duet.compare.ranking import METRICS, Comparison, compare
from duet.compare.runs import Run, find_runs

__all__ = ["METRICS", "Comparison", "Run", "compare", "find_runs"]
