"""Trainings that stay in the process of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from duet.families.table import resolve_family
from duet.training.job import read_job


@dataclass
class Here:
    """Trains in this process, as a worker costs five seconds; `Lab(folder, run=here)` uses it.

    Attributes:
        ran: The jobs that it trained.
    """

    ran: list[Path] = field(default_factory=list)

    def __call__(self, job: Path, progress: Callable[[dict[str, Any]], None], stop: object) -> None:
        self.ran.append(job)
        resolve_family(read_job(job).family).train(job, progress)


@contextmanager
def trained_here() -> Iterator[Here]:
    """Give what trains in this process, and undo afterwards what the engine does to a process."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DUET_JOB", "")
        yield Here()
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
