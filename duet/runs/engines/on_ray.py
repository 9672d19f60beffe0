"""A Ray cluster: each training is a task with the CPUs and GPUs that its schedule asks for.

Ray chooses the machine, waits for a free one, and begins a task anew whose machine is lost; the job
is the same there, so its result is, too. The command waits for tasks as it waits for processes, and
ends them all when it ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from duet.errors import ConfigError, DuetError, MissingExtraError, in_short
from duet.files import sha256_json
from duet.runs.engines import node
from duet.runs.engines.board import Board, Place, watched
from duet.runs.engines.cluster import Cluster, Need
from duet.runs.engines.engine import Engine, Wishes
from duet.runs.engines.images import HASHED, STAGED, Shot, Whereabouts, shots, stage
from duet.runs.engines.node import Answer, Carried, Order, Site
from duet.runs.engines.seats import Meeting, Seat
from duet.runs.engines.store import Store
from duet.runs.engines.together import GRACE, trained_together
from duet.runs.memo import Tell
from duet.training.checkpoint import remove_checkpoint
from duet.training.job import read_job, read_slice
from duet.training.outcome import OUTCOME
from duet.training.schedule import Schedule

RETRIES = 3
"""How often a task is begun anew whose machine was lost."""

MANY = 100_000
"""Trainings handed over at a time: Ray holds them until a machine is free."""

STOP_POLL = 0.2  # seconds between looks whether the run was stopped

README = (
    "Files of `duet run --engine ray`, by their SHA-256: of runs (run-*), removed when one ends "
    "well, and of staged images (image-*). While no run works, all may be removed.\n"
)


@contextlib.contextmanager
def opened(wishes: Wishes, out: Path) -> Iterator[Engine]:
    """Yield a cluster, one that is there or one of this machine alone.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: There is no such cluster, or images are to be staged without a store.
    """
    if wishes.stage_data and wishes.store is None:
        raise ConfigError(
            "images are sent through a store", where="--stage-data",
            remedy="give --store DIR, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER",
        )  # fmt: skip
    ray = _ray()
    place = os.path.abspath(out)
    owner = f"run-{sha256_json([socket.gethostname(), place])[:16]}"
    address = wishes.store
    if address is not None and "://" not in address:
        address = os.path.abspath(address)
    store = Store(address, owner) if address is not None else None
    if store is not None and address is not None:
        Store(address).introduce(README)
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    where = Whereabouts.here(address if wishes.stage_data else None)
    with _connected(ray, wishes.address):
        work = _Work(Cluster(ray), Site(where, address, owner, threads))
        try:
            yield Engine(
                run=work.train, answer=work.answer, prepare=work.prepare, jobs=wishes.jobs or MANY
            )
        finally:
            work.close()
    if store is not None:  # all went well; else the same command goes on from there
        store.clear()


def _ray() -> Any:
    """Import Ray, which is told to tell nobody.

    Raises:
        MissingExtraError: It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            f"--engine ray needs Ray: {error}", where="--engine",
            remedy="pip install 'duet-detect[ray]', here and on every node",
        ) from None  # fmt: skip
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to a cluster, or begin one on this machine, for the time of the block.

    Without an address that is ``RAY_ADDRESS``; a cluster that somebody else began on this machine
    is used only by name: whoever runs it gets the data.
    """
    if ray.is_initialized():  # a notebook's own
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    asked = address or os.environ.get("RAY_ADDRESS") or "local"
    more = {"include_dashboard": False} if asked == "local" else {}
    try:
        ray.init(asked, log_to_driver=False, logging_level="ERROR", **more)
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError, ...
        raise ConfigError(
            f"no Ray cluster: {in_short(error)}", where=f"--address {asked}",
            remedy="begin one with `ray start --head`, or leave out --address to use this machine",
        ) from error  # fmt: skip
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # a wish to stop stays one
    try:
        with _told_on_stderr(ray):
            yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _told_on_stderr(ray: Any) -> Iterator[None]:
    """Have Ray tell of lost machines on stderr: on stdout it would be part of a result.

    Ray has no switch for it: ``log_to_driver`` is about tasks, and this comes from the cluster.
    """
    printing = ray._private.worker
    usual = printing.print_to_stdstream

    def on_stderr(data: dict[str, Any], *more: Any, **named: Any) -> None:
        usual({**data, "is_err": True}, *more, **named)

    printing.print_to_stdstream = on_stderr
    try:
        yield
    finally:
        printing.print_to_stdstream = usual


# ---- on the machines -----------------------------------------------------------------------------


def _until_cancelled(work: Callable[[threading.Event], Any]) -> Any:
    """Do something in a thread, so that this one hears when the task is cancelled, and ends it."""
    stop, ended = threading.Event(), list[Any]()

    def do() -> None:
        try:
            ended.append(work(stop))
        except DuetError as error:  # Ray would keep its words and lose the rest
            ended.append(error.as_dict())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=do)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(STOP_POLL)
    finally:
        stop.set()
        thread.join()
    if isinstance(ended[0], BaseException):
        raise ended[0]
    return ended[0]


def _machine() -> str:
    """Return the name of this machine, for messages."""
    import ray

    return f"{socket.gethostname()} ({ray.get_runtime_context().get_node_id()[:8]})"


def _train(order: Order, site: Site, board: Any, number: int) -> Any:
    machine, tell = _machine(), watched(board, number)
    board.begin.remote(number, machine)
    return _until_cancelled(lambda stop: node.train(order, site, machine, tell, stop))


def _train_with_others(
    order: Order, site: Site, board: Any, place: Place, rank: int, ranks: int
) -> Any:
    import ray

    machine, tell = _machine(), _silent if rank else watched(board, place[0])
    if rank == 0:
        board.begin.remote(place[0], machine)

    def work(stop: threading.Event) -> Any:
        def meet(proposed: Meeting | None) -> Meeting:
            while not stop.wait(STOP_POLL):
                found: Meeting | None = ray.get(board.meet.remote(place, rank, ranks, proposed))
                if found is not None:
                    return found
            raise DuetError("stopped", remedy="the same command resumes")

        seat = Seat(rank, ranks, ray.util.get_node_ip_address(), meet)
        return node.train(order, site, machine, tell, stop, seat)

    return _until_cancelled(work)


def _silent(record: dict[str, Any]) -> None:
    """Take progress, which the first rank tells for all."""


def _answer(question: Any, wanted: list[Shot], site: Site) -> Any:
    return _until_cancelled(lambda stop: node.answer(question, wanted, site, _machine(), stop))


# ---- on the machine of the command ---------------------------------------------------------------


class _Work:
    """What is done on a cluster: a `RunJob`, and what prepares it."""

    def __init__(self, cluster: Cluster, site: Site) -> None:
        self._cluster, self._site, self._store = cluster, site, site.opened()
        self._board = Board(cluster)
        self._known = cluster.put(site)

    def close(self) -> None:
        self._board.close()
        self._cluster.end(GRACE)

    def prepare(self, images: Iterable[Path], schedule: Schedule, tell: Tell) -> None:
        """Look whether all machines that may train find the images; or send these.

        Raises:
            ConfigError: No machine has what a training needs, or one has other libraries.
            DataError: A machine lacks images, or has others.
        """
        need = Need.of(schedule)
        images = list(images)
        if self._site.where.store is not None:
            stage(images, Store(self._site.where.store, STAGED))
        wanted = [] if self._site.where.store is not None else shots(images, most=HASHED)
        count = self._cluster.require_ready(need, wanted, self._site.where)
        tell(f"{count} machine{'s' if count != 1 else ''} of the cluster can be used")

    def train(
        self, folder: Path, progress: Callable[[dict[str, Any]], None], stop: threading.Event
    ) -> None:
        """Train a job folder on the cluster; see `duet.runs.worker.run_worker`."""
        if stop.is_set():
            raise DuetError("stopped", remedy="the same command resumes")
        job = read_job(folder)
        wanted = shots(read_slice(folder / node.SLICE).images)
        sent = [path for path in sorted(folder.iterdir()) if _travels(path)]
        files = {path.name: node.packed(path, self._store) for path in sent}
        order, need = Order(job.key, str(folder), files, wanted), Need.of(job.schedule)
        with self._board.listening(progress) as number:
            if need.ranks > 1 and OUTCOME not in files:  # a Fisher alone is the work of one
                found = self._train_together(order, need, number, stop)
            else:
                task = self._cluster.task(
                    _train, need, RETRIES, order, self._known, self._board.actor, number
                )
                found = self._result(task, stop, str(folder))
        self._take(found, folder)
        if self._store is not None:
            self._store.forget_checkpoint(job.key)

    def _train_together(self, order: Order, need: Need, number: int, stop: threading.Event) -> Any:
        sent = self._cluster.put(order)

        def begin(place: Any, begun: int, rank: int) -> Any:
            return self._cluster.task(
                _train_with_others, need, 0, sent, self._known, self._board.actor, (number, begun),
                rank, need.ranks, place=place,
            )  # fmt: skip

        return trained_together(self._cluster, need, begin, order.folder, stop, retries=RETRIES)

    def answer(self, question: Any, folder: Path, stop: threading.Event) -> dict[str, Any]:
        """Answer a question on the cluster; see `duet.runs.questions`."""
        wanted = shots(node.images_of(question))
        need = Need.of_device(question.device)
        task = self._cluster.task(_answer, need, RETRIES, question, wanted, self._known)
        found: Answer = self._result(task, stop, str(folder))
        for name, content in found.files.items():
            node.unpacked(content, folder / name, None)
        return found.found

    def _result(self, task: Any, stop: threading.Event, where: str) -> Any:
        """Wait for a task; raise what it raised."""
        while not self._cluster.is_done(task, STOP_POLL):
            if stop.is_set():
                self._cluster.cancel(task, GRACE)
                raise DuetError("stopped", remedy="the same command resumes")
        return self._cluster.result(task, where)

    def _take(self, found: dict[str, Carried], folder: Path) -> None:
        """Put results in their places, the one that vouches for the others last."""
        for name in node.RESULTS:
            if name in found:
                node.unpacked(found[name], folder / name, self._store)
        remove_checkpoint(folder)


def _travels(path: Path) -> bool:
    """Tell whether a file of a job folder is sent: what it begins with, or goes on from.

    An outcome is there only where a Fisher is still to be computed from it.
    """
    return path.is_file() and not path.name.startswith(".") and path.name != node.LOG
