"""What a machine of a cluster does for a run: train a job, answer a question, look at its images.

Nothing here knows what brought the work. A job comes as the files of its folder and leaves as those
of its results, each as bytes, or, where there is a store, as the name of its content in it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from duet.devices import parse_device
from duet.errors import DuetError
from duet.files import atomic_path, hidden_folder, sha256_file
from duet.increments.fisher import FISHER
from duet.leftovers import leftovers, remove
from duet.ownfolder import is_mine, own_folder
from duet.runs.engines.images import Shot, Whereabouts, place
from duet.runs.engines.seats import Seat, seated
from duet.runs.engines.store import Store
from duet.runs.forks import forking
from duet.runs.lab import RunJob
from duet.runs.worker import run_worker
from duet.series import Slice
from duet.training.checkpoint import CHECKPOINT, HASHES
from duet.training.job import TRAINED, Progress, read_job, write_job
from duet.training.outcome import OUTCOME

SCRATCH = "DUET_SCRATCH"
"""Variable of each machine: folder for jobs and staged images, on a disk of its own."""

LOG, SLICE = "stderr.log", "slice.npz"
RESULTS = (TRAINED, FISHER, OUTCOME)
"""Files of a finished job, the one that vouches for the others last."""

KEEP_POLL = 0.5  # seconds between looks for a new checkpoint

_SERVERS = contextlib.ExitStack()

Carried = bytes | str
"""A file on its way: its bytes, or its SHA-256 in the store."""


@dataclass(frozen=True)
class Site:
    """What all work of a run has in common.

    Attributes:
        where: How machines find images.
        store: Address of the store; None: files travel as bytes, and no checkpoint is kept.
        owner: Of the run's files in it.
        threads: ``OMP_NUM_THREADS`` of trainings, as on the machine of the command.
    """

    where: Whereabouts
    store: str | None
    owner: str
    threads: str

    def opened(self) -> Store | None:
        """Return the store; None if there is none."""
        return Store(self.store, self.owner) if self.store is not None else None


@dataclass(frozen=True)
class Order:
    """A training to be done.

    Attributes:
        key: Of the job.
        folder: Its folder on the machine of the command, for messages.
        files: What is in it.
        shots: The images of its slice.
    """

    key: str
    folder: str
    files: Mapping[str, Carried]
    shots: Sequence[Shot]


def packed(path: Path, store: Store | None) -> Carried:
    """Return a file as it travels."""
    return path.read_bytes() if store is None else store.put(path)


def unpacked(carried: Carried, target: Path, store: Store | None) -> None:
    """Write a file that has travelled, atomically."""
    if isinstance(carried, bytes):
        with atomic_path(target) as temporary:
            temporary.write_bytes(carried)
    else:
        assert store is not None
        store.get(carried, target)


def own_scratch() -> Path:
    """Return where this machine keeps jobs and staged images, for this user alone.

    It is part of the user's cache, or the folder that `SCRATCH` names. Homes may be shared: each
    machine has a folder of its own in it.

    Raises:
        DuetError: Others may write there.
    """
    named = os.environ.get(SCRATCH)
    top = Path(named) if named else own_folder("cluster")
    folder = top / (re.sub(r"[^\w.-]", "_", socket.gethostname()) or "machine")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_mine(folder):
        raise DuetError(
            "others may write to this folder", where=str(folder),
            remedy=f"set {SCRATCH} to a folder of your own on each node",
        )  # fmt: skip
    return folder


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    """Yield a folder for one piece of work; what killed ones left is removed."""
    target = own_scratch() / "work"
    for left in leftovers(target):
        remove(left)
    with hidden_folder(target) as folder:
        yield folder


# ---- trainings -----------------------------------------------------------------------------------


def train(
    order: Order, site: Site, machine: str, tell: Progress, stop: threading.Event,
    seat: Seat | None = None,
) -> dict[str, Carried]:  # fmt: skip
    """Train a job, from the last checkpoint in the store if there is one; return its results.

    Args:
        order: The job.
        site: See `Site`.
        machine: Name of this one, for messages.
        tell: Takes progress.
        stop: When set, the training is ended.
        seat: Of this process, where several share the training.

    Raises:
        DuetError: In the words of the machine of the command: its paths, and this one's name.
    """
    store = site.opened()
    os.environ["OMP_NUM_THREADS"] = site.threads
    with _workplace() as folder:
        names = {str(folder): order.folder}
        try:
            for name, carried in order.files.items():
                unpacked(carried, folder / name, store)
            images = place(order.shots, site.where, folder, own_scratch() / "images", machine)
            names |= _names(images, order.shots)
            _settle(folder, images)
            last = store.checkpoint(order.key) if store is not None else None
            # A rank begins in a fresh process: the engine looks for it when it is imported.
            run = _forks() if seat is None else run_worker
            with seated(seat, last) as last:
                if store is not None and _fetch_checkpoint(store, last, folder):
                    tell({"note": f"goes on from its last epoch, on {machine}"})
                mine = store if seat is None or seat.rank == 0 else None
                with _keeping(mine, order.key, folder, tell):
                    run(folder, tell, stop)
        except DuetError as error:
            raise _in_words_of_here(error, names, folder / LOG, machine) from None
        return {name: packed(folder / name, store)
                for name in RESULTS if (folder / name).exists()}  # fmt: skip


@functools.cache
def _forks() -> RunJob:
    """Return what trains jobs in processes forked from one that lives as long as this process."""
    return _SERVERS.enter_context(forking(run_worker))


def _names(images: Sequence[Path], shots: Sequence[Shot]) -> dict[str, str]:
    """Return path here -> path on the machine of the command."""
    return {str(one): shot.path for one, shot in zip(images, shots, strict=True)}


def _settle(folder: Path, images: Sequence[Path]) -> None:
    """Have a job look for its images where they are, and for the GPUs that it was given."""
    import numpy as np

    with np.load(folder / SLICE, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["images"] = np.array([str(image) for image in images])
    with atomic_path(folder / SLICE) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)
    job = read_job(folder)
    device = given_device(job.schedule.device)
    schedule = job.schedule.model_copy(update={"device": device})
    write_job(folder, job.model_copy(update={"schedule": schedule}))


def given_device(device: str) -> str:
    """Return the name of as many devices, counted among those that a process was given."""
    wanted = parse_device(device)
    return str(replace(wanted, numbers=tuple(range(len(wanted.numbers)))))


def _in_words_of_here(
    error: DuetError, names: Mapping[str, str], log: Path, machine: str
) -> DuetError:
    """Return an error with the places of the command's machine; a log that it names is told."""

    def said(text: str | None) -> str | None:
        for there, here in sorted(names.items(), key=lambda pair: -len(pair[0])):
            text = text.replace(there, here) if text else text
        return text

    remedy = error.remedy or ""
    if str(log) in remedy:  # it is gone with the folder
        tail = " | ".join(log.read_text(errors="replace").strip().splitlines()[-12:])
        remedy = f"on node {machine} it said: {tail}"
    return type(error)(said(error.what) or "", where=said(error.where), remedy=said(remedy))


def _fetch_checkpoint(store: Store, sha256: str | None, folder: Path) -> bool:
    """Take over the last checkpoint of a job, if there is one that is whole."""
    if sha256 is None:
        return False
    try:
        store.get(sha256, folder / CHECKPOINT)
    except DuetError:  # the first epochs can be had again
        return False
    with atomic_path(folder / HASHES) as temporary:
        temporary.write_text(f"{sha256}\n")
    return True


@contextlib.contextmanager
def _keeping(store: Store | None, key: str, folder: Path, tell: Progress) -> Iterator[None]:
    """Send each new checkpoint of a job to the store while the block runs."""
    if store is None:
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        last = store.checkpoint(key)
        while not ended.wait(KEEP_POLL):
            try:
                last = _keep(store, key, folder, last)
            except DuetError as error:  # the training itself is well
                tell({"note": f"{error.what}; its checkpoints are not kept"})
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _keep(store: Store, key: str, folder: Path, last: str | None) -> str | None:
    """Send a checkpoint that is new, and return its SHA-256."""
    held = folder / f".kept-{CHECKPOINT}"
    held.unlink(missing_ok=True)
    try:
        listed = (folder / HASHES).read_text(encoding="ascii").split()
        if len(listed) != 1 or listed[0] == last:  # two: it is being written
            return last
        os.link(folder / CHECKPOINT, held)  # stays whole when the next one takes its place
        if sha256_file(held) != listed[0]:
            return last
    except (OSError, ValueError):
        return last
    store.set_checkpoint(key, held)
    return listed[0]


# ---- questions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a question came to.

    Attributes:
        found: JSON-ready.
        files: What was written, by name.
    """

    found: dict[str, Any]
    files: Mapping[str, bytes]


def answer(
    question: Any, shots: Sequence[Shot], site: Site, machine: str, stop: threading.Event
) -> Answer:
    """Answer a question of `duet.runs.questions` with the images of this machine.

    Raises:
        DuetError: See `place`, and the question.
    """
    from duet.runs.questions import torch_threads

    with _workplace() as folder:
        images = place(shots, site.where, folder, own_scratch() / "images", machine)
        (folder / "answer").mkdir()
        try:
            with torch_threads(int(site.threads)):
                found = moved(question, images).answer(folder / "answer", stop)
        except DuetError as error:
            raise _in_words_of_here(error, _names(images, shots), folder / LOG, machine) from None
        files = {path.name: path.read_bytes() for path in (folder / "answer").iterdir()}
    return Answer(found, files)


def images_of(question: Any) -> list[Path]:
    """Return the images that a question is about: of its slices, and those without labels."""
    values = [getattr(question, one.name) for one in fields(question)]
    slices = (value.images for value in values if isinstance(value, Slice))
    return [*itertools.chain.from_iterable(slices), *getattr(question, "images", ())]


def moved(question: Any, images: Sequence[Path]) -> Any:
    """Return a question about the same images in other places, on the device that is given.

    Args:
        question: A dataclass.
        images: Where those of `images_of` are, in its order.
    """
    rest = iter(images)
    changes: dict[str, Any] = {
        "device": parse_device(given_device(question.device)).torch_name
    }  # fmt: skip
    for one in fields(question):
        value = getattr(question, one.name)
        if isinstance(value, Slice):
            changes[one.name] = replace(value, images=tuple(itertools.islice(rest, len(value))))
    if hasattr(question, "images"):
        changes["images"] = tuple(rest)
    return replace(question, **changes)
