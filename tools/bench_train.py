"""What a training step costs: plain, with distillation, with L_DC too, and `yolo train`'s own.

    python tools/bench_train.py --json

All trainers are the real ones: ours are set up from job folders, the competitor is the engine's as
`yolo train` makes it, with the same images, batch, optimizer and augmentation. They take turns in
one process, in an order that changes from round to round, so a busy machine slows all of them. Each
step gets images of its own, from the loader's bytes on, as a training does: the previous detector
must look at every batch, or at the share of it that `distill.images` says, and the tool counts that
it does. What loading costs, which all pay alike, is left out. Thread CPU time is what counts; wall
time is shown beside.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from machine import load, machine

if TYPE_CHECKING:
    from duet.increments.forms import HeadForm
    from duet.training.schedule import PrecisionChoice

BATCHES = 4  # different batches, in turn

GOALS = {
    ("plain", "plain, NCHW"): 0.85,
    ("plain", "yolo train"): 0.85,
    ("distilled", "plain"): 1.15,
    ("distilled, a quarter", "plain"): 1.15,
}
"""(step, against) -> ratio of CPU times that it should stay below."""


@dataclass
class Contender:
    """A trainer and what its steps took.

    Attributes:
        trainer: Set up, at the start of its first epoch.
        batches: As its loader gives them: uint8.
        calls: How often its teacher looked at a batch.
        spent: CPU and wall seconds of each measured step.
    """

    trainer: Any
    batches: list[dict[str, Any]]
    calls: int = 0
    spent: list[tuple[float, float]] = field(default_factory=list)

    @property
    def has_teacher(self) -> bool:
        """Whether a previous detector looks at each batch."""
        return getattr(self.trainer, "teacher", None) is not None

    def step(self, number: int) -> tuple[float, float]:
        """Run one step as the engine's loop does; return CPU and wall seconds."""
        import torch

        batch = {
            key: value.clone() if isinstance(value, torch.Tensor) else value
            for key, value in self.batches[number % len(self.batches)].items()
        }
        trainer = self.trainer
        cpu, wall = time.thread_time(), time.perf_counter()
        loss, _ = trainer.model(trainer.preprocess_batch(batch))
        trainer.scaler.scale(loss.sum()).backward()
        trainer.optimizer_step()
        return time.thread_time() - cpu, time.perf_counter() - wall


@click.command()
@click.option("--architecture", default="yolo11n.yaml", show_default=True)
@click.option("--head", type=click.Choice(["rows", "towers", "parallel"]), default="towers")
@click.option("--image-size", default=160, show_default=True, help="Pixels.")
@click.option("--batch", default=16, show_default=True, help="Images per step.")
@click.option("--classes", default=10, show_default=True, help="Per increment.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of our steps but the one in NCHW.",
)
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
    print(f"{'step':<22}{'CPU ms':>10}{'least':>10}{'wall ms':>10}")
    for name, row in result["steps"].items():
        print(f"{name:<22}{row['cpu_ms']:>10.1f}{row['cpu_ms_min']:>10.1f}{row['wall_ms']:>10.1f}")
    for row in result["ratios"]:
        goal = f" (goal <= {row['goal']:.2f})" if row["goal"] else ""
        print(f"{row['step']} / {row['against']}: {row['cpu']:.3f}, "
              f"of minima {row['cpu_of_minima']:.3f}{goal}")  # fmt: skip


def measure(
    folder: Path, *, architecture: str, head: HeadForm, image_size: int, batch: int, classes: int,
    precision: PrecisionChoice, steps: int, warmup: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Return what the steps took, and the ratios of steps of the same round."""
    from duet.training.outcome import versions

    before = load()
    shape = (architecture, head, image_size, batch, classes, precision, seed)
    contenders = _contenders(folder, *shape)
    order, chance = list(contenders), random.Random(seed)
    for round_ in range(warmup + steps):
        chance.shuffle(order)
        for name in order:
            spent = contenders[name].step(round_)
            if round_ >= warmup:
                contenders[name].spent.append(spent)
    for name, one in contenders.items():
        expected = warmup + steps if one.has_teacher else 0
        assert one.calls == expected, f"{name}: the teacher looked {one.calls} of {expected} times"
    pairs = [("distilled + L_DC", "plain"), ("distilled", "plain, NCHW"), *GOALS]
    return {
        "what": "one training step of a detector that learns its second increment",
        "settings": {
            "architecture": architecture, "head": head, "increments": 2, "classes": classes,
            "image_size": image_size, "batch": batch, "precision": precision,
            "steps": steps, "warmup": warmup,
            "seed": seed, "threads": 1, "order": "shuffled in each round, one process",
        },
        "steps": {name: _summary(one) for name, one in contenders.items()},
        "ratios": [_ratio(contenders, *pair) for pair in sorted(pairs)],
        "machine": {**machine(), "load_before": before},
        "versions": versions(),
    }  # fmt: skip


def _contenders(
    folder: Path, architecture: str, head: HeadForm, image_size: int, batch: int, classes: int,
    precision: PrecisionChoice, seed: int,
) -> dict[str, Contender]:  # fmt: skip
    """Set all trainers up on the same images."""
    names = [f"class{number}" for number in range(classes)]
    scenes = noise_scenes(folder, names, batch * BATCHES, image_size, seed)
    shape = (architecture, head, image_size, batch, classes, seed)
    ours = {
        name: trainer_of(folder / str(number), scenes, *shape, *settings)
        for number, (name, settings) in enumerate(
            {
                "plain, NCHW": ("fp32", 0.0, 0.0),
                "plain": (precision, 0.0, 0.0),
                "distilled": (precision, 0.01, 0.0),
                "distilled, a quarter": (precision, 0.01, 0.0, 0.25),
                "distilled + L_DC": (precision, 0.01, 0.01),
            }.items()
        )
    }
    _to_default_format(ours["plain, NCHW"])
    trainers = {**ours, "yolo train": _engine_trainer(folder, ours["plain"], names)}
    return {name: contender(trainer) for name, trainer in trainers.items()}


def contender(trainer: Any) -> Contender:
    """Start a trainer's epoch, take its batches, and count what its teacher is asked."""
    trainer.epoch = 0
    trainer._model_train()
    one = Contender(trainer, list(trainer.train_loader))
    if one.has_teacher:

        def count(*_: Any) -> None:
            one.calls += 1

        trainer.teacher.network.register_forward_hook(count)
    return one


def _to_default_format(trainer: Any) -> None:
    """Have a trainer compute as it did before it knew of channels-last memory."""
    import torch

    for module in (trainer.model, trainer.ema.ema):
        module.to(memory_format=torch.contiguous_format)
    prepared = trainer.preprocess_batch

    def plain(batch: dict[str, Any]) -> dict[str, Any]:
        batch = prepared(batch)
        return {**batch, "img": batch["img"].contiguous()}

    trainer.preprocess_batch = plain


def trainer_of(*job: Any, **settings: Any) -> Any:
    """Set a real trainer up from the `job_folder` of the same arguments."""
    from duet.families.ultralytics import engine
    from duet.families.ultralytics.arguments import engine_overrides
    from duet.families.ultralytics.train import JOB_VARIABLE
    from duet.families.yolo.train import IncrementTrainer
    from duet.training.job import read_job

    folder = job_folder(*job, **settings)
    os.environ[JOB_VARIABLE] = str(folder)
    trainer = IncrementTrainer(overrides=engine_overrides(read_job(folder), folder))
    engine.set_threads(1)
    trainer._setup_train()
    return trainer


def job_folder(
    folder: Path, scenes: Any, architecture: str, head: HeadForm, image_size: int, batch: int,
    classes: int, seed: int, precision: PrecisionChoice, distill: float, directional: float,
    images: float = 1.0, *, device: str = "cpu", epochs: int = 1,
) -> Path:  # fmt: skip
    """Write the job of a second increment, with or without the losses."""
    import torch
    from safetensors.torch import save_file

    from duet.families.yolo.adapter import FAMILY
    from duet.families.yolo.build import stock_model
    from duet.increments.base import StartWeights
    from duet.training.config import Directional, Distillation
    from duet.training.job import Job, JobPart, write_job, write_slice, write_state
    from duet.training.schedule import Schedule

    old, new = [f"old{number}" for number in range(classes)], list(scenes.classes)
    torch.manual_seed(seed)
    theta = StartWeights(stock_model(architecture, classes, width=64).state_dict())
    start = FAMILY.start_state(
        theta, architecture=architecture, head=head, classes=old, increment="old", seed=seed
    )
    start = FAMILY.grow(start, classes=new, increment="new", seed=seed + 1, source=None)
    job = Job(
        family="yolo", architecture=architecture, head=head, phase="increment", seed=seed,
        parts=tuple(JobPart(increment=p.increment, classes=p.classes) for p in start.parts),
        distill=Distillation(weight=distill, images=images),
        directional=Directional(weight=directional),
        schedule=Schedule(batch=batch, image_size=image_size, epochs=epochs, warmup_epochs=0,
                          precision=precision, device=device),
    )  # fmt: skip
    folder.mkdir()
    write_state(folder / "start.safetensors", start)
    write_slice(folder / "slice.npz", scenes)
    direction = {name: 1e-3 * torch.randn_like(tensor) for name, tensor in start.shared.items()}
    save_file(direction, folder / "direction.safetensors")
    write_job(folder, job)
    return folder


def _engine_trainer(folder: Path, like: Any, names: list[str]) -> Any:
    """Set up the trainer of `yolo train` for the images that another trains on."""
    import yaml
    from ultralytics.models.yolo.detect import DetectionTrainer

    from duet.families.ultralytics import engine
    from duet.families.ultralytics.arguments import engine_overrides

    data = folder / "data.yaml"
    about = {"path": str(folder), "train": "images", "val": "images"}
    data.write_text(yaml.safe_dump({**about, "names": dict(enumerate(names))}))
    wanted = engine_overrides(like.job, folder)
    trainer = DetectionTrainer(overrides={**wanted, "data": str(data), "name": "competitor"})
    engine.set_threads(1)
    trainer._setup_train()
    return trainer


def noise_scenes(folder: Path, classes: list[str], count: int, size: int, seed: int) -> Any:
    """Write noise images with labels as the engine reads them; return them as a slice."""
    import numpy as np
    from PIL import Image

    from duet.series import Annotation, Slice

    random_ = np.random.default_rng(seed)
    images, labelled = [], []
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        images.append(folder / "images" / f"{number}.png")
        noise = random_.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(images[-1])
        boxes = np.hstack([random_.uniform(0.3, 0.7, (3, 2)), random_.uniform(0.1, 0.4, (3, 2))])
        ids = random_.integers(0, len(classes), 3)
        rows = [" ".join(map(str, (one, *box))) for one, box in zip(ids, boxes, strict=True)]
        (folder / "labels" / f"{number}.txt").write_text("\n".join(rows))
        labelled.append(Annotation(ids, boxes, size, size))
    return Slice("noise", "train", tuple(classes), tuple(images), tuple(labelled))


def _summary(one: Contender) -> dict[str, float]:
    cpu, wall = zip(*one.spent, strict=True)
    return {
        "cpu_ms": 1000 * statistics.median(cpu),
        "cpu_ms_min": 1000 * min(cpu),
        "wall_ms": 1000 * statistics.median(wall),
        "teacher_calls": one.calls,
    }


def _ratio(contenders: dict[str, Contender], step: str, against: str) -> dict[str, Any]:
    """Return the median ratio of steps of the same round, and the ratio of the fastest."""
    ours, theirs = contenders[step].spent, contenders[against].spent
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "step": step,
        "against": against,
        "cpu": statistics.median(a[0] / b[0] for a, b in pairs),
        "wall": statistics.median(a[1] / b[1] for a, b in pairs),
        "cpu_of_minima": min(a[0] for a in ours) / min(b[0] for b in theirs),
        "goal": GOALS.get((step, against)),
    }


if __name__ == "__main__":
    main()
