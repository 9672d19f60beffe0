"""Engines by name: where the trainings of a run are done, and by how many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from duet.registry import Table
from duet.runs.lab import RunJob
from duet.runs.memo import Tell
from duet.runs.questions import AnswerQuestion, answer_here
from duet.runs.worker import run_worker
from duet.training.schedule import Schedule, needs_a_cluster


def _alone(images: Iterable[Path], schedule: Schedule, tell: Tell) -> None:
    """Prepare nothing: the images are where they were read."""
    if schedule.ranks > 1:
        raise needs_a_cluster(schedule.ranks)


@dataclass(frozen=True)
class Engine:
    """Where trainings are done; by default in processes of this machine.

    Attributes:
        run: Trains a job folder.
        answer: Has a detector look at images.
        prepare: ``prepare(images, schedule, tell)`` looks, before anything is trained, whether
            trainings with such a schedule find these images; raises if not.
        jobs: Trainings under way at a time; None: as many as the plan says.
    """

    run: RunJob = run_worker
    answer: AnswerQuestion = answer_here
    prepare: Callable[[Iterable[Path], Schedule, Tell], None] = _alone
    jobs: int | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether trainings are done on other machines, which take as many as they can."""
        return self.jobs is not None

    def at_a_time(self, planned: int) -> int:
        """Return how many trainings are begun at a time, of what a plan says."""
        return self.jobs or planned


HERE = Engine()

LOOKERS = 64
"""Most that look at images at a time, wherever that is."""


@dataclass(frozen=True)
class Wishes:
    """What a user says about an engine.

    Attributes:
        address: Of a cluster: ``auto`` for the one of this machine, ``HOST:PORT``, ``ray://…``.
        store: Where files travel and checkpoints are kept: a folder of a shared disk, or a bucket.
        stage_data: Send the images through the store.
        jobs: Trainings at a time; None: as many as fit.
    """

    address: str | None = None
    store: str | None = None
    stage_data: bool = False
    jobs: int | None = None


ENGINES = Table(
    "engine", "engines",
    {"local": "duet.runs.engines.local", "ray": "duet.runs.engines.on_ray"}, where="--engine",
)  # fmt: skip
"""Modules with ``opened(wishes, out)``."""


def opened(name: str, wishes: Wishes, out: Path) -> AbstractContextManager[Engine]:
    """Return an engine, which works until the end of the block.

    Args:
        name: In `ENGINES`.
        wishes: See `Wishes`.
        out: Folder that is written; what the engine keeps elsewhere is known by it.

    Raises:
        ConfigError: There is no such engine, or it cannot do what is asked.
        MissingExtraError: What it needs is not installed.
        DuetError: It cannot be reached.
    """
    found: AbstractContextManager[Engine] = ENGINES.load(name).opened(wishes, out)
    return found
