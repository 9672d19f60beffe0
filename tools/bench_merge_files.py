"""Merges from files to files: time, anonymous memory as increments grow many, and a cold command.

    python tools/bench_merge_files.py                      # all of it: some ten minutes
    python tools/bench_merge_files.py --only many --json

Increments have the names and shapes of a YOLO11x (57 M scalars) or, where they are many, of a
YOLO11n (2.6 M); they are merged by TIES, which holds pieces of all of them at once.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from bench_merge import status

LARGE, SMALL = "yolo11x.yaml", "yolo11n.yaml"
WIDTH = {LARGE: 384, SMALL: 100}
"""Channels of the class towers."""
MANY = (4, 16, 64)


@click.command()
@click.option("--only", type=click.Choice(["files", "many", "cold"]), help="[all]")
@click.option("--rounds", default=3, show_default=True, help="Cold commands of each kind.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--worker", hidden=True, help="Internal: what this process measures.")
@click.option("--k", "count", default=4, hidden=True)
def main(only: str | None, rounds: int, as_json: bool, worker: str | None, count: int) -> None:
    """Run the benchmarks and print what they took."""
    if worker:
        print(json.dumps(WORKERS[worker](count)))
        return
    report: dict[str, Any] = {"schema": 1, "rounds": rounds}
    if only in (None, "files"):
        report["files"] = {str(k): run_worker("files", k) for k in (4, 16)}
    if only in (None, "many"):
        report["many"] = {str(k): run_worker("many", k) for k in MANY}
        report["many_16_threads"] = {str(k): run_worker("many-threads", k) for k in MANY[::2]}
    if only in (None, "cold"):
        report["cold"] = compare_cold(rounds)
    print(json.dumps(report, indent=2) if as_json else as_text(report))


def run_worker(name: str, count: int) -> dict[str, Any]:
    """Measure in a fresh process."""
    command = [sys.executable, __file__, "--worker", name, "--k", str(count)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def compare_cold(rounds: int) -> dict[str, Any]:
    """CPU seconds of `duet merge` as a whole command and of `import torch`, in turn; minima."""
    times: dict[str, list[float]] = {"merge": [], "torch": []}
    with tempfile.TemporaryDirectory(prefix="bench-merge-") as name:
        make_in(Path(name), 2, SMALL)
        merge = ["-m", "duet", "merge", "inc0", "inc1", "--weights", "base.safetensors"]
        merge += ["--method", "duet", "--out", "out", "--overwrite"]
        for _ in range(rounds):
            for key, words in (("merge", merge), ("torch", ["-c", "import torch"])):
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run([sys.executable, *words], check=True, cwd=name, capture_output=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                times[key].append(
                    after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                )
    lowest = {f"{key}_cpu": min(values) for key, values in times.items()}
    return {**lowest, "ratio": lowest["merge_cpu"] / lowest["torch_cpu"]}


def many(count: int) -> dict[str, Any]:
    """As `files`, of small models."""
    return files(count, SMALL)


def many_threads(count: int) -> dict[str, Any]:
    """As `many`, with the threads of a machine of 16 cores."""
    os.cpu_count = lambda: 16
    return files(count, SMALL)


def make_in(folder: Path, count: int, architecture: str) -> None:
    """Write θ_0 and increments in a process of its own: it needs more memory than merging them."""
    worker = "make-files" if architecture == LARGE else "make-small"
    subprocess.run(
        [sys.executable, __file__, "--worker", worker, "--k", str(count)],
        check=True, cwd=folder, capture_output=True,
    )  # fmt: skip


def files(count: int, architecture: str = LARGE) -> dict[str, Any]:
    """Merge ``count`` increment folders into a detector folder; watch anonymous memory."""
    with tempfile.TemporaryDirectory(prefix="bench-merge-") as name:
        folder = Path(name)
        make_in(folder, count, architecture)
        return merge_files(folder, count)


def make_files(count: int, architecture: str = LARGE) -> dict[str, Any]:
    """Write θ_0 and ``count`` increments into the current folder."""
    import torch

    from duet.families.yolo.build import stock_model
    from duet.families.yolo.roles import split_roles
    from duet.increments.base import save_base
    from duet.increments.manifest import IncrementManifest
    from duet.increments.state import HeadPart
    from duet.increments.store import IncrementFile, save_increment
    from duet.vectors.task_vector import TaskVector

    model = stock_model(architecture, 10, WIDTH[architecture])
    base = save_base(Path("base.safetensors"), model.state_dict())
    roles = split_roles(base, "towers")
    for k in range(count):
        generator = torch.Generator().manual_seed(k)
        moved = {
            name: tensor + 1e-3 * torch.randn(tensor.shape, generator=generator)
            for name, tensor in roles.shared.items()
        }
        vector = TaskVector.between(roles.shared, moved)
        classes = tuple(f"class {k}-{i}" for i in range(10))
        manifest = IncrementManifest(
            kind="independent", name=f"inc{k}", family="yolo", architecture=architecture,
            head="towers", classes=classes, domain="bench", index=0, base=vector.base, config={},
            seed=k, versions={}, data="0" * 64, images=100, bn_weight=1, licence="AGPL-3.0",
        )  # fmt: skip
        part = HeadPart(classes, roles.own, f"inc{k}")
        save_increment(Path(f"inc{k}"), IncrementFile(manifest, vector, roles.buffers, part))
    return {}


def merge_files(folder: Path, count: int) -> dict[str, Any]:
    """Merge and return seconds and the peak of anonymous memory above that of the imports."""
    from duet.recipes.plan import make_plan
    from duet.recipes.recipe import Entry, Recipe
    from duet.recipes.write import write_detector

    entries = tuple(Entry(path=str(folder / f"inc{k}")) for k in range(count))
    recipe = Recipe(method="ties", weights=str(folder / "base.safetensors"), increments=entries)

    imported = status("RssAnon")
    peak, stop = [imported], threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            peak[0] = max(peak[0], status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began, cpu = time.perf_counter(), time.process_time()
    write_detector(make_plan(recipe), folder / "out")
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    stop.set()
    watcher.join()
    return {
        "wall": wall, "cpu": cpu, "imports_mb": imported / 1024, "peak_mb": peak[0] / 1024,
        "extra_mb": (peak[0] - imported) / 1024,
    }  # fmt: skip


WORKERS: dict[str, Callable[[int], dict[str, Any]]] = {
    "files": files,
    "make-files": make_files,
    "make-small": partial(make_files, architecture=SMALL),
    "many": many,
    "many-threads": many_threads,
}


def as_text(report: dict[str, Any]) -> str:
    """Return the report for people."""
    lines: list[str] = []
    for k, row in report.get("files", {}).items():
        lines.append(
            f"files, K = {k}: {row['wall']:.1f} s, anonymous memory +{row['extra_mb']:.0f} MB "
            f"(peak {row['peak_mb']:.0f}, of which imports {row['imports_mb']:.0f})"
        )
    for key, what in (("many", "small"), ("many_16_threads", "small, 16 threads")):
        for k, row in report.get(key, {}).items():
            lines.append(
                f"{what} files, K = {k}: {row['wall']:.1f} s, {row['cpu']:.1f} CPU s, "
                f"anonymous memory +{row['extra_mb']:.0f} MB"
            )
    if "cold" in report:
        c = report["cold"]
        lines.append(
            f"cold command {c['merge_cpu']:.2f} CPU s, import torch {c['torch_cpu']:.2f}: "
            f"{c['ratio']:.2f}x"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
