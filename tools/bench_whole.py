"""What a base stage costs as a whole process against `yolo train` of the same images.

    python tools/bench_whole.py --json

The flat scenes of the Emoji series, 450 to train on and 150 to validate on, YOLO11n from random
weights, batch 16 at 160 px, AdamW, no mosaic, one thread, no loading processes, images cached in
memory. Ours is the worker as a run starts it; theirs is the command with the same settings, once as
it is (it validates after each epoch and at the end) and once told not to (`val=False`: it still
does after the last epoch, and again with the best weights). They take turns; CPU seconds are the
kernel's, of the process and all that it started, imports included.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from machine import load, machine

if TYPE_CHECKING:
    from duet.series import Slice
    from duet.training.job import Job

OURS, THEIRS, LEAST = "duet worker", "yolo train", "yolo train, val=False"
GOAL = 0.85
ARCHITECTURE = "yolo11n.yaml"
YOLO = "import sys; from ultralytics.cfg import entrypoint; entrypoint(' '.join(sys.argv[1:]))"


@click.command()
@click.option("--epochs", default=2, show_default=True)
@click.option("--rounds", default=2, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(epochs: int, rounds: int, as_json: bool) -> None:
    """Measure and print."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), epochs, rounds)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for name, row in result["processes"].items():
        print(f"{name:<24}{row['cpu_s']:>8.1f} CPU s, least {row['cpu_s_min']:.1f}, "
              f"wall {row['wall_s']:.1f} s")  # fmt: skip
    for name, ratio in result["ratios"].items():
        print(f"{OURS} / {name}: {ratio:.3f} (goal <= {GOAL})")


def measure(folder: Path, epochs: int, rounds: int) -> dict[str, Any]:
    """Return what the processes took, and the ratios of their medians."""
    from duet.training.outcome import versions

    before = load()
    slices = scenes(folder / "data")
    job, start = base_job(slices["train"], epochs)
    data = as_engine_data(folder / "engine", slices)
    options = engine_options(job, data)
    spent: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds):
        turns: dict[str, Callable[[Path], None]] = {
            OURS: lambda place: work(place, job, start, slices["train"]),
            THEIRS: lambda place: yolo_train({**options, "val": True, "project": place}),
            LEAST: lambda place: yolo_train({**options, "val": False, "project": place}),
        }
        names = list(turns) if number % 2 == 0 else list(turns)[::-1]
        for name in names:
            spent.setdefault(name, []).append(
                cost(turns[name], folder / f"{name.replace(' ', '-')}-{number}")
            )
    processes = {name: summary(spent[name]) for name in (OURS, THEIRS, LEAST)}
    ours = processes[OURS]["cpu_s"]
    return {
        "what": "a base stage as a whole process",
        "settings": {"architecture": ARCHITECTURE, "epochs": epochs, "rounds": rounds,
                     **{f"{kind}_images": len(one.images) for kind, one in slices.items()}},
        "processes": processes,
        "ratios": {name: ours / processes[name]["cpu_s"] for name in (THEIRS, LEAST)},
        "goal": GOAL,
        "machine": {**machine(), "load_before": before},
        "versions": versions(),
    }  # fmt: skip


def scenes(folder: Path) -> dict[str, Slice]:
    """Draw the scenes; return what a base learns from and is validated on."""
    from duet.emoji.build import build
    from duet.runs.inputs import read_inputs
    from duet.series import eval_slice, train_slice
    from duet.shipped import shipped

    build(folder, seed=0)
    series = shipped("configs", "series", "emoji-2phase.yaml")
    first = read_inputs(series, data_root=folder).series.increments[0]
    return {
        "train": train_slice(first.data, first.classes),
        "val": eval_slice(first.data, first.classes, "val"),
    }


def base_job(data: Slice, epochs: int) -> tuple[Job, Any]:
    """Return the job of a base, and where it starts."""
    import torch

    from duet.families.yolo.adapter import FAMILY
    from duet.families.yolo.build import stock_model
    from duet.increments.base import StartWeights
    from duet.training.job import Job, JobPart
    from duet.training.schedule import Schedule

    torch.manual_seed(0)
    theta = StartWeights(stock_model(ARCHITECTURE, len(data.classes), width=64).state_dict())
    start = FAMILY.start_state(
        theta, architecture=ARCHITECTURE, head="towers", classes=list(data.classes),
        increment="base", seed=0,
    )  # fmt: skip
    schedule = Schedule(batch=16, image_size=160, epochs=epochs, warmup_epochs=0, fisher_images=0)
    part = JobPart(increment="base", classes=data.classes)
    job = Job(family="yolo", architecture=ARCHITECTURE, head="towers", phase="base", parts=(part,),
              schedule=schedule)  # fmt: skip
    return job, start


def as_engine_data(folder: Path, slices: dict[str, Slice]) -> Path:
    """Lay slices out as the engine reads them; return the file that describes them."""
    import yaml

    for kind, one in slices.items():
        images, labels = folder / "images" / kind, folder / "labels" / kind
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for path, objects in zip(one.images, one.annotations, strict=True):
            (images / path.name).symlink_to(path.resolve())
            rows = zip(objects.class_ids, objects.boxes, strict=True)
            lines = [" ".join(map(str, (number, *box))) for number, box in rows]
            (labels / f"{path.stem}.txt").write_text("\n".join(lines))
    names = dict(enumerate(slices["train"].classes))
    about = {"path": str(folder), "train": "images/train", "val": "images/val", "names": names}
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump(about))
    return file


def engine_options(job: Job, data: Path) -> dict[str, Any]:
    """Return the job's settings as `yolo train` takes them."""
    from duet.families.ultralytics.arguments import engine_overrides

    options = engine_overrides(job, data.parent)
    left = ("task", "mode", "augmentations", "cls_remap")
    return {**{k: v for k, v in options.items() if k not in left}, "data": data, "name": "run"}


def work(folder: Path, job: Job, start: Any, data: Slice) -> None:
    """Run a job in a process of its own, as a run does."""
    from duet.runs.worker import run_worker
    from duet.training.job import write_job, write_slice, write_state

    folder.mkdir()
    write_state(folder / "start.safetensors", start)
    write_slice(folder / "slice.npz", data)
    write_job(folder, job)
    run_worker(folder, lambda record: None, threading.Event())


def yolo_train(options: dict[str, Any]) -> None:
    """Run the competitor's command."""
    words = [f"{key}={value}" for key, value in options.items()]
    environment = {**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    done = subprocess.run(
        [sys.executable, "-c", YOLO, "train", *words],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise click.ClickException(done.stderr[-2000:])


def cost(run: Callable[[Path], None], place: Path) -> tuple[float, float]:
    """Return the CPU seconds of all processes that ended meanwhile, and wall seconds."""

    def ended() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    cpu, wall = ended(), time.perf_counter()
    run(place)
    return ended() - cpu, time.perf_counter() - wall


def summary(spent: list[tuple[float, float]]) -> dict[str, float]:
    cpu, wall = zip(*spent, strict=True)
    return {
        "cpu_s": statistics.median(cpu),
        "cpu_s_min": min(cpu),
        "wall_s": statistics.median(wall),
    }


if __name__ == "__main__":
    main()
