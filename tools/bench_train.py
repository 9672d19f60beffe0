"""What the two losses cost: one training step with L*_Distill and L_DC against plain fine-tuning.

    python tools/bench_train.py --json

Both trainers are the real ones, set up from job folders; they take turns on the same batch in one
process (A B A B), so a busy machine slows both. The batch is prepared once: data loading, which
both pay, would only flatter the ratio. Thread CPU time is what counts; wall time is shown beside.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from duet.increments.forms import HeadForm

LIMIT = 1.30  # the goal for the ratio of CPU times


@click.command()
@click.option("--architecture", default="yolo11n.yaml", show_default=True)
@click.option("--head", type=click.Choice(["rows", "towers", "parallel"]), default="towers")
@click.option("--image-size", default=160, show_default=True, help="Pixels.")
@click.option("--batch", default=16, show_default=True, help="Images per step.")
@click.option("--classes", default=10, show_default=True, help="Per increment.")
@click.option("--steps", default=20, show_default=True, help="Measured steps of each kind.")
@click.option("--warmup", default=3, show_default=True, help="Steps of each kind not measured.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(as_json: bool, **options: Any) -> None:
    """Measure and print."""
    # The engine draws a progress bar on stdout, which is for the result.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        result = measure(Path(folder), **options)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'step':<22}{'CPU ms':>10}{'wall ms':>10}")
    for name, row in result["steps"].items():
        print(f"{name:<22}{row['cpu_ms']:>10.1f}{row['wall_ms']:>10.1f}")
    ratio = result["ratio"]
    print(f"ratio of CPU times {ratio['cpu']:.3f} (goal <= {LIMIT:.2f}), wall {ratio['wall']:.3f}")


def measure(
    folder: Path, *, architecture: str, head: HeadForm, image_size: int, batch: int, classes: int,
    steps: int, warmup: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Return medians per kind of step and the median of the ratios of neighbouring steps."""
    from duet.training.outcome import versions

    trainers = {
        name: _trainer(folder / name, architecture, head, image_size, batch, classes, seed, losses)
        for name, losses in (("plain", False), ("L*_Distill + L_DC", True))
    }
    first = next(iter(trainers.values()))
    images = first.preprocess_batch(next(iter(first.train_loader)))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
    for round_ in range(warmup + steps):
        for name, trainer in trainers.items():
            spent = _step(trainer, dict(images))
            if round_ >= warmup:
                times[name].append(spent)
    plain, both = times.values()
    return {
        "what": "one training step with both losses / plain fine-tuning of the same detector",
        "settings": {
            "architecture": architecture, "head": head, "increments": 2, "classes": classes,
            "image_size": image_size, "batch": batch, "steps": steps, "warmup": warmup,
            "seed": seed, "threads": 1, "order": "A B A B in one process",
        },
        "steps": {
            name: {
                "cpu_ms": 1000 * statistics.median(cpu for cpu, _ in rows),
                "wall_ms": 1000 * statistics.median(wall for _, wall in rows),
                "cpu_ms_min": 1000 * min(cpu for cpu, _ in rows),
            }
            for name, rows in times.items()
        },
        "ratio": {
            "cpu": statistics.median(b[0] / a[0] for a, b in zip(plain, both, strict=True)),
            "wall": statistics.median(b[1] / a[1] for a, b in zip(plain, both, strict=True)),
            "cpu_of_minima": min(b[0] for b in both) / min(a[0] for a in plain),
            "limit": LIMIT,
        },
        "machine": _machine(),
        "versions": versions(),
    }  # fmt: skip


def _trainer(
    folder: Path, architecture: str, head: HeadForm, image_size: int, batch: int, classes: int,
    seed: int, losses: bool,
) -> Any:  # fmt: skip
    """Set a real trainer up from a job folder, with or without the losses."""
    import torch
    from safetensors.torch import save_file

    from duet.families.ultralytics import engine
    from duet.families.ultralytics.arguments import engine_overrides
    from duet.families.ultralytics.train import JOB_VARIABLE
    from duet.families.yolo.adapter import FAMILY
    from duet.families.yolo.build import stock_model
    from duet.families.yolo.train import IncrementTrainer
    from duet.increments.base import StartWeights
    from duet.training.config import Directional, Distillation, Schedule
    from duet.training.job import Job, JobPart, write_job, write_slice, write_state

    names = [f"class{number}" for number in range(2 * classes)]
    torch.manual_seed(seed)
    theta = StartWeights(stock_model(architecture, classes, width=64).state_dict())
    start = FAMILY.start_state(
        theta, architecture=architecture, head=head, classes=names[:classes], increment="old",
        seed=seed,
    )  # fmt: skip
    start = FAMILY.grow(start, classes=names[classes:], increment="new", seed=seed + 1, source=None)
    job = Job(
        family="yolo", architecture=architecture, head=head, phase="increment", seed=seed,
        parts=tuple(JobPart(increment=p.increment, classes=p.classes) for p in start.parts),
        distill=Distillation(weight=0.01 if losses else 0),
        directional=Directional(weight=0.01 if losses else 0),
        schedule=Schedule(batch=batch, image_size=image_size, epochs=1, warmup_epochs=0),
    )  # fmt: skip
    folder.mkdir()
    write_state(folder / "start.safetensors", start)
    write_slice(folder / "slice.npz", _scenes(folder, names[classes:], batch, image_size, seed))
    direction = {name: 1e-3 * torch.randn_like(tensor) for name, tensor in start.shared.items()}
    save_file(direction, folder / "direction.safetensors")
    write_job(folder, job)
    os.environ[JOB_VARIABLE] = str(folder)
    trainer = IncrementTrainer(overrides=engine_overrides(job, folder))
    engine.set_threads(1)
    trainer._setup_train()
    trainer.epoch = 0
    trainer._model_train()
    return trainer


def _scenes(folder: Path, classes: list[str], count: int, size: int, seed: int) -> Any:
    """Write noise images and return a slice with three boxes on each."""
    import numpy as np
    from PIL import Image

    from duet.series import Annotation, Slice

    random = np.random.default_rng(seed)
    images = []
    for number in range(count):
        images.append(folder / f"{number}.png")
        noise = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(images[-1])
    boxes = [np.hstack([random.uniform(0.3, 0.7, (3, 2)), random.uniform(0.1, 0.4, (3, 2))])
             for _ in images]  # fmt: skip
    labelled = [Annotation(random.integers(0, len(classes), 3), one, size, size) for one in boxes]
    return Slice("noise", "train", tuple(classes), tuple(images), tuple(labelled))


def _step(trainer: Any, batch: dict[str, Any]) -> tuple[float, float]:
    """Run one step as the engine's loop does; return CPU and wall seconds."""
    cpu, wall = time.thread_time(), time.perf_counter()
    loss, _ = trainer.model(batch)
    trainer.scaler.scale(loss.sum()).backward()
    trainer.optimizer_step()
    return time.thread_time() - cpu, time.perf_counter() - wall


def _machine() -> dict[str, Any]:
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "system": platform.platform(),
    }


if __name__ == "__main__":
    main()
