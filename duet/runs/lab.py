"""The lab: trains each job once, wherever it is asked for again, and survives being killed.

A job is known by its content: settings, start tensors, data, L_DC direction. References and bases
are therefore shared by all strategies of a run, and a repeated command does only what is missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from duet.errors import DataError, DuetError, ModelError
from duet.files import OWN, atomic_path, relative_path, sha256_json
from duet.increments.fisher import FISHER
from duet.increments.state import DetectorState
from duet.increments.tensorfile import read_tensors
from duet.leftovers import leftovers_below, remove
from duet.progress import Listener
from duet.runs.asked import Asked
from duet.runs.look import FirstLook
from duet.runs.memo import Tell
from duet.runs.questions import AnswerQuestion, answer_here
from duet.runs.slots import CHAIN, Slots, one_at_a_time
from duet.runs.worker import ENGINE, run_worker
from duet.series import Slice
from duet.training.checkpoint import CHECKPOINT, HASHES, is_whole
from duet.training.job import (
    DIRECTION,
    IMPORTANCE,
    START,
    TRAINED,
    Job,
    identity,
    read_state,
    specialist_file,
    write_job,
    write_slice,
    write_state,
)
from duet.training.outcome import (
    OUTCOME,
    Outcome,
    bring_back,
    lacks_fisher,
    let_go,
    read_outcome,
)
from duet.trees import resolved
from duet.vectors.tensors import Tensors, fingerprint

RunJob = Callable[[Path, Callable[[dict[str, Any]], None], threading.Event], None]
"""``run(folder, listen, stopped)`` trains a job folder until `outcome.json` is there, or raises."""


def silent(title: str, record: dict[str, Any]) -> None:
    """Listen and say nothing."""


@dataclass(frozen=True)
class Trained:
    """The result of one job.

    Attributes:
        state: Trained state, float32.
        images_seen: Images that passed through training, repeats counted.
        seconds: Wall time of the training, of the last process that worked on it.
        history: Mean losses per epoch.
        key: Content key of the job.
        reused: It was on disk already.
        fisher: Diagonal Fisher of the shared tensors, bfloat16; None if the job computes none.
        fisher_images: Images that it is the mean of.
        peak_memory: Main memory of the training process at most, bytes; None if it did not tell.
        versions: Libraries that it was trained with.
        start: Where it started.
        folder: Of the job.
    """

    state: DetectorState
    images_seen: int
    seconds: float
    history: tuple[dict[str, float], ...]
    key: str
    reused: bool
    fisher: Tensors | None = None
    fisher_images: int = 0
    peak_memory: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    start: DetectorState | None = None
    folder: Path | None = None


PutBack = Callable[[Path, DetectorState], DetectorState]
"""``put_back(place, start)`` returns a trained state out of what a run keeps of it; it raises
ModelError if there is nothing. See `duet.runs.put_back`."""

INPUTS = (START, DIRECTION, IMPORTANCE)
"""Tensors that a job begins with."""


def nothing_kept(place: Path, start: DetectorState) -> DetectorState:
    """Say that nothing was kept."""
    raise ModelError("nobody knows how to put the trained state together again", where=str(place))


def tidy(folder: Path, tell: Tell) -> None:
    """Remove what killed runs left in a run folder, and name it; to be called under its lock."""
    for path in leftovers_below(folder, only=OWN):
        remove(path)
        tell(f"removed {path}, which a killed run left")


@dataclass
class Lab:
    """Trainings under one folder, at most ``jobs`` at a time.

    Attributes:
        folder: Holds one sub-folder per finished or unfinished job.
        jobs: Worker processes at a time.
        listen: Called as ``listen(title, record)`` for progress, from worker threads.
        look: What the images were when the run began; they must stay that.
        run: Where a job is trained: by default in a process of its own on this machine.
        answer: Where detectors look at images: by default in this process, see `asked`.
        asked: Has that done beside the trainings, and keeps what was found.
        stopped: Set by `stop`.
    """

    folder: Path
    jobs: int = 1
    listen: Listener = silent
    look: FirstLook = field(default_factory=FirstLook)
    run: RunJob = run_worker
    answer: AnswerQuestion = answer_here
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        # Absolute: the engine puts relative project paths under a runs folder of its own.
        self.folder = self.folder.resolve()
        self.slots = Slots(self.jobs)
        self.asked = Asked(
            self.slots, self.stopped, self._tell, self.answer,
            threads=max(torch.get_num_threads() // self.jobs, 1),
        )  # fmt: skip

    def _tell(self, line: str) -> None:
        self.listen(self.folder.parent.name, {"note": line})

    def stop(self) -> None:
        """End all running trainings; their checkpoints stay."""
        self.stopped.set()

    def train(
        self,
        title: str,
        job: Job,
        start: DetectorState,
        data: Slice,
        direction: Tensors | None = None,
        importance: Tensors | None = None,
        *,
        specialists: Sequence[DetectorState] = (),
        rank: int = CHAIN,
        put_back: PutBack = nothing_kept,
    ) -> Trained:
        """Train a job, or read its result if an equal one was trained before and is not damaged.

        Args:
            title: For progress displays.
            job: Settings.
            start: Where it starts; its last part is the one to train. Score maps are left out.
            data: The slice.
            direction: d of L_DC per shared tensor, if the job asks for it.
            importance: F of EWC likewise.
            specialists: Detectors that teach, where the job names some.
            rank: Of `Slots`.
            put_back: Finds the result of a job that was let go.

        Raises:
            DataError: Images changed since the run began.
            DuetError: The training failed.
        """
        self.look.require_unchanged(data.images)
        start = start.uncalibrated()
        factors = {DIRECTION: direction, IMPORTANCE: importance}
        folder = self._place(job, key := job_key(job, start, data, direction, importance))
        with one_at_a_time(folder):
            found = self._kept(title, folder, key, start, put_back)
            reused = found is not None
            if found is None or lacks_fisher(job, found):
                with self.slots.taken(rank):
                    job = job.model_copy(update={"key": key})
                    self._prepare(folder, job, start, data, factors, specialists)
                    if found is not None:
                        _bring_back(folder, key, found.state)
                    self.listen(title, {"state": "started"})
                    self.run(folder, lambda record: self.listen(title, record), self.stopped)
                self._require_unchanged(folder, data)
                found = _trained(folder, read_outcome(folder, key), start)
            _clear(folder)
        self.listen(title, {"state": "reused" if reused else "finished"})
        return replace(found, reused=reused)

    def let_go(self, trained: Trained, places: Iterable[Path], put_back: PutBack) -> None:
        """Remove the file of a trained state that a run keeps elsewhere to the last bit.

        Args:
            trained: What `train` returned.
            places: Folders that may hold it; the first that does is noted.
            put_back: Puts it together from one of them.
        """
        if trained.folder is None or trained.start is None:
            return
        root, wanted = self.folder.parent, trained.state.fingerprint()
        with one_at_a_time(trained.folder):
            outcome = read_outcome(trained.folder, trained.key)
            for place in places if outcome.state is None else ():
                with contextlib.suppress(DuetError):
                    inside = resolved(place).is_relative_to(root)
                    if inside and put_back(place, trained.start).fingerprint() == wanted:
                        kept = relative_path(place, root)
                        let_go(trained.folder, outcome, state=wanted, kept=kept)
                        return

    def forget(self, job: Job, key: str) -> None:
        """Remove what a finished training left: all that was asked of it is known."""
        shutil.rmtree(self._place(job, key), ignore_errors=True)

    def _place(self, job: Job, key: str) -> Path:
        return self.folder / f"{job.phase}-{key[:16]}"

    def _kept(
        self, title: str, folder: Path, key: str, start: DetectorState, put_back: PutBack
    ) -> Trained | None:
        """Return the result of a finished job; None if it is to be trained, or trained on.

        What is damaged is removed, with a word, so that the training begins anew.
        """
        if not os.path.lexists(folder / OUTCOME):
            if not is_whole(folder):
                what = f"{folder / CHECKPOINT} is damaged"
            elif missing := _missing(folder):
                what = f"{missing} is missing"
            else:
                return None
        else:
            try:
                outcome = read_outcome(folder, key)
                state = None
                if outcome.state:
                    state = self._elsewhere(outcome, start, put_back)
                    (folder / TRAINED).unlink(missing_ok=True)  # a killed `let_go` left it
                return _trained(folder, outcome, start, state)
            except ModelError as error:
                what = f"{error.where}: {error.what}"
        self.listen(title, {"note": f"{what}; trained again"})
        shutil.rmtree(folder)
        return None

    def _elsewhere(
        self, outcome: Outcome, start: DetectorState, put_back: PutBack
    ) -> DetectorState:
        """Return the trained state of a job that was let go, from where a run keeps it."""
        place = self.folder.parent / (outcome.kept or "")
        try:
            state = put_back(place, start)
        except DuetError as error:
            raise ModelError(error.what, where=error.where or str(place)) from None
        if state.fingerprint() != outcome.state:
            raise ModelError("it no longer holds what was trained", where=str(place))
        return state

    def _require_unchanged(self, folder: Path, data: Slice) -> None:
        """Throw a training away whose images were exchanged while it ran: nobody knows its data."""
        try:
            self.look.require_unchanged(data.images)
        except DataError:
            shutil.rmtree(folder)
            raise

    @staticmethod
    def _prepare(
        folder: Path, job: Job, start: DetectorState, data: Slice,
        factors: Mapping[str, Tensors | None], specialists: Sequence[DetectorState],
    ) -> None:  # fmt: skip
        """Write the job's files; an interrupted job's checkpoint stays and is resumed."""
        folder.mkdir(parents=True, exist_ok=True)
        for stale in leftovers_below(folder):
            remove(stale)
        write_state(folder / START, start)
        for number, one in enumerate(specialists):
            write_state(folder / specialist_file(number), one)
        write_slice(folder / "slice.npz", data)
        for name, tensors in factors.items():
            if tensors is not None:
                from safetensors.torch import save_file

                with atomic_path(folder / name) as temporary:
                    save_file({k: v.contiguous() for k, v in tensors.items()}, temporary)
        write_job(folder, job)


def _trained(
    folder: Path, outcome: Outcome, start: DetectorState, state: DetectorState | None = None
) -> Trained:
    """Read what a job left that has ended; ``state`` is what it trained, if that was let go."""
    fisher = read_tensors(folder / FISHER)[0] if outcome.fisher_images else None
    return Trained(
        state or read_state(folder / TRAINED), outcome.images_seen, outcome.seconds,
        outcome.history, outcome.key, False, fisher, outcome.fisher_images, outcome.peak_memory,
        outcome.versions, start, folder,
    )  # fmt: skip


def _bring_back(folder: Path, key: str, state: DetectorState) -> None:
    """Write the trained state of a job that was let go: more is to be computed from it."""
    outcome = read_outcome(folder, key)
    if outcome.state:
        write_state(folder / TRAINED, state)
        bring_back(folder, outcome)


def _clear(folder: Path) -> None:
    """Remove what a finished job needs no more: who wants it done again has its inputs."""
    shutil.rmtree(folder / ENGINE, ignore_errors=True)
    for path in (*(folder / name for name in INPUTS), *folder.glob(specialist_file("*"))):
        path.unlink(missing_ok=True)


def _missing(folder: Path) -> Path | None:
    """Return what is gone of an unfinished job, as the rest of it shows; None if nothing is."""
    if os.path.lexists(folder / CHECKPOINT):
        return None
    if any(os.path.lexists(folder / name) for name in (TRAINED, FISHER)):
        return folder / OUTCOME
    return folder / CHECKPOINT if os.path.lexists(folder / HASHES) else None


def job_key(
    job: Job,
    start: DetectorState,
    data: Slice,
    direction: Tensors | None,
    importance: Tensors | None = None,
) -> str:
    """Return the SHA-256 that identifies a training by content (paths and devices left out)."""
    content = {
        "job": identity(job),
        "start": start.fingerprint(),
        "data": data.sha256,
        "direction": fingerprint(direction) if direction is not None else None,
    }
    if importance is not None:
        content["importance"] = fingerprint(importance)
    return sha256_json(content)
