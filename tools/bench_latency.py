"""What several increments cost at inference: each head form against a plain head of equal classes.

    python tools/bench_latency.py --json

Fused float32 detectors, batch 1, one thread. In every round each detector looks once at the same
image (interleaved), and is compared with the plain head of that round; CPU time of the thread
counts, because wall time on a shared machine is off by 30 %. The time is without NMS.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from typing import Any

import click

FORMS = ("rows", "towers", "parallel")
PLAIN = "plain"


@click.command()
@click.option("--architecture", default="yolo11n.yaml", show_default=True)
@click.option("--increments", default="1,2,4,8", show_default=True)
@click.option("--sizes", default="640,320", show_default=True, help="Image sides in pixels.")
@click.option("--classes", default=10, show_default=True, help="Per increment.")
@click.option("--rounds", default=15, show_default=True)
@click.option("--warmup", default=2, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    architecture: str, increments: str, sizes: str, classes: int, rounds: int, warmup: int,
    seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Measure and print."""
    from duet.families.yolo import engine
    from duet.runs.keep import versions

    engine.set_threads(1)
    rows = [
        row
        for count in map(int, increments.split(","))
        for row in measure(
            architecture, count, [int(size) for size in sizes.split(",")], classes, rounds, warmup,
            seed,
        )
    ]  # fmt: skip
    result = {
        "what": "CPU time of one image, head form / plain head with as many classes",
        "settings": {
            "architecture": architecture, "classes": classes, "rounds": rounds, "warmup": warmup,
            "seed": seed, "threads": 1, "batch": 1, "fused": True, "order": "interleaved",
        },
        "rows": rows,
        "machine": {
            "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(),
            "load": [round(value, 2) for value in os.getloadavg()], "system": platform.platform(),
        },
        "versions": versions(),
    }  # fmt: skip
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'T':>2} {'px':>4} {'head':<9}{'CPU ms':>8}{'median x':>10}{'min x':>8}", end="")
    print(f"{'GFLOPs':>8}{'M param':>9}")
    for row in rows:
        print(
            f"{row['increments']:>2} {row['size']:>4} {row['head']:<9}{row['cpu_ms']:>8.1f}"
            f"{row['ratio_median']:>10.3f}{row['ratio_min']:>8.3f}{row['gflops']:>8.2f}"
            f"{row['parameters'] / 1e6:>9.3f}"
        )


def measure(
    architecture: str, increments: int, sizes: list[int], classes: int, rounds: int, warmup: int,
    seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return one row per image size and head form, the plain head first."""
    import torch
    from ultralytics.utils.torch_utils import get_flops, get_num_params

    modules = {PLAIN: _detector(architecture, "rows", [increments * classes], seed)}
    modules |= {form: _detector(architecture, form, [classes] * increments, seed) for form in FORMS}
    rows = []
    for size in sizes:
        image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
        times: dict[str, list[float]] = {name: [] for name in modules}
        with torch.no_grad():
            for round_ in range(warmup + rounds):
                for name, module in modules.items():
                    began = time.thread_time()
                    module(image)
                    if round_ >= warmup:
                        times[name].append(time.thread_time() - began)
        plain = times[PLAIN]
        rows += [
            {
                "increments": increments,
                "size": size,
                "head": name,
                "cpu_ms": 1000 * statistics.median(spent),
                "ratio_median": statistics.median(a / b for a, b in zip(spent, plain, strict=True)),
                "ratio_min": min(spent) / min(plain),
                "gflops": get_flops(modules[name], size),
                "parameters": get_num_params(modules[name]),
            }
            for name, spent in times.items()
        ]
    return rows


def _detector(architecture: str, form: str, sizes: list[int], seed: int) -> Any:
    """Return a fused detector with random weights and ``sizes[t]`` classes per increment."""
    import torch

    from duet.families.yolo.adapter import FAMILY
    from duet.families.yolo.build import stock_model

    torch.manual_seed(seed)
    theta = stock_model(architecture, 1, width=64).state_dict()
    names = iter(f"class{number}" for number in range(sum(sizes)))
    groups = [[next(names) for _ in range(size)] for size in sizes]
    state = FAMILY.start_state(
        theta, architecture=architecture, head=form, classes=groups[0], increment="t0", seed=seed
    )
    for number, group in enumerate(groups[1:], start=1):
        state = FAMILY.grow(
            state, classes=group, increment=f"t{number}", seed=seed + number, source=None
        )
    return FAMILY.detector(state, image_size=640).module


if __name__ == "__main__":
    main()
