"""What a training costs before it trains: a process of its own against one that a server forks.

    python tools/bench_startup.py --json

The job is a short increment: 16 noise images, YOLO11n with two towers, distillation, one epoch of
four steps. Each round runs it in a process of its own, and in a run's fork server that begins with
the round: the first job there pays for the server, the others do not. CPU seconds are the kernel's,
of the job's process; of a server's first job those of the server, too. `first step` is spent when
the first step is reported, which bounds from above what it takes until the trainer is ready;
`whole` when the process has ended. The trained weights of all must be equal.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from machine import load

if TYPE_CHECKING:
    from duet.runs.lab import RunJob

ARCHITECTURE = "yolo11n.yaml"
LIMIT = 1.5  # the goal for the first step of a forked job, CPU seconds
TICK = 1 / os.sysconf("SC_CLK_TCK")
KINDS = ("own process", "server, first job", "server, later job")


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--later", default=2, show_default=True, help="Jobs of a server after its first.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(rounds: int, later: int, as_json: bool) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), rounds, later)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'CPU s, median (least)':<24}{'first step':>16}{'whole':>16}{'private MB':>14}")
    for name, row in result["jobs"].items():
        cells = [f"{row[key]['median']:.2f} ({row[key]['min']:.2f})" for key in row]
        print(f"{name:<24}{cells[0]:>16}{cells[1]:>16}{cells[2]:>14}")
    ratio = result["ratio"]
    print(
        f"later job / own process: first step {ratio['first_step']:.2f}, whole {ratio['whole']:.2f}"
    )


def measure(folder: Path, rounds: int, later: int) -> dict[str, Any]:
    """Return what each kind of job costs, and ratios of the medians."""
    from duet.files import sha256_file
    from duet.runs.forks import forking
    from duet.runs.worker import run_worker

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    write = writer(folder)
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    weights = set()
    for number in range(rounds):
        job = write(folder / f"own-{number}")
        found[KINDS[0]].append(train(run_worker, job))
        weights.add(sha256_file(job / "trained.safetensors"))
        with forking(run_worker) as run:
            for place in range(1 + later):
                job = write(folder / f"forked-{number}-{place}")
                found[KINDS[min(place, 1) + 1]].append(train(run, job, first=not place))
                weights.add(sha256_file(job / "trained.safetensors"))
    if len(weights) != 1:
        raise click.ClickException(f"{len(weights)} results of one job")
    jobs = {
        kind: {key: summary([row[key] for row in rows]) for key in rows[0]}
        for kind, rows in found.items()
    }
    own, last = jobs[KINDS[0]], jobs[KINDS[2]]
    return {
        "schema": 1,
        "what": "CPU seconds and private memory (MB, at the first step) of a short increment job",
        "settings": {"architecture": ARCHITECTURE, "rounds": rounds, "order": "in turn"},
        "jobs": jobs,
        "ratio": {key: last[key]["median"] / own[key]["median"] for key in own},
        "limit": {"server, later job, first_step": LIMIT},
        "equal_weights": True,
        "load": load(),
    }


def summary(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3)}


def writer(folder: Path) -> Any:
    """Return what writes the job into a folder."""
    import numpy as np
    import torch
    from PIL import Image

    from duet.families.yolo.adapter import FAMILY
    from duet.families.yolo.build import stock_model
    from duet.increments.base import StartWeights
    from duet.series import Annotation, Slice
    from duet.training.config import Distillation
    from duet.training.job import Job, JobPart, write_job, write_slice, write_state
    from duet.training.schedule import Schedule

    random, images = np.random.default_rng(0), []
    for number in range(16):
        images.append(folder / f"{number}.png")
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(images[-1])
    labels = [Annotation(np.array([k % 2]), np.full((1, 4), 0.5), 64, 64) for k in range(16)]
    data = Slice("noise", "train", ("c", "d"), tuple(images), tuple(labels))
    torch.manual_seed(0)
    theta = StartWeights(stock_model(ARCHITECTURE, 2, width=64).state_dict())
    start = FAMILY.start_state(
        theta, architecture=ARCHITECTURE, head="towers", classes=("a", "b"), increment="old", seed=0
    )
    start = FAMILY.grow(start, classes=("c", "d"), increment="new", seed=1, source=None)
    job = Job(
        family="yolo", architecture=ARCHITECTURE, head="towers", phase="increment",
        parts=tuple(JobPart(increment=p.increment, classes=p.classes) for p in start.parts),
        distill=Distillation(weight=0.01),
        schedule=Schedule(batch=4, image_size=64, epochs=1, warmup_epochs=0, fisher_images=0),
    )  # fmt: skip

    def write(place: Path) -> Path:
        place.mkdir()
        write_state(place / "start.safetensors", start)
        write_slice(place / "slice.npz", data)
        write_job(place, job)
        return place

    return write


def train(run: RunJob, folder: Path, *, first: bool = False) -> dict[str, float]:
    """Run a job and return what it cost.

    Args:
        run: Where.
        folder: The job.
        first: It is the first of a server, whose costs count.
    """
    found: dict[str, float] = {}
    server: list[int] = []
    before = children(os.getpid())

    def hear(record: dict[str, Any]) -> None:
        if not found:
            job = process_in(folder / "engine")
            server.append(parent(job))
            found["first_step"] = own(job) + (own(server[0]) if first else 0)
            found["whole"] = -children(server[0])
            found["private_mb"] = private(job)

    run(folder, hear, threading.Event())
    if server[0] == os.getpid():
        found["whole"] = children(os.getpid()) - before
    else:
        found["whole"] += children(server[0]) + (own(server[0]) if first else 0)
    return found


def stat(process: int) -> list[str]:
    """Return the fields of /proc/PID/stat that follow the name."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def parent(process: int) -> int:
    return int(stat(process)[1])


def own(process: int) -> float:
    """Return the CPU seconds of a process so far."""
    return sum(map(int, stat(process)[11:13])) * TICK


def children(process: int) -> float:
    """Return the CPU seconds of the children of a process that have ended."""
    return sum(map(int, stat(process)[13:15])) * TICK


def private(process: int) -> float:
    """Return the memory that a process shares with no other, MB."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) / 1024
    raise KeyError("Private_Dirty")


def process_in(folder: Path) -> int:
    """Return the process that works in a folder."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if place.joinpath("cwd").readlink() == folder.resolve():
                return int(place.name)
        except OSError:
            continue  # it has ended, or is somebody else's
    raise ProcessLookupError(str(folder))


if __name__ == "__main__":
    if sys.platform != "linux":
        sys.exit("Linux alone tells what is asked here")
    main()
