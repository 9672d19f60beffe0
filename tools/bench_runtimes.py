"""What `--runtime auto` and exported files save: against the engine's own predictor, and from cold.

    python tools/bench_runtimes.py --json

A YOLO11n with the shipped trunk and random class rows. *An image*: `detector(image)` on 1280 x 720
pixels against `YOLO.predict` of the same weights at its defaults (rectangles, fused, channels-last
where the engine chooses it), all in one process with one thread, in random order in every round;
each is compared with the engine in that round. *Cold*: `duet predict` of one picture as a process
of its own, from the detector folder and from its ONNX file, in turn. CPU time of the whole process
counts, because wall time on a shared machine is off by 30 %.
"""

from __future__ import annotations

import functools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from machine import machine

RUNTIMES = ("torch", "onnx", "openvino", "auto")
ENGINE = "yolo predict"


@click.command()
@click.option("--rounds", default=21, show_default=True)
@click.option("--warmup", default=20, show_default=True)
@click.option("--cold-rounds", default=5, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(rounds: int, warmup: int, cold_rounds: int, seed: int, as_json: bool) -> None:
    """Measure and print."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # before torch is imported
    with tempfile.TemporaryDirectory(prefix="duet-bench-") as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        result: dict[str, Any] = {
            "settings": {
                "architecture": "yolo11n.yaml", "rounds": rounds, "warmup": warmup, "seed": seed,
                "threads": 1, "cold_rounds": cold_rounds, "order": "interleaved at random",
            },
            "image": per_image(folder, rounds, warmup, seed),
            "cold": [row for size in (160, 640) for row in cold(folder, size, cold_rounds, seed)],
        }  # fmt: skip
    from duet.training.outcome import versions

    result["machine"] = machine()
    result["versions"] = versions()
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for row in result["image"]:
        print(
            f"{row['way']:<14}{row['cpu_ms']:>8.1f} ms{row['ratio_median']:>8.3f}"
            f"{row['ratio_min']:>8.3f}  {row['runtime']}"
        )
    for row in result["cold"]:
        print(
            f"{row['size']} px {row['from']:<7}{row['cpu_s']:>7.2f} CPU s (least "
            f"{row['cpu_s_min']:.2f}), {row['rss_mb']:.0f} MB"
        )


def per_image(folder: Path, rounds: int, warmup: int, seed: int) -> list[dict[str, Any]]:
    """Return one row per way of looking at one image, the engine's first."""
    import cv2
    import torch
    from ultralytics import YOLO

    import duet
    from duet.export.parity import sample_images

    torch.set_num_threads(1)
    model = _detector(folder, 640, seed)
    plain = duet.load(model)
    engine = YOLO(str(plain.export(folder / "model.pt", progress=False)))
    image = cv2.resize(sample_images(640, 1)[0], (1280, 720))
    ways: dict[str, Callable[[], Any]] = {
        ENGINE: lambda: engine.predict(image, imgsz=640, conf=0.25, device="cpu", verbose=False)
    }
    used = {ENGINE: "torch"}
    for runtime in RUNTIMES:
        detector = duet.load(model, runtime=runtime)  # type: ignore[arg-type]
        ways[runtime], used[runtime] = functools.partial(detector, image), detector.runtime
    times: dict[str, list[float]] = {way: [] for way in ways}
    chance = random.Random(seed)
    for round_ in range(warmup + rounds):
        for way in chance.sample(list(ways), len(ways)):
            began = time.process_time()
            ways[way]()
            if round_ >= warmup:
                times[way].append(time.process_time() - began)
    own = times[ENGINE]
    return [
        {
            "way": way,
            "runtime": used[way],
            "cpu_ms": 1000 * statistics.median(spent),
            "cpu_ms_min": 1000 * min(spent),
            "ratio_median": statistics.median(a / b for a, b in zip(spent, own, strict=True)),
            "ratio_min": min(spent) / min(own),
        }
        for way, spent in times.items()
    ]


def cold(folder: Path, size: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Return CPU seconds and peak memory of `duet predict` of one picture, as a process."""
    import cv2

    import duet
    from duet.export.parity import sample_images

    model = _detector(folder, size, seed)
    file = duet.load(model).export(folder / f"{size}.onnx", progress=False, overwrite=True)
    picture = folder / f"{size}.jpg"
    cv2.imwrite(str(picture), sample_images(size, 1)[0])
    seen: dict[str, list[tuple[float, float]]] = {"folder": [], "onnx": []}
    for _ in range(rounds):
        for source, path in (("folder", model), ("onnx", file)):
            seen[source].append(_process("predict", path, picture))
    return [
        {
            "size": size,
            "from": source,
            "cpu_s": statistics.median(spent for spent, _ in runs),
            "cpu_s_min": min(spent for spent, _ in runs),
            "rss_mb": max(memory for _, memory in runs),
        }
        for source, runs in seen.items()
    ]


_MEASURED = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, used = os.wait4(child.pid, 0)
print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""
"""Run in a small process: a child's peak memory begins as what its parent had."""


def _process(*arguments: object) -> tuple[float, float]:
    """Return CPU seconds and largest resident megabytes of a `duet` command."""
    command = [sys.executable, "-m", "duet", *map(str, arguments)]
    small = [sys.executable, "-S", "-c", _MEASURED, *command]
    told = subprocess.run(small, capture_output=True, text=True, check=True).stdout.split()
    if told[0] != "0":
        raise RuntimeError(f"duet {arguments[0]} failed with {told[0]}")
    return float(told[1]), float(told[2])


def _detector(folder: Path, size: int, seed: int) -> Path:
    """Write a detector folder and return it."""
    from duet.families.yolo.adapter import FAMILY
    from duet.increments.base import load_start
    from duet.increments.manifest import DetectorManifest, Lineage
    from duet.increments.store import save_detector
    from duet.shipped import shipped

    target = folder / f"model-{size}"
    if target.exists():
        return target
    state = FAMILY.start_state(
        load_start(shipped("weights") / "yolo11n-emoji.safetensors"),
        architecture="yolo11n.yaml", head="towers", classes=["a", "b", "c"], increment="one",
        seed=seed,
    )  # fmt: skip
    lineage = (Lineage(increment="one", manifest="0" * 64, merge=None),)
    manifest = DetectorManifest.for_state(
        state, lineage=lineage, image_size=size, licence=FAMILY.licence
    )
    save_detector(target, state, manifest)
    return target


if __name__ == "__main__":
    main()
