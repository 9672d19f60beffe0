"""The engine's trainer of an increment, held at one batch or stopped in an epoch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from duet.families.ultralytics import engine
from duet.families.ultralytics.arguments import engine_overrides
from duet.families.yolo.train import IncrementTrainer
from duet.training.job import read_job


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
