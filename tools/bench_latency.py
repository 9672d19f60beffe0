"""What several increments cost at inference: each head form against a plain head of equal classes.

    python tools/bench_latency.py --json

Float32 detectors as `duet.load` gives them (packed, `duet.families.packed`), batch 1, one thread;
so the heads are compared, not the formats: tools/bench_predict.py has `yolo predict` beside. The
plain detector is the engine's own for that many classes: from 65 on its class tower is wider than
those of increments, so `rows` may undercut it. In every round each detector looks once at the same
image, in random order (what runs before leaves another heap behind), and is compared with the plain
one of that round; CPU time of the thread counts, because wall time on a shared machine is off by
30 %. The time is without NMS.
"""

from __future__ import annotations

import copy
import json
import random
import statistics
import time
from typing import TYPE_CHECKING, Any

import click
from machine import machine

if TYPE_CHECKING:
    from duet.increments.forms import HeadForm

FORMS: tuple[HeadForm, ...] = ("rows", "towers", "parallel")
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
    from duet.families.ultralytics import engine
    from duet.training.outcome import versions

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
            "seed": seed, "threads": 1, "batch": 1, "fused": True, "order": "interleaved at random",
        },
        "rows": rows,
        "machine": machine(),
        "versions": versions(),
    }  # fmt: skip
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'T':>2} {'px':>4} {'head':<9}{'CPU ms':>8}{'median x':>10}{'min x':>8}", end="")
    print(f"{'GFLOPs':>8}{'x':>7}{'M param':>9}")
    for row in rows:
        print(
            f"{row['increments']:>2} {row['size']:>4} {row['head']:<9}{row['cpu_ms']:>8.1f}"
            f"{row['ratio_median']:>10.3f}{row['ratio_min']:>8.3f}{row['gflops']:>8.2f}"
            f"{row['gflops_ratio']:>7.3f}{row['parameters'] / 1e6:>9.3f}"
        )


def measure(
    architecture: str, increments: int, sizes: list[int], classes: int, rounds: int, warmup: int,
    seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return one row per image size and head form, the plain head first."""
    import torch
    from ultralytics.utils.torch_utils import get_flops, get_num_params

    pairs = {PLAIN: _plain(architecture, increments * classes)}
    pairs |= {form: _detector(architecture, form, [classes] * increments, seed) for form in FORMS}
    modules = {name: module for name, (module, _) in pairs.items()}
    chance = random.Random(seed)
    rows = []
    for size in sizes:
        image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
        image = image.contiguous(memory_format=torch.channels_last)
        times: dict[str, list[float]] = {name: [] for name in modules}
        for round_ in range(warmup + rounds):
            for name in chance.sample(list(modules), len(modules)):
                spent = _cpu_seconds(modules[name], image)
                if round_ >= warmup:
                    times[name].append(spent)
        gflops = {name: get_flops(counted, size) for name, (_, counted) in pairs.items()}
        plain = times[PLAIN]
        rows += [
            {
                "increments": increments,
                "size": size,
                "head": name,
                "cpu_ms": 1000 * statistics.median(spent),
                "ratio_median": statistics.median(a / b for a, b in zip(spent, plain, strict=True)),
                "ratio_min": min(spent) / min(plain),
                "gflops": gflops[name],
                "gflops_ratio": gflops[name] / gflops[PLAIN],
                "parameters": get_num_params(modules[name]),
            }
            for name, spent in times.items()
        ]
    return rows


def _cpu_seconds(module: Any, image: Any) -> float:
    import torch

    with torch.inference_mode():
        began = time.thread_time()
        module(image)
        return time.thread_time() - began


def _plain(architecture: str, classes: int) -> tuple[Any, Any]:
    """Return the engine's own detector, run as duet runs any, and layer by layer.

    Of the second the operations can be counted.
    """
    from ultralytics.nn.tasks import DetectionModel

    from duet.families.yolo.adapter import FAMILY

    model = DetectionModel(architecture, nc=classes, verbose=False).eval().fuse(verbose=False)
    return FAMILY.quickened(copy.deepcopy(model).requires_grad_(False)), model


def _detector(architecture: str, form: HeadForm, sizes: list[int], seed: int) -> tuple[Any, Any]:
    """Return a fused detector with random weights and ``sizes[t]`` classes per increment.

    The second module is the same one layer by layer, whose operations can be counted.
    """
    import torch

    from duet.families.yolo.adapter import FAMILY
    from duet.families.yolo.build import inference_model, stock_model
    from duet.increments.base import StartWeights

    torch.manual_seed(seed)
    theta = StartWeights(stock_model(architecture, 1, width=64).state_dict())
    names = iter(f"class{number}" for number in range(sum(sizes)))
    groups = [[next(names) for _ in range(size)] for size in sizes]
    state = FAMILY.start_state(
        theta, architecture=architecture, head=form, classes=groups[0], increment="t0", seed=seed
    )
    for number, group in enumerate(groups[1:], start=1):
        state = FAMILY.grow(
            state, classes=group, increment=f"t{number}", seed=seed + number, source=None
        )
    module = FAMILY.detector(state, image_size=640).module
    return module, inference_model(state).fuse(verbose=False)


if __name__ == "__main__":
    main()
