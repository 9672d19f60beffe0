"""Run one job on one of the engine's trainers, in this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from duet.families.protocol import Progress
from duet.families.ultralytics import engine
from duet.training.job import read_job


def run_job(trainer_class: Any, folder: Path, progress: Progress) -> None:
    """Train; the trainer writes the result, in whichever process holds it.

    Args:
        trainer_class: A `StageTrainer` mixed into one of the engine's trainers.
        folder: Job folder (`duet.training.job`).
        progress: Called after each step.
    """
    from duet.families.ultralytics.arguments import engine_overrides
    from duet.families.ultralytics.trainer import JOB_VARIABLE

    job = read_job(folder)
    engine.set_threads(job.schedule.threads)
    os.environ[JOB_VARIABLE] = str(folder)
    trainer = trainer_class(overrides=engine_overrides(job, folder))
    engine.set_threads(job.schedule.threads)
    if not trainer.ddp:  # the processes of a multi-GPU launch cannot reach `progress`
        trainer.add_callback("on_train_batch_end", _reporter(progress))
    trainer.train()


def _reporter(progress: Progress) -> Any:
    """Return an engine callback that reports each step, also after a resume."""
    done = 0

    def report(trainer: Any) -> None:
        nonlocal done
        steps, images = len(trainer.train_loader), trainer.per_image(trainer.batch_size)
        done = max(done + 1, trainer.epoch * steps + 1)
        progress(
            {
                "epoch": trainer.epoch + 1,
                "epochs": trainer.epochs,
                "done": done,
                "total": trainer.epochs * steps,
                "loss": round(float(trainer.loss.detach()) / images, 4),
            }
        )

    return report
