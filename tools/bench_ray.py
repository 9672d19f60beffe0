"""What a job costs more on a Ray cluster than in a process of this machine.

    python tools/bench_ray.py                      # about five minutes
    python tools/bench_ray.py --rounds 9 --json

A cluster of two machines with one core each is started on this one. Both engines take turns at the
same job, which trains nothing worth mentioning: what is left is handing it over, the process that
trains it, and bringing its results back. `empty` is a task that does nothing, handed over by Ray.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import load

SIZE = 64
IMAGES = 4
WARM = 3
"""Jobs of each engine that are not counted: each machine has begun its processes by then."""


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Jobs of each engine.")
@click.option("--store", is_flag=True, help="Let files travel through a folder.")
@click.option("--json", "as_json", is_flag=True)
def main(rounds: int, store: bool, as_json: bool) -> None:
    """Time both engines and print the difference."""
    report = {"schema": 1, "rounds": rounds, "store": store, **measured(rounds, store=store)}
    print(json.dumps(report, indent=2) if as_json else as_text(report))


def measured(rounds: int, *, store: bool) -> dict[str, Any]:
    """Return seconds of each engine, in turn on the same jobs, and their differences."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    from duet.runs.engines.engine import Wishes, opened
    from duet.runs.forks import forking
    from duet.runs.worker import run_worker

    work, sockets = (Path(tempfile.mkdtemp(prefix="ray")) for _ in range(2))
    os.environ["RAY_TMPDIR"] = str(sockets)  # else its address is written to a place of its own
    cluster = Cluster()
    try:
        shared = {"object_store_memory": 80_000_000, "env_vars": dict(os.environ)}
        place = str(sockets / "ray")
        cluster.add_node(num_cpus=0, include_dashboard=False, temp_dir=place, **shared)
        for _ in range(2):
            cluster.add_node(num_cpus=1, **shared)
        wishes = Wishes(str(cluster.address), str(work / "store") if store else None)
        with forking(run_worker) as here, opened("ray", wishes, work) as there:
            sides: dict[str, Callable[[Path], Any]] = {
                "local": lambda job: here(job, print_nothing, threading.Event()),
                "ray": lambda job: there.run(job, print_nothing, threading.Event()),
                "empty": lambda job: nothing(),
            }
            return taken(sides, work, rounds)
    finally:
        cluster.shutdown()
        for folder in (work, sockets):
            shutil.rmtree(folder, ignore_errors=True)


def taken(sides: dict[str, Callable[[Path], Any]], work: Path, rounds: int) -> dict[str, Any]:
    """Return wall seconds of every side, in turn; the first jobs of each are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-WARM, rounds):
        for name, run in sides.items():
            job = made(work / f"{name}-{number + WARM}")
            began = time.perf_counter()
            run(job)
            if number >= 0:
                seconds[name].append(time.perf_counter() - began)
    more = [ray - local for ray, local in zip(seconds["ray"], seconds["local"], strict=True)]
    return {
        "seconds": seconds,
        "median": {name: statistics.median(found) for name, found in seconds.items()},
        "minimum": {name: min(found) for name, found in seconds.items()},
        "more_median": statistics.median(more), "more_of_minima":
        min(seconds["ray"]) - min(seconds["local"]), "load": load()[0],
    }  # fmt: skip


def nothing() -> None:
    """Hand a task over that does nothing."""
    import ray

    ray.get(ray.remote(_nothing).remote())


def _nothing() -> None:
    """Do nothing, on another machine."""


def print_nothing(record: dict[str, Any]) -> None:
    """Take progress."""


def made(folder: Path) -> Path:
    """Write a job of a YOLO11n with a few images, for one epoch."""
    from PIL import Image

    from duet.families.table import resolve_family
    from duet.series.model import Annotation, Slice
    from duet.training.job import Job, JobPart, write_job, write_slice, write_state
    from duet.training.schedule import Schedule

    folder.mkdir()
    images = []
    for number in range(IMAGES):
        pixels = np.random.default_rng(number).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        images.append(folder.parent / f"{number}.png")
        if not images[-1].exists():
            Image.fromarray(pixels).save(images[-1])
    box = Annotation(np.zeros(1, np.int64), np.full((1, 4), 0.5), SIZE, SIZE)
    data = Slice("d", "train", ("thing",), tuple(images), (box,) * IMAGES)
    family, architecture = resolve_family("yolo"), "yolo11n.yaml"
    fresh = family.fresh(architecture, ("thing",), seed=0)
    start = family.start_state(
        fresh, architecture=architecture, head="rows", classes=("thing",), increment="d", seed=0
    )
    schedule = Schedule(epochs=1, batch=IMAGES, image_size=SIZE, warmup_epochs=0, fisher_images=0)
    job = Job(
        family="yolo", architecture=architecture, head="rows", phase="base",
        parts=(JobPart(increment="d", classes=("thing",)),), schedule=schedule, key=folder.name,
    )  # fmt: skip
    write_state(folder / "start.safetensors", start)
    write_slice(folder / "slice.npz", data)
    write_job(folder, job)
    return folder


def as_text(report: dict[str, Any]) -> str:
    """Return the report for people."""
    lines = [f"{'':8}{'median s':>10}{'minimum s':>11}"]
    lines += [
        f"{name:8}{report['median'][name]:10.2f}{report['minimum'][name]:11.2f}"
        for name in report["median"]
    ]
    lines.append(
        f"a job on the cluster takes {report['more_median']:+.2f} s (median of rounds), "
        f"{report['more_of_minima']:+.2f} s (of minima); load {report['load']:.1f}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
