"""Trainings that stay in the process of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from duet.families.table import resolve_family
from duet.runs import lab
from duet.training.job import read_job


@contextmanager
def trained_here() -> Iterator[list[Path]]:
    """Train in this process meanwhile, as a worker costs five seconds; give the jobs that ran."""
    ran: list[Path] = []

    def train(job: Path, progress: Callable[[dict[str, Any]], None], stop: object) -> None:
        ran.append(job)
        resolve_family(read_job(job).family).train(job, progress)

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DUET_JOB", "")
        patch.setattr(lab, "run_worker", train)
        yield ran
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
