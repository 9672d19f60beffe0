"""Trainings that stay in the process of a test."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from duet.runs import forks
from duet.runs.lab import Lab
from duet.runs.worker import run_worker, train_job


@dataclass
class Here:
    """Trains in this process, as a worker costs five seconds; `Lab(folder, run=here)` uses it.

    Attributes:
        ran: The jobs that it trained.
    """

    ran: list[Path] = field(default_factory=list)
    _one: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, job: Path, progress: Callable[[dict[str, Any]], None], stop: object) -> None:
        with self._one:  # the engine keeps its settings in the process
            self.ran.append(job)
            train_job(job, progress)


@contextmanager
def settled() -> Iterator[pytest.MonkeyPatch]:
    """Undo afterwards what the engine's trainings in this process leave behind."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DUET_JOB", "")
        # "All cores" of a schedule: the other one is busy with the tests of a neighbour.
        patch.setattr(os, "cpu_count", lambda: 1)
        yield patch
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@contextmanager
def trained_here() -> Iterator[Here]:
    """Give what trains in this process, and undo afterwards what the engine does to a process.

    A command says nothing of where it trains, so its labs are told, too.
    """
    here, begin = Here(), Lab.__post_init__

    def begin_here(lab: Lab) -> None:
        begin(lab)
        if lab.run is run_worker:
            lab.run = here

    with settled() as patch:
        patch.setattr(Lab, "__post_init__", begin_here)
        patch.setattr(forks, "_possible", lambda: False)
        yield here
