"""One job on the engine's trainer, from its folder to its results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from duet.families.ultralytics.arguments import engine_overrides
from duet.families.ultralytics.engine import set_threads
from duet.families.ultralytics.ranks import leave, name_worker
from duet.families.ultralytics.train import JOB_VARIABLE
from duet.training.job import Progress, read_job
from duet.training.schedule import needs_a_cluster
from duet.training.session import Session


def run_job(trainer_class: type[Any], folder: Path, progress: Progress) -> None:
    """Run a job in this process; its trainer writes the result, in whichever process holds it.

    Args:
        trainer_class: A `StageTrainer` mixed into one of the engine's trainers.
        folder: Job folder (`duet.training.job`).
        progress: Called after each step.

    Raises:
        ConfigError: It is for several ranks, and this process is none.
    """
    job, alone = read_job(folder), Session(folder).lacks_fisher
    if job.schedule.ranks > 1 and "RANK" not in os.environ and not alone:
        raise needs_a_cluster(job.schedule.ranks)
    set_threads(job.schedule.threads)
    os.environ[JOB_VARIABLE] = str(folder)
    name_worker()
    overrides = engine_overrides(job, folder)
    if alone:  # one image after another needs but one of several GPUs
        overrides["device"] = overrides["device"].split(",")[0]
    trainer = trainer_class(overrides=overrides)
    set_threads(job.schedule.threads)  # the engine took them away
    if alone:
        trainer.add_fisher()
        return
    if not trainer.ddp:  # the processes of a multi-GPU launch cannot reach `progress`
        trainer.add_callback("on_train_batch_end", _reporter(progress))
    trainer.train()
    leave()


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
