"""Machines of a Ray cluster: which can train, and tasks on them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from duet.devices import parse_device
from duet.errors import Collected, ConfigError, DuetError, in_short
from duet.runs.engines.images import Shot, Whereabouts, require_same
from duet.training.outcome import versions
from duet.training.schedule import Schedule

ROOM_POLL = 1  # seconds between looks whether a run was stopped that waits for room

COMPARED = ("duet-detect", "torch", "torchvision", "ultralytics", "numpy")
"""Packages that must be the same on all machines: results depend on them."""


@dataclass(frozen=True)
class Need:
    """What one piece of work takes of a machine.

    Attributes:
        cpus: Cores.
        gpus: GPUs, all of one machine.
        ranks: Processes that each take so much, of any machines.
    """

    cpus: int
    gpus: int = 0
    ranks: int = 1

    @classmethod
    def of(cls, schedule: Schedule) -> Need:
        """Return what a training takes: its threads, and beside a GPU what loads its images."""
        device = parse_device(schedule.device)
        loading = schedule.workers if device.kind == "cuda" else 0
        return cls(max(schedule.threads, 1) + loading, len(device.numbers), schedule.ranks)

    def times(self, has: Mapping[str, float]) -> int:
        """Return for how many such processes a machine has room."""
        rooms = [has.get("CPU", 0) // self.cpus]
        rooms += [has.get("GPU", 0) // self.gpus] if self.gpus else []
        return int(min(rooms))

    @classmethod
    def of_device(cls, device: str) -> Need:
        """Return what looking at images takes: a core, and a GPU where it is one."""
        return cls(1, min(len(parse_device(device).numbers), 1))


class LostError(DuetError):
    """A machine went away."""


class Cluster:
    """The cluster that this process is connected to.

    Args:
        ray: The package.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._guard, self._open = threading.Lock(), set[Any]()

    # ---- machines --------------------------------------------------------------------------------

    def machines(self, need: Need) -> dict[str, str]:
        """Return number and name of each machine that has what is needed.

        Raises:
            ConfigError: There is none, or they have no room for all ranks at a time.
        """
        nodes = [one for one in self._ray.nodes() if one["Alive"]]
        fit = {
            one["NodeID"]: f"{one['NodeManagerHostname']} ({one['NodeID'][:8]})"
            for one in nodes
            if need.times(one["Resources"])
        }
        if sum(need.times(one["Resources"]) for one in nodes) < need.ranks:
            have = "; ".join(
                f"{one['Resources'].get('CPU', 0):g} CPUs and {one['Resources'].get('GPU', 0):g} "
                f"GPUs on {one['NodeManagerHostname']}" for one in nodes[:8]
            )  # fmt: skip
            raise ConfigError(
                f"a training takes {need.cpus} CPUs and {need.gpus} GPUs of one machine"
                f"{f', {need.ranks} times' if need.ranks > 1 else ''}, and the cluster's "
                f"{len(nodes)} do not have them: {have}", where="--engine ray",
                remedy="change threads, workers, device or ranks of the schedule, or add machines",
            )  # fmt: skip
        return fit

    def require_ready(self, need: Need, wanted: Sequence[Shot], where: Whereabouts) -> int:
        """Look on each machine that may train whether it can; return how many there are.

        Raises:
            ConfigError: None can, or one has other libraries.
            DataError: One lacks images.
        """
        fit = self.machines(need)
        sent, ours = self._ray.put(list(wanted)), versions()
        tasks = {
            number: self._on(number, name, sent, where, ours) for number, name in fit.items()
        }  # fmt: skip
        found, ready = Collected(), 0
        for number, task in tasks.items():
            with found.noted(), contextlib.suppress(LostError):
                self.result(task, f"node {fit[number]}")
                ready += 1
        found.raise_all("machines of the cluster cannot train")
        if not ready:
            raise LostError("every machine that could train was lost", where="--engine ray")
        return ready

    def _on(self, number: str, name: str, *arguments: Any) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(number, soft=False)
        task = self._ray.remote(_looked).options(
            num_cpus=0, max_retries=0, scheduling_strategy=there
        )
        return self._begun(task.remote(name, *arguments))

    # ---- tasks -----------------------------------------------------------------------------------

    def put(self, value: Any) -> Any:
        """Return a reference to a value that many tasks take."""
        return self._ray.put(value)

    def task(
        self, work: Callable[..., Any], need: Need, retries: int, *arguments: Any,
        place: Any = "SPREAD",
    ) -> Any:  # fmt: skip
        """Begin a task where there is what it needs, as soon as there is."""
        made = self._ray.remote(work).options(
            num_cpus=need.cpus, num_gpus=need.gpus, max_retries=retries, scheduling_strategy=place
        )
        return self._begun(made.remote(*arguments))

    @contextlib.contextmanager
    def room(self, need: Need, stop: threading.Event) -> Iterator[list[Any]]:
        """Wait until there is room for all ranks at once, and yield the place of each.

        They get all they need or nothing, so that no two trainings wait for each other's share; on
        as few machines as have it. Whatever still runs there ends with the block.

        Raises:
            DuetError: ``stop`` was set.
        """
        from ray.util.placement_group import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        share = {"CPU": need.cpus} | ({"GPU": need.gpus} if need.gpus else {})
        group = placement_group([share] * need.ranks, strategy="PACK")
        try:
            while not group.wait(ROOM_POLL):
                if stop.is_set():
                    raise DuetError("stopped", remedy="the same command resumes")
            yield [PlacementGroupSchedulingStrategy(group, rank) for rank in range(need.ranks)]
        finally:
            with contextlib.suppress(self._ray.exceptions.RayError):
                remove_placement_group(group)

    def _begun(self, task: Any) -> Any:
        with self._guard:
            self._open.add(task)
        return task

    def is_done(self, task: Any, seconds: float) -> bool:
        """Wait for a task for so long; return whether it has ended."""
        return bool(self._ray.wait([task], timeout=seconds)[0])

    def result(self, task: Any, where: str) -> Any:
        """Return what a task returned.

        Raises:
            LostError: Its machine was lost.
            DuetError: It could not be finished, in the class in which it said so; says where.
        """
        try:
            found = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            kinds = self._ray.exceptions
            lost = (kinds.NodeDiedError, kinds.TaskUnschedulableError, kinds.WorkerCrashedError)
            kind = LostError if isinstance(error, lost) else DuetError
            remedy = "the same command resumes"
            if isinstance(cause, ImportError):
                remedy = "install the same duet-detect[ray] on every node"
            raise kind(
                f"a task of the cluster failed: {in_short(cause)}", where=where, remedy=remedy
            ) from error
        finally:
            with self._guard:
                self._open.discard(task)
        if isinstance(found, dict) and "exit_code" in found:
            raise DuetError.from_dict(found)
        return found

    def cancel(self, task: Any, grace: float) -> None:
        """End a task; by force if it does not end by itself."""
        for force in (False, True):
            with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                self._ray.cancel(task, force=force)
            if self.is_done(task, grace):
                break
        with self._guard:
            self._open.discard(task)

    def end(self, grace: float) -> None:
        """End all tasks that have not ended."""
        with self._guard:
            left = list(self._open)
        for task in left:
            with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                self._ray.cancel(task)
        deadline = time.monotonic() + grace
        for task in left:
            if not self.is_done(task, max(deadline - time.monotonic(), 0)):
                self.cancel(task, 0.1)

    def actor_here(self, kind: type) -> Any:
        """Return an actor that lives as long as the machine of the command."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = self._ray.get_runtime_context().get_node_id()
        return self._ray.remote(kind).options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False)
        ).remote()  # fmt: skip

    def asked(self, method: Any) -> Any:
        """Return what a method of an actor returns; nothing where it does not answer."""
        try:
            return self._ray.get(method.remote(), timeout=10)
        except self._ray.exceptions.RayError:
            return []


def _looked(
    name: str, wanted: Sequence[Shot], where: Whereabouts, ours: dict[str, str]
) -> dict[str, Any] | None:
    """Look, on a machine, whether it can train; return the error as data, or None."""
    theirs = versions()
    other = [
        f"{package} {theirs.get(package, 'missing')} instead of {ours.get(package, 'none')}"
        for package in COMPARED
        if theirs.get(package) != ours.get(package)
    ]
    try:
        if other:
            raise ConfigError(
                f"it has {', '.join(other)}", where=f"node {name}",
                remedy="install the same versions on every machine: results depend on them",
            )  # fmt: skip
        require_same(wanted, where, name)
    except DuetError as error:
        return error.as_dict()
    return None
