"""Time and memory of merges, as ratios: to a transcription of the reference, and to bare memory.

    python tools/bench_merge.py                    # all of it: about five minutes
    python tools/bench_merge.py --only ties --rounds 5

Tensors have the names and shapes of a YOLO11x (57 M scalars); K task vectors and θ_0 are float32.
Every measurement runs in a process of its own, and competitors take turns. `floor` is one pass that
reads every input once and writes the result once, with as many threads as the merge may use.
"""

from __future__ import annotations

import ctypes
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
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import torch

ARCHITECTURE = "yolo11x.yaml"
SMALL = "yolo11n.yaml"
WIDTH = {ARCHITECTURE: 384, SMALL: 100}
"""Channels of the class towers."""
METHODS = ("task-arithmetic", "mtda", "duet", "magmax")


@click.command()
@click.option("--only", type=click.Choice(["ties", "floor", "files", "many", "cold"]), help="[all]")
@click.option("--rounds", default=3, show_default=True, help="Processes per competitor.")
@click.option("--k", "count", default=4, show_default=True, help="Task vectors in memory.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--worker", hidden=True, help="Internal: what this process measures.")
def main(only: str | None, rounds: int, count: int, as_json: bool, worker: str | None) -> None:
    """Run the benchmarks and print ratios."""
    if worker:
        print(json.dumps(WORKERS[worker](count)))
        return
    report: dict[str, Any] = {"schema": 1, "k": count, "rounds": rounds}
    if only in (None, "ties"):
        report["ties"] = compare_ties(rounds, count)
    if only in (None, "floor"):
        report["floor"] = compare_floor(rounds, count)
    if only in (None, "files"):
        report["files"] = {str(k): run_worker("files", k) for k in (4, 16)}
    if only in (None, "many"):
        report["many"] = {str(k): run_worker("many", k) for k in (4, 16, 64)}
        report["many_16_threads"] = {str(k): run_worker("many-threads", k) for k in (4, 64)}
    if only in (None, "cold"):
        report["cold"] = compare_cold(rounds)
    print(json.dumps(report, indent=2) if as_json else as_text(report))


def run_worker(name: str, count: int) -> dict[str, Any]:
    """Measure in a fresh process."""
    command = [sys.executable, __file__, "--worker", name, "--k", str(count)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def compare_ties(rounds: int, count: int) -> dict[str, Any]:
    """Time our TIES and the transcription in turn."""
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "reference": []}
    for _ in range(rounds):
        for name in runs:
            runs[name].append(run_worker(f"ties-{name}", count))
    best = {
        name: {key: min(run[key] for run in many) for key in ("wall", "cpu", "extra_mb")}
        for name, many in runs.items()
    }
    ours, reference = best["ours"], best["reference"]
    return {
        **best,
        "wall_ratio": reference["wall"] / ours["wall"],
        "cpu_ratio": reference["cpu"] / ours["cpu"],
        "output_mb": runs["ours"][0]["output_mb"],
    }


def compare_floor(rounds: int, count: int) -> dict[str, Any]:
    """Median over processes of each method's time as a multiple of the floor."""
    runs = [run_worker("floor", count) for _ in range(rounds)]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


# ---- what one process measures ------------------------------------------------------------------


@cache
def shapes() -> dict[str, torch.Size]:
    """Return the parameter shapes of the architecture."""
    from duet.families.yolo.build import stock_model

    model = stock_model(ARCHITECTURE, 10, WIDTH[ARCHITECTURE])
    return {name: p.shape for name, p in model.named_parameters() if p.requires_grad}


def tensors(seed: int, scale: float) -> dict[str, torch.Tensor]:
    """Return random parameters."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator).mul_(scale)
        for name, shape in shapes().items()
    }


def ties_ours(count: int) -> dict[str, Any]:
    """Merge with `duet.merging`, into new memory."""
    from duet.merging.inputs import Inputs
    from duet.merging.operand import Operand
    from duet.merging.table import resolve
    from duet.recipes.apply import in_memory

    stages = tuple(Operand(f"s{k}", vector=tensors(k + 1, 1e-3)) for k in range(count))
    inputs = Inputs(stages, start=tensors(0, 0.02))
    row = resolve("ties")

    def work() -> dict[str, torch.Tensor]:
        out = in_memory("result", inputs.shapes)
        row.merge(inputs, row.params(), out)
        return out

    return measure(work)


def ties_reference(count: int) -> dict[str, Any]:
    """Merge as the authors' code does: flat vectors, kthvalue, whole-model temporaries."""
    import torch
    from torch.nn.utils import parameters_to_vector

    base = tensors(0, 0.02)
    vectors = [tensors(k + 1, 1e-3) for k in range(count)]

    def work() -> dict[str, torch.Tensor]:
        flat = torch.vstack([parameters_to_vector([v[n] for n in sorted(v)]) for v in vectors])
        d = flat.shape[1]
        rank = d - int(d * 0.2)
        limits, _ = flat.abs().kthvalue(rank, dim=1, keepdim=True)
        trimmed = flat * (flat.abs() >= limits)
        signs = torch.sign(trimmed.sum(dim=0))
        majority = torch.sign(signs.sum())
        signs[signs == 0] = majority
        agree = torch.where(signs.unsqueeze(0) > 0, trimmed > 0, trimmed < 0)
        selected = trimmed * agree
        counts = (selected != 0).sum(dim=0).float()
        merged = selected.sum(dim=0) / torch.clamp(counts, min=1)
        whole = parameters_to_vector([base[n] for n in sorted(base)]) + merged
        out, start = {}, 0
        for name in sorted(base):
            size = base[name].numel()
            out[name] = whole[start : start + size].view_as(base[name]).clone()
            start += size
        return out

    return measure(work)


def measure(work: Callable[[], dict[str, torch.Tensor]]) -> dict[str, Any]:
    """Return seconds and the peak of memory beyond what was there before."""
    before = reset_peak()
    began, cpu = time.perf_counter(), time.process_time()
    out = work()
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    extra = status("VmHWM") - before
    size = sum(tensor.numel() for tensor in out.values())
    total = sum(float(tensor.double().sum()) for tensor in out.values())
    return {
        "wall": wall, "cpu": cpu, "extra_mb": extra / 1024, "output_mb": size * 4 / 2**20,
        "checksum": total,
    }  # fmt: skip


def reset_peak() -> int:
    """Reset the kernel's record of peak memory and return the present size, KiB."""
    # Freed memory that the allocator keeps would hide what the merge takes.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(key: str) -> int:
    """Return a size from /proc/self/status, KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise KeyError(key)


def floor(count: int) -> dict[str, Any]:
    """Return the floor in seconds, and each method as a multiple of it.

    DuET joins two models, so it is held against the floor of two; four are folded in three merges.
    """
    from duet.merging.inputs import Inputs
    from duet.merging.operand import Operand

    stages = tuple(Operand(f"s{k}", vector=tensors(k + 1, 1e-3)) for k in range(count))
    base = tensors(0, 0.02)
    found: dict[str, Any] = {}
    for inputs, names in (
        (Inputs(stages[:2], start=base), {"duet": "duet (K = 2)"}),
        (Inputs(stages, start=base), {name: name for name in METHODS}),
    ):
        found |= against_floor(inputs, names)
    return found


def against_floor(inputs: Any, names: dict[str, str]) -> dict[str, Any]:
    """Measure methods and the floor in turn; multiples of the floor by label."""
    import torch

    from duet.merging.chunks import Scratch, Span
    from duet.merging.table import resolve
    from duet.recipes.apply import in_memory

    out = in_memory("result", inputs.shapes)

    def touch(span: Span, scratch: Scratch) -> None:
        base = inputs.theta_0(span, scratch)
        span.of(out).copy_(base)
        for tau in inputs.taus(span, base, scratch):
            torch.dot(tau, tau)

    rows = {label: resolve(name) for name, label in names.items()}
    works: dict[str, Callable[[], Any]] = {"floor": lambda: inputs.each_span(touch)}
    for label, row in rows.items():
        again = partial(row.merge, inputs, row.params())
        works[f"{label} preallocated"] = partial(again, out)
        works[f"{label} allocating"] = partial(_into_new, again, inputs)
    times: dict[str, list[float]] = {key: [] for key in works}
    for _ in range(5):
        for key, work in works.items():
            times[key].append(seconds(work))
    lowest = min(times["floor"])
    found = {f"floor_seconds_{len(inputs.stages)}": lowest}
    return found | {k: min(v) / lowest for k, v in times.items() if k != "floor"}


def _into_new(merge: Callable[..., Any], inputs: Any) -> None:
    from duet.recipes.apply import in_memory

    merge(in_memory("result", inputs.shapes))


def seconds(work: Callable[[], Any]) -> float:
    """Return the wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


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
    worker = "make-files" if architecture == ARCHITECTURE else "make-small"
    subprocess.run(
        [sys.executable, __file__, "--worker", worker, "--k", str(count)],
        check=True, cwd=folder, capture_output=True,
    )  # fmt: skip


def files(count: int, architecture: str = ARCHITECTURE) -> dict[str, Any]:
    """Merge ``count`` increment folders into a detector folder; watch anonymous memory."""
    with tempfile.TemporaryDirectory(prefix="bench-merge-") as name:
        folder = Path(name)
        make_in(folder, count, architecture)
        return merge_files(folder, count)


def make_files(count: int, architecture: str = ARCHITECTURE) -> dict[str, Any]:
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
    "ties-ours": ties_ours,
    "ties-reference": ties_reference,
    "floor": floor,
    "files": files,
    "make-files": make_files,
    "make-small": partial(make_files, architecture=SMALL),
    "many": many,
    "many-threads": many_threads,
}


def as_text(report: dict[str, Any]) -> str:
    """Return the report for people."""
    lines = [f"K = {report['k']}, {report['rounds']} rounds"]
    if "ties" in report:
        t = report["ties"]
        for name in ("reference", "ours"):
            lines.append(
                f"TIES {name:<10} {t[name]['wall']:6.2f} s wall {t[name]['cpu']:6.2f} s CPU, extra "
                f"memory {t[name]['extra_mb']:6.0f} MB (output {t['output_mb']:.0f})"
            )
        lines.append(f"  faster: {t['wall_ratio']:.1f}x wall, {t['cpu_ratio']:.1f}x CPU")
    if "floor" in report:
        for key, value in report["floor"].items():
            is_floor = key.startswith("floor_seconds_")
            lines.append(
                f"memory floor, K = {key[14:]}: {1000 * value:.0f} ms"
                if is_floor
                else f"  {key:<32} {value:.2f}x"
            )
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
