"""Trainings that stay in the process of a test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from duet.families.table import resolve_family
from duet.families.ultralytics import engine
from duet.families.ultralytics.arguments import engine_overrides
from duet.families.yolo.train import IncrementTrainer
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


def silent(record: dict[str, Any]) -> None:
    """Take progress and do nothing with it."""


class InterruptionError(Exception):
    """Stands for Ctrl-C, a kill, a power cut."""


def stop_in_epoch(number: int) -> Callable[[dict[str, Any]], None]:
    def progress(record: dict[str, Any]) -> None:
        if record["epoch"] == number:
            raise InterruptionError

    return progress


def ready(folder: Path) -> IncrementTrainer:
    """Set a trainer up as `Family.train` does, at the start of its first epoch."""
    os.environ["DUET_JOB"] = str(folder)
    engine.set_threads(1)
    trainer = IncrementTrainer(overrides=engine_overrides(read_job(folder), folder))
    trainer._setup_train()
    trainer.epoch = 0
    trainer._model_train()
    return trainer


def backward(trainer: IncrementTrainer) -> None:
    """Run one batch up to the gradients."""
    batch = trainer.preprocess_batch(next(iter(trainer.train_loader)))
    loss, _ = trainer.model(batch)
    loss.sum().backward()
