"""Series of increments: their data, what is wrong with it, and the slices cut from it."""

from __future__ import annotations

from duet.series.check import check_series
from duet.series.document import IncrementConfig, SeriesConfig
from duet.series.domains import Domain
from duet.series.images import Verify
from duet.series.model import Annotation, DomainData, Slice, Split
from duet.series.problems import Problem, raise_problems
from duet.series.reader import Inspection, inspect_series, read_series
from duet.series.series import Increment, Series
from duet.series.slices import eval_slice, eval_split, train_slice
from duet.series.summary import IncrementCounts, SplitCounts, summarise

__all__ = [
    "Annotation",
    "Domain",
    "DomainData",
    "Increment",
    "IncrementConfig",
    "IncrementCounts",
    "Inspection",
    "Problem",
    "Series",
    "SeriesConfig",
    "Slice",
    "Split",
    "SplitCounts",
    "Verify",
    "check_series",
    "eval_slice",
    "eval_split",
    "inspect_series",
    "raise_problems",
    "read_series",
    "summarise",
    "train_slice",
]
