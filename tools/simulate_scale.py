"""How long a run takes on so many machines: its tasks, laid out in time.

    python tools/simulate_scale.py
    python tools/simulate_scale.py --images 16500 --classes 20 --size 640 --epochs 100 --speed 60

The tasks and what waits for what are those of `duet run`: a chain is one training after the other,
references wait for nobody, a detector is looked at when it is there. What a task costs is a formula
of images, epochs, pixels, parameters and classes; its constants were measured on one thread of a
two-core server CPU (`docs/scale.md` says where). Machines are alike, and are lost at random.
"""

from __future__ import annotations

import heapq
import json
import random
import statistics
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import click

from duet.evaluation.pairs import cells_needed, reference_slices
from duet.runs.plan import DISTILLATION, PARAMETERS, SECONDS_PER_IMAGE

REFIT = 0.5  # of a plain epoch: the trunk is only asked
LOOK = 0.011  # seconds of one image of 160 px through YOLO11n at evaluation
MERGE = 9e-9  # seconds of one parameter, two stages, DuET
READY = 4.4  # seconds until a trainer is ready: imports, set-up, end of a job
HANDED = 1.0  # seconds until a task that is handed over begins, and its results are back
NETWORK = 100e6  # bytes a second between a machine and the store
REPAIR = 300.0  # seconds until a lost machine is replaced


@dataclass(frozen=True)
class Case:
    """A series and how it is learned.

    Attributes:
        increments: T.
        images: Of the training split of each increment.
        tested: Images of the test split of each domain.
        classes: New ones of each increment.
        epochs: Of a stage.
        refit: Epochs of the re-fit of each increment after the first.
        parameters: Of the network.
        size: Longer side of an image, pixels.
        seeds: Repeats.
        strategies: Chains of each repeat.
        speed: How many times faster than the thread that the constants are of; a GPU 50 to 200.
    """

    increments: int
    images: int = 2000
    tested: int = 1000
    classes: int = 10
    epochs: int = 50
    refit: int = 12
    parameters: float = PARAMETERS
    size: int = 640
    seeds: int = 1
    strategies: int = 1
    speed: float = 1.0

    @property
    def scale(self) -> float:
        """Cost of an image against one of 160 px through YOLO11n, on one slot."""
        return (self.size / 160) ** 2 * max(self.parameters / PARAMETERS, 1.0) / self.speed

    def training(self, epochs: int, factor: float) -> float:
        """Return seconds of a training of one increment's images."""
        return self.images * epochs * factor * SECONDS_PER_IMAGE * self.scale + READY + self.sent

    @property
    def sent(self) -> float:
        """Seconds in which the files of a job travel: its start, and its result."""
        return HANDED + 2 * 4 * self.parameters / NETWORK

    @property
    def look(self) -> float:
        """Seconds of one evaluation."""
        return self.tested * LOOK * self.scale + HANDED + 4 * self.parameters / NETWORK


@dataclass
class Task:
    """Something that a slot does.

    Attributes:
        seconds: How long.
        epoch: Seconds of it that are lost at most with a machine, where checkpoints are kept.
        rank: What everything waits for goes first.
        after: Tasks that it waits for.
    """

    seconds: float
    epoch: float
    rank: int
    after: tuple[int, ...] = ()


def tasks(case: Case) -> list[Task]:
    """Return the tasks of a run, in an order in which they could be done."""
    steps = [(f"d{n}", tuple(f"c{n}.{c}" for c in range(case.classes)))
             for n in range(case.increments)]  # fmt: skip
    cells = defaultdict(set)
    for stage, domain, _ in cells_needed(steps):
        cells[stage].add(domain)
    made: list[Task] = []

    def add(seconds: float, epochs: int, rank: int, after: tuple[int, ...] = ()) -> int:
        made.append(Task(seconds, seconds / max(epochs, 1), rank, after))
        return len(made) - 1

    plain = case.training(case.epochs, 1.0)
    for _ in range(case.seeds):
        base = add(plain, case.epochs, 0)
        for _ in range(case.strategies):
            last = base
            for stage in range(1, case.increments + 1):
                if stage > 1:
                    merge = MERGE * case.parameters
                    seconds = case.training(case.epochs, DISTILLATION) + merge
                    last = add(seconds, case.epochs, 0, (last,))
                    last = add(case.training(case.refit, REFIT), case.refit, 0, (last,))
                for _ in cells[stage]:
                    add(case.look, 1, 2, (last,))
        for _ in reference_slices(steps):
            trained = add(plain, case.epochs, 1)
            add(case.look, 1, 2, (trained,))
    return made


@dataclass(frozen=True)
class Outcome:
    """What a simulated run took.

    Attributes:
        seconds: From begin to end.
        busy: Share of the slots' time in which they worked.
        lost: Machines that were lost.
        again: Seconds of work that was done twice.
    """

    seconds: float
    busy: float
    lost: int
    again: float


def simulate(work: list[Task], slots: int, *, hours: float, kept: bool, seed: int) -> Outcome:
    """Lay out tasks on machines of one slot.

    Args:
        work: What `tasks` returned.
        slots: Machines.
        hours: Mean time until a machine is lost; 0: none is.
        kept: Checkpoints are: what is lost is at most an epoch, else the whole task so far.
        seed: Of the losses.
    """
    chance, now, free, lost, again, spent = random.Random(seed), 0.0, slots, 0, 0.0, 0.0
    waits, followers = [len(task.after) for task in work], defaultdict(list)
    for number, task in enumerate(work):
        for before in task.after:
            followers[before].append(number)
    ready = [(task.rank, number) for number, task in enumerate(work) if not waits[number]]
    heapq.heapify(ready)
    running: list[tuple[float, int]] = []  # (time, task; -1: a machine is back)
    left = [task.seconds for task in work]
    while ready or running:
        while free and ready:
            _, number = heapq.heappop(ready)
            free -= 1
            until = chance.expovariate(1 / (3600 * hours)) if hours else float("inf")
            if until >= left[number]:
                spent += left[number]
                heapq.heappush(running, (now + left[number], number))
                continue
            epoch = work[number].epoch
            done = until // epoch * epoch if kept else 0.0
            left[number], lost, again = left[number] - done, lost + 1, again + until - done
            spent += until
            heapq.heappush(running, (now + until, -2 - number))
            heapq.heappush(running, (now + until + REPAIR, -1))
        now, number = heapq.heappop(running)
        if number <= -2:  # its machine is lost, and comes back later
            heapq.heappush(ready, (work[-2 - number].rank, -2 - number))
            continue
        free += 1
        for other in followers[number] if number >= 0 else ():
            waits[other] -= 1
            if not waits[other]:
                heapq.heappush(ready, (work[other].rank, other))
    return Outcome(now, spent / (now * slots), lost, again)


def longest(work: list[Task]) -> float:
    """Return the seconds of the longest row of tasks that wait for each other."""
    ends: list[float] = []
    for task in work:
        ends.append(max((ends[before] for before in task.after), default=0.0) + task.seconds)
    return max(ends)


def table(
    case: Case, lengths: list[int], machines: list[int], hours: float
) -> list[dict[str, Any]]:
    """Return one row per length of the series and number of machines."""
    rows = []
    for length in lengths:
        work = tasks(replace(case, increments=length))
        for slots in machines:
            found = {
                kept: [simulate(work, slots, hours=hours, kept=kept, seed=s) for s in range(3)]
                for kept in (True, False)
            }
            calm = simulate(work, slots, hours=0, kept=True, seed=0)
            rows.append({
                "increments": length, "machines": slots, "tasks": len(work),
                "work_hours": sum(task.seconds for task in work) / 3600,
                "longest_hours": longest(work) / 3600, "hours": calm.seconds / 3600,
                "busy": calm.busy,
                "lost": statistics.mean(one.lost for one in found[True]),
                "hours_kept": statistics.mean(one.seconds for one in found[True]) / 3600,
                "hours_not_kept": statistics.mean(one.seconds for one in found[False]) / 3600,
            })  # fmt: skip
    return rows


def as_text(rows: list[dict[str, Any]]) -> str:
    """Return the table as Markdown."""
    heads = (
        "T", "machines", "tasks", "work, h", "longest row, h", "run, h", "busy", "lost",
        "with a store, h", "without, h",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        lines.append(
            f"| {row['increments']} | {row['machines']} | {row['tasks']} | {row['work_hours']:.0f} "
            f"| {row['longest_hours']:.1f} | {row['hours']:.1f} | {row['busy']:.0%} "
            f"| {row['lost']:.0f} | {row['hours_kept']:.1f} | {row['hours_not_kept']:.1f} |"
        )
    return "\n".join(lines)


@click.command()
@click.option("--increments", "lengths", default="4,16,100", show_default=True)
@click.option("--machines", default="1,8,100,1000", show_default=True)
@click.option("--images", default=2000, show_default=True, help="Of an increment.")
@click.option("--classes", default=10, show_default=True, help="New ones of an increment.")
@click.option("--epochs", default=50, show_default=True)
@click.option("--size", default=640, show_default=True, help="Pixels.")
@click.option("--parameters", default=PARAMETERS, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--strategies", default=2, show_default=True)
@click.option("--speed", default=60.0, show_default=True, help="Of a machine, in CPU threads.")
@click.option("--hours", default=24.0, show_default=True, help="Until a machine is lost, mean.")
@click.option("--json", "as_json", is_flag=True)
def main(lengths: str, machines: str, hours: float, as_json: bool, **given: Any) -> None:
    """Print how long runs take."""
    case = Case(increments=2, **given)
    rows = table(case, [int(n) for n in lengths.split(",")], [int(n) for n in machines.split(",")],
                 hours)  # fmt: skip
    print(json.dumps({"schema": 1, "case": vars(case), "rows": rows}) if as_json else as_text(rows))


if __name__ == "__main__":
    main()
