"""How tests share two cores: one CPU thread a process, files as units, the longest first."""

from __future__ import annotations

import os

import pytest

# Two OpenMP threads crawl when a neighbour holds a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

ONE_RUN = ("test_resume", "test_cli", "test_bad_input", "test_docs", "test_published")
"""These start from one finished run (`factories_run.finished_run`), which takes half a minute."""

LONG = ("test_conformance", "test_trainer", "test_baselines", "test_end_to_end", "test_export")
"""Begun late, any of these would be waited for at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests for `--dist loadgroup`: each file is a group, `ONE_RUN` is one together."""
    order = [ONE_RUN[0], *LONG]
    names = {id(item): item.path.stem for item in items}
    groups = {key: ONE_RUN[0] if name in ONE_RUN else name for key, name in names.items()}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups[id(item)]))
    items.sort(
        key=lambda item: (
            order.index(group) if (group := groups[id(item)]) in order else len(order),
            ONE_RUN.index(name) if (name := names[id(item)]) in ONE_RUN else len(ONE_RUN),
        )
    )
