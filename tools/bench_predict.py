"""What it costs to look at images, against the tool that people use: `yolo predict`.

    python tools/bench_predict.py --json

YOLO11n of random weights, 640 px. Three figures, each against the engine's own:

- *call*: `detector(image)` on a picture of 1280 x 720, decoded, against `YOLO.predict`, one thread,
  for detectors of 1, 4 and 8 increments: CPU time of the thread, in one process and random order.
  The engine has as many classes in its own head. Both see another picture in every round, so that
  nothing can be remembered; both answer with boxes in pixels of the picture.
- *folder*: whole commands over pictures of many sizes, `duet predict FOLDER --out` against
  `yolo predict source=FOLDER`, which both write annotated copies: wall time, and CPU time of all
  threads.
- *cold*: `duet predict` of one picture as a command of its own: CPU time and largest memory, beside
  a Python that does nothing but import torch.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import load, machine

ARCHITECTURE, SIZE, WIDE = "yolo11n.yaml", 640, (720, 1280)
SHAPES = ((720, 1280), (1280, 720), (480, 640), (1024, 1024), (427, 640))
"""Heights and widths of the pictures of the folder, in turn."""


@click.command()
@click.option("--increments", default="1,4,8", show_default=True)
@click.option("--classes", default=10, show_default=True, help="Per increment.")
@click.option("--rounds", default=15, show_default=True, help="Of calls.")
@click.option("--pictures", default=300, show_default=True, help="Of the folder.")
@click.option("--repeats", default=3, show_default=True, help="Of whole commands.")
@click.option("--only", type=click.Choice(["call", "folder", "cold"]), help="One figure alone.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    increments: str, classes: int, rounds: int, pictures: int, repeats: int, only: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Measure and print."""
    from duet.training.outcome import versions

    result: dict[str, Any] = {"what": "duet predict / yolo predict", "before": load()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if only in (None, "call"):
            counts = [int(count) for count in increments.split(",")]
            result["call"] = [call(folder, count, classes, rounds) for count in counts]
        if only in (None, "folder"):
            result["folder"] = whole_folder(folder, classes, pictures, repeats)
        if only in (None, "cold"):
            result["cold"] = cold(folder, classes, repeats)
    result["settings"] = {
        "architecture": ARCHITECTURE, "size": SIZE, "classes": classes, "rounds": rounds,
        "pictures": pictures, "repeats": repeats,
    }  # fmt: skip
    result["machine"] = machine()
    result["versions"] = versions()
    print(json.dumps(result, indent=2) if as_json else _text(result))


def call(folder: Path, increments: int, classes: int, rounds: int) -> dict[str, Any]:
    """Return what one call costs, of both, in one process."""
    import cv2
    from ultralytics import YOLO

    import duet
    from duet.families.ultralytics import engine

    engine.set_threads(1)
    cv2.setNumThreads(1)
    model, stock = _models(folder, increments, classes)
    detector, theirs = duet.load(model), YOLO(stock)
    chance = random.Random(0)

    def ours_once(picture: np.ndarray) -> None:
        detector(picture)

    def theirs_once(picture: np.ndarray) -> None:
        theirs.predict(picture, imgsz=SIZE, conf=0.25, verbose=False, device="cpu")

    sides: dict[str, Callable[[np.ndarray], None]] = {"duet": ours_once, "yolo": theirs_once}
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds + 3):  # three warm up
        picture = _picture(*WIDE, seed=round_)
        for name in chance.sample(list(sides), 2):
            began = time.thread_time()
            sides[name](picture)
            if round_ >= 3:
                spent[name].append(time.thread_time() - began)
    return {"increments": increments, **_compared(spent["duet"], spent["yolo"], "cpu_ms", 1000)}


def whole_folder(folder: Path, classes: int, pictures: int, repeats: int) -> dict[str, Any]:
    """Return what a folder costs as one command, of both in turn."""
    model, stock = _models(folder, 1, classes)
    source = folder / "pictures"
    _write(source, pictures)
    bin_ = Path(sys.executable).parent
    commands: dict[str, list[Any]] = {
        "duet": [bin_ / "duet", "predict", model, source, "--conf", "0.25"],
        "yolo": [
            bin_ / "yolo", "predict", f"model={stock}", f"source={source}", f"imgsz={SIZE}",
            "conf=0.25", "device=cpu", "verbose=False", f"project={folder}", "save=True",
        ],
    }  # fmt: skip
    wall: dict[str, list[float]] = {name: [] for name in commands}
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(repeats):
        outs: dict[str, list[Any]] = {
            "duet": ["--out", folder / f"duet-{number}"],
            "yolo": [f"name=yolo-{number}"],
        }
        for name in random.Random(number).sample(list(commands), 2):
            took = _run([*commands[name], *outs[name]], folder)
            wall[name].append(took[0])
            cpu[name].append(took[1])
    return {
        "pictures": pictures,
        "wall": _compared(wall["duet"], wall["yolo"], "s", 1),
        "cpu": _compared(cpu["duet"], cpu["yolo"], "s", 1),
    }


def cold(folder: Path, classes: int, repeats: int) -> dict[str, Any]:
    """Return what one picture costs as a command, beside the import of torch."""
    model, _ = _models(folder, 1, classes)
    one = folder / "one"
    _write(one, 1)
    bin_ = Path(sys.executable).parent
    commands: dict[str, list[Any]] = {
        "duet": [bin_ / "duet", "predict", model, one],
        "torch": [sys.executable, "-c", "import torch"],
    }
    seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            seen[name].append(_run(command, folder))
    return {
        name: {
            "cpu_s": statistics.median(took[1] for took in rows),
            "cpu_s_min": min(took[1] for took in rows),
            "rss_mb": max(took[2] for took in rows),
        }
        for name, rows in seen.items()
    }


def _run(command: Sequence[Any], folder: Path) -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds and the largest memory in 10^6 bytes of a command.

    A process of its own waits for it, so that children before it do not count.
    """
    script = (
        "import json, resource, subprocess, sys, time\n"
        "began = time.perf_counter()\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=2, stdin=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([time.perf_counter() - began, used.ru_utime + used.ru_stime,"
        " used.ru_maxrss * 1024 / 1e6]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, command)], cwd=folder, capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode:
        raise click.ClickException(done.stderr[-2000:])
    wall, cpu, memory = json.loads(done.stdout.splitlines()[-1])
    return wall, cpu, memory


def _models(folder: Path, increments: int, classes: int) -> tuple[Path, Path]:
    """Return a detector folder with class towers, and the engine's own file of as many classes."""
    import torch
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    from duet.families.yolo.adapter import FAMILY
    from duet.families.yolo.build import stock_model
    from duet.increments.base import StartWeights
    from duet.increments.manifest import DetectorManifest
    from duet.increments.store import save_detector

    model, stock = folder / f"detector-{increments}", folder / f"stock-{increments}.pt"
    if model.exists():
        return model, stock
    torch.manual_seed(0)
    start = StartWeights(stock_model(ARCHITECTURE, 1, width=64).state_dict())
    groups = [[f"class{i}-{n}" for n in range(classes)] for i in range(increments)]
    state = FAMILY.start_state(
        start, architecture=ARCHITECTURE, head="towers", classes=groups[0], increment="t0", seed=0
    )
    for number, group in enumerate(groups[1:], start=1):
        state = FAMILY.grow(state, classes=group, increment=f"t{number}", seed=number, source=None)
    manifest = DetectorManifest.for_state(
        state, lineage=(), image_size=SIZE, licence=FAMILY.licence
    )
    save_detector(model, state, manifest)
    theirs = YOLO(ARCHITECTURE, verbose=False)
    theirs.model = DetectionModel(ARCHITECTURE, nc=increments * classes, verbose=False)
    theirs.model.names = dict(enumerate(state.labels))
    theirs.save(stock)
    return model, stock


def _picture(height: int, width: int, seed: int) -> np.ndarray:
    """Return a picture of soft shapes, BGR."""
    import cv2

    small = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def _write(folder: Path, count: int) -> None:
    import cv2

    folder.mkdir(exist_ok=True)
    for number in range(count):
        height, width = SHAPES[number % len(SHAPES)]
        picture = _picture(height, width, seed=number)
        cv2.imwrite(str(folder / f"{number:04d}.jpg"), picture)


def _compared(ours: list[float], theirs: list[float], unit: str, times: float) -> dict[str, float]:
    return {
        f"duet_{unit}": times * statistics.median(ours),
        f"yolo_{unit}": times * statistics.median(theirs),
        f"duet_{unit}_min": times * min(ours),
        f"yolo_{unit}_min": times * min(theirs),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        "ratio_min": min(ours) / min(theirs),
    }


def _text(result: dict[str, Any]) -> str:
    lines = [
        f"call, T = {row['increments']}: {row['duet_cpu_ms']:.1f} ms, {row['ratio']:.2f} x yolo "
        f"(minima {row['ratio_min']:.2f})"
        for row in result.get("call", ())
    ]
    if "folder" in result:
        for clock in ("wall", "cpu"):
            row = result["folder"][clock]
            lines.append(
                f"folder, {clock}: {row['duet_s']:.1f} s, {row['ratio']:.2f} x yolo "
                f"(minima {row['ratio_min']:.2f})"
            )
    for name, row in result.get("cold", {}).items():
        lines.append(f"cold, {name}: {row['cpu_s']:.2f} CPU s, {row['rss_mb']:.0f} MB")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
