"""How tests share two cores: one CPU thread a process, files as units, the longest first."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Two OpenMP threads crawl when a neighbour holds a core; torch reads it while it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from duet.runs import forks, worker

LONG = (
    "test_conformance", "test_export", "test_end_to_end", "test_trainer", "test_cli",
    "test_resume", "test_dfine", "test_baselines", "test_docs", "test_recognise", "test_history",
    "test_onto", "test_foreign", "test_walls", "test_chain", "test_end_to_end_training",
    "test_bad_input", "test_export_matrix", "test_refine", "test_working_folder",
)  # fmt: skip
"""Begun late, any of these would be waited for at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, for `--dist loadfile --no-loadscope-reorder`."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def pytest_collection_finish() -> None:
    """Leave what is loaded by now out of garbage collections.

    The engine collects by hand in every training, and to look through the 600 000 objects of
    libraries and tests takes a quarter of a second each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all processes of a test session share, for what is made once for all."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


# ---- the quick tier trains nothing -------------------------------------------------------------

TOY = 10_000
"""Parameters of the largest network that a quick test may train; the smallest detector has 2e6."""
_trained: list[str] = []


def _note_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    size = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    if size > TOY:
        _trained.append(f"a network of {size} parameters")


register_optimizer_step_post_hook(_note_step)


def _note_processes(patch: pytest.MonkeyPatch) -> None:
    for module, name in ((worker, "command"), (forks, "server_command")):
        patch.setattr(module, name, _noted(getattr(module, name)))


def _noted(command: Callable[..., list[str]]) -> Callable[..., list[str]]:
    def note(folder: Path, *rest: int) -> list[str]:
        _trained.append(f"{folder}, in a process of its own")
        return command(folder, *rest)

    return note


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup() -> Iterator[None]:
    """Note what is trained from here on, also by fixtures of a module."""
    _trained.clear()
    with pytest.MonkeyPatch.context() as patch:
        _note_processes(patch)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test of `make quick` that trains a detector."""
    with pytest.MonkeyPatch.context() as patch:
        _note_processes(patch)
        yield
    if _trained and not any(map(item.get_closest_marker, ("slow", "thorough"))):
        pytest.fail(f"trained {_trained[-1]}, but is not marked as slow")
