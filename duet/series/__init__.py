"""Series of increments: their data, what is wrong with it, and the slices cut from it."""

from __future__ import annotations

from duet.series.check import check_series
from duet.series.document import SeriesConfig
from duet.series.model import Annotation, DomainData, Slice, Split
from duet.series.problems import Problem, raise_problems
from duet.series.reader import inspect_series, read_series
from duet.series.series import Increment, Series
from duet.series.slices import eval_slice, eval_split, train_slice
from duet.series.summary import IncrementCounts, summarise

__all__ = [
    "Annotation",
    "DomainData",
    "Increment",
    "IncrementCounts",
    "Problem",
    "Series",
    "SeriesConfig",
    "Slice",
    "Split",
    "check_series",
    "eval_slice",
    "eval_split",
    "inspect_series",
    "raise_problems",
    "read_series",
    "summarise",
    "train_slice",
]
