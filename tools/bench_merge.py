"""Time and memory of merges, as ratios: to a transcription of the reference, and to bare memory.

    python tools/bench_merge.py                    # all of it: about four minutes
    python tools/bench_merge.py --only ties --rounds 5

Tensors have the names and shapes of a YOLO11x (57 M scalars); K task vectors and θ_0 are float32.
Every measurement runs in a process of its own, and competitors take turns. `floor` is one pass that
reads every input once and writes the result once, with as many threads as the merge may use.
`bench_merge_files.py` has merges of files.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import torch

ARCHITECTURE = "yolo11x.yaml"
WIDTH = 384
"""Channels of its class towers."""
METHODS = ("task-arithmetic", "mtda", "duet", "magmax")


@click.command()
@click.option("--only", type=click.Choice(["ties", "floor"]), help="[all]")
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

    model = stock_model(ARCHITECTURE, 10, WIDTH)
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


WORKERS: dict[str, Callable[[int], dict[str, Any]]] = {
    "ties-ours": ties_ours,
    "ties-reference": ties_reference,
    "floor": floor,
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
    return "\n".join(lines)


if __name__ == "__main__":
    main()
