"""How tests share two cores: one CPU thread a process, files as units, the longest first."""

from __future__ import annotations

import os

import pytest

# Two OpenMP threads crawl when a neighbour holds a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

LONG = (
    "test_conformance", "test_resume", "test_trainer", "test_cli", "test_baselines",
    "test_end_to_end_training", "test_end_to_end", "test_export", "test_docs", "test_bad_input",
    "test_export_matrix",
)  # fmt: skip
"""Begun late, any of these would be waited for at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, for `--dist loadfile --no-loadscope-reorder`."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
