"""Does a GPU train, resume, compute in fewer bits, evaluate and export as it should; how fast?

    python tools/check_gpu.py --json

Takes a few minutes on one CUDA GPU. Every check is a whole command or a real trainer; ratios are of
wall time, each step waited for. Without a GPU it says so and ends with 0, so that it may stand in a
script for any machine.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "weights" / "yolo11n-emoji.safetensors"
CLASSES = ("disc", "square", "ring", "cross")
SIZE, SCENES = 160, 96
DEVICE, PRECISIONS = "0", ("fp32", "fp16", "auto")


@click.command()
@click.option("--image-size", default=640, show_default=True, help="Of the measured steps, pixels.")
@click.option("--batch", default=32, show_default=True, help="Of the measured steps.")
@click.option("--steps", default=10, show_default=True, help="Measured steps of each kind.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(image_size: int, batch: int, steps: int, as_json: bool) -> None:
    """Check and print; ends with 1 if a check failed."""
    import torch

    if not torch.cuda.is_available():
        print(json.dumps({"gpu": None}) if as_json else "no GPU")
        return
    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(0), "checks": {}}
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        folder = Path(name)
        series = draw(folder / "data")
        checks: dict[str, Callable[[], dict[str, Any]]] = {
            "training": lambda: training(series, folder / "run"),
            "evaluation": lambda: evaluation(series, folder / "run"),
            "export": lambda: export(folder / "run"),
            "resume": lambda: resume(folder),
            "steps": lambda: measured_steps(folder / "steps", image_size, batch, steps),
        }
        for title, check in checks.items():
            began = time.perf_counter()
            try:
                found = {"ok": True, **check()}
            except Exception as error:  # one that fails must not hide the others
                found = {"ok": False, "error": f"{type(error).__name__}: {error}"[:2000]}
            result["checks"][title] = found | {"seconds": round(time.perf_counter() - began, 1)}
    failed = [title for title, found in result["checks"].items() if not found["ok"]]
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        print(result["gpu"])
        for title, found in result["checks"].items():
            print(f"{title}: {found}")
    sys.exit(1 if failed else 0)


# ---- whole commands ---------------------------------------------------------------------------


def training(series: Path, out: Path) -> dict[str, Any]:
    """Train a base and an increment on the GPU, in each precision the increment; merge them."""
    common = [str(series), "--out", str(out), "--weights", str(WEIGHTS), "--device", DEVICE]
    common += ["--epochs", "3", "--batch", "16", "--image-size", str(SIZE), "--warmup-epochs", "0"]
    base = duet("base", *common, "--precision", "auto")
    seconds = {"base, auto": base["seconds"]}
    for precision in PRECISIONS:  # the last one stays
        one = duet("increment", *common[:1], "second", *common[1:], "--precision", precision)
        seconds[f"increment, {precision}"] = one["seconds"]
    return {"seconds_of": seconds}


def evaluation(series: Path, out: Path) -> dict[str, Any]:
    """Evaluate the last detector on the GPU and on the CPU: the same numbers, in less time."""
    model, found, took = detector_in(out), {}, {}
    for device in (DEVICE, "cpu"):
        began = time.perf_counter()
        told = duet("eval", str(model), str(series), "--device", device)
        found[device] = {cell["domain"]: cell["map50"] for cell in told["cells"]}
        took[device] = time.perf_counter() - began
    if any(abs(found[DEVICE][domain] - found["cpu"][domain]) > 0.01 for domain in found["cpu"]):
        raise AssertionError(f"mAP50 on the GPU {found[DEVICE]}, on the CPU {found['cpu']}")
    return {"map50": found, "wall_ratio_of_commands": round(took[DEVICE] / took["cpu"], 3)}


def export(out: Path) -> dict[str, Any]:
    """Export what was trained on the GPU; the command itself proves that it computes the same."""
    duet("export", str(detector_in(out)), "--to", "onnx", "--overwrite")
    return {}


def duet(*words: str) -> dict[str, Any]:
    """Run a command of duet's and return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "duet", *words, "--json"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(f"duet {' '.join(words)}: {done.stderr[-1500:]}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def detector_in(out: Path) -> Path:
    """Return the newest detector of a run folder."""
    return max((out / "models").glob("*/*"), key=lambda path: path.name)


# ---- one job ------------------------------------------------------------------------------------


def resume(folder: Path) -> dict[str, Any]:
    """Stop a training in its second epoch and go on: as many images, and the same weights."""
    import torch
    from bench_train import job_folder, noise_scenes

    from duet.errors import DuetError
    from duet.runs.worker import run_worker
    from duet.training.job import read_state

    scenes = noise_scenes(folder / "noise", ["a", "b"], 32, SIZE, 0)
    folders = [
        job_folder(folder / name, scenes, "yolo11n.yaml", "towers", SIZE, 16, 2, 0, "auto",
                   0.01, 0.01, device=DEVICE, epochs=3)
        for name in ("whole", "cut")
    ]  # fmt: skip
    run_worker(folders[0], lambda record: None, threading.Event())
    stop = threading.Event()
    with contextlib.suppress(DuetError):
        run_worker(folders[1], lambda record: stop.set() if record["epoch"] == 2 else None, stop)
    if (folders[1] / "outcome.json").exists():
        raise AssertionError("it was not stopped")
    run_worker(folders[1], lambda record: None, threading.Event())
    told = [json.loads((one / "outcome.json").read_text()) for one in folders]
    if told[0]["images_seen"] != told[1]["images_seen"]:
        raise AssertionError(f"images seen: {[one['images_seen'] for one in told]}")
    whole, cut = (read_state(one / "trained.safetensors").to_tensors() for one in folders)
    apart = max(float((whole[k].float() - cut[k].float()).abs().max()) for k in whole)
    equal = all(torch.equal(whole[name], cut[name]) for name in whole)
    return {"equal_bits": equal, "largest_difference": apart, "precision": told[0]["precision"]}


def measured_steps(folder: Path, image_size: int, batch: int, steps: int) -> dict[str, Any]:
    """Measure steps in each precision, plain and distilled, in turn; count what makes them wait."""
    import torch
    from bench_train import Contender, contender, noise_scenes, trainer_of

    names = [f"class{number}" for number in range(10)]
    scenes = noise_scenes(folder, names, 2 * batch, image_size, 0)
    kinds: dict[str, tuple[Any, float]] = {
        "plain, fp32": ("fp32", 0.0), "plain, fp16": ("fp16", 0.0), "plain, auto": ("auto", 0.0),
        "distilled, auto": ("auto", 0.01),
    }  # fmt: skip
    contenders: dict[str, Contender] = {
        name: contender(trainer_of(
            folder / str(number), scenes, "yolo11n.yaml", "towers", image_size, batch, 10, 0,
            precision, distill, 0.0, device=DEVICE,
        ))
        for number, (name, (precision, distill)) in enumerate(kinds.items())
    }  # fmt: skip
    walls: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(3 + steps):
        for name, one in contenders.items():
            torch.cuda.synchronize()
            began = time.perf_counter()
            one.step(round_)
            torch.cuda.synchronize()
            if round_ >= 3:
                walls[name].append(1000 * (time.perf_counter() - began))
    return {
        "ms": {name: round(statistics.median(times), 2) for name, times in walls.items()},
        "auto_against_fp32": round(min(walls["plain, auto"]) / min(walls["plain, fp32"]), 3),
        "fp16_against_fp32": round(min(walls["plain, fp16"]) / min(walls["plain, fp32"]), 3),
        "distilled_against_plain": round(
            min(walls["distilled, auto"]) / min(walls["plain, auto"]), 3
        ),
        "waits_of_a_step": {name: waits(one) for name, one in contenders.items()},
        "peak_gb": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }


def waits(one: Any) -> int:
    """Return how often a step waits for the GPU, as torch counts it."""
    import torch

    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            one.step(0)
        return sum("synchroniz" in str(warning.message) for warning in caught)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- data ---------------------------------------------------------------------------------------


def draw(folder: Path) -> Path:
    """Write a series of two increments whose objects are plain shapes; return its YAML."""
    import cv2
    import yaml

    items = []
    for number, domain in enumerate(("first", "second")):
        own = CLASSES[2 * number : 2 * number + 2]
        for split, count in (("train", SCENES), ("val", SCENES // 3)):
            for kind in ("images", "labels"):
                (folder / domain / kind / split).mkdir(parents=True)
            for index in range(count):
                rng = np.random.default_rng([number, split == "val", index])
                image, rows = scene(rng, 2 * number)
                cv2.imwrite(str(folder / domain / "images" / split / f"{index}.png"), image)
                label = folder / domain / "labels" / split / f"{index}.txt"
                label.write_text("\n".join(rows) + "\n")
        document = {"names": list(CLASSES), "train": "images/train", "val": "images/val"}
        (folder / domain / "data.yaml").write_text(yaml.safe_dump(document))
        items.append({"domain": domain, "data": f"{domain}/data.yaml", "classes": list(own)})
    series = folder / "series.yaml"
    series.write_text(yaml.safe_dump({"schema": 1, "name": "check", "increments": items}))
    return series


def scene(rng: np.random.Generator, first: int) -> tuple[Any, list[str]]:
    """Return a picture with three shapes of two classes, and its label rows."""
    import cv2

    image = rng.integers(0, 80, (SIZE, SIZE, 3)).astype(np.uint8)
    rows = []
    for _ in range(3):
        kind, half = first + int(rng.integers(2)), int(rng.integers(10, 24))
        x, y = (int(value) for value in rng.integers(half, SIZE - half, 2))
        colour = tuple(int(value) for value in rng.integers(150, 256, 3))
        if kind in (0, 2):
            cv2.circle(image, (x, y), half, colour, -1 if kind == 0 else 4)
        elif kind == 1:
            cv2.rectangle(image, (x - half, y - half), (x + half, y + half), colour, -1)
        else:
            cv2.line(image, (x - half, y), (x + half, y), colour, 6)
            cv2.line(image, (x, y - half), (x, y + half), colour, 6)
        rows.append(f"{kind} {x / SIZE} {y / SIZE} {2 * half / SIZE} {2 * half / SIZE}")
    return image, rows


if __name__ == "__main__":
    main()
