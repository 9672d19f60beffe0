"""The ladder of the paper on the embedded series, beside the control and duet-plus.

    python tools/ablation.py --seeds 3 --out runs/ablation          # tables of docs/measurements.md
    python tools/ablation.py --rows seq-ft,duet-plus --split val    # tuning looks at val only

Each seed has its own base, class rows, order and augmentation; ``--data-seed`` draws other scenes.
"""

from __future__ import annotations

import json
import statistics
from datetime import date
from pathlib import Path
from typing import Any

import click

from duet.evaluation.definitions import RATIOS

LADDER = (
    "seq-ft", "ladder/incremental-head", "ladder/duet-module", "ladder/distill", "duet", "frozen",
    "duet-plus",
)  # fmt: skip
COLUMNS = (*(index.name for index in RATIOS), "new_map50", "sign_conflict", "seconds")


@click.command()
@click.option("--rows", default=",".join(LADDER), show_default=True, help="Method names or paths.")
@click.option("--seeds", default=3, show_default=True, help="How many seeds.")
@click.option("--first-seed", default=0, show_default=True)
@click.option("--data-seed", default=0, show_default=True, help="Of the scenes.")
@click.option("--test-scenes", default=250, show_default=True)
@click.option("--split", default="test", show_default=True)
@click.option("--jobs", default=2, show_default=True)
@click.option("--epochs", default=None, type=int)
@click.option("--weights", default=None, help="θ_0: a file or a name of `duet weights ls`.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/ablation"))
@click.option("--json", "as_json", is_flag=True)
def main(rows: str, seeds: int, first_seed: int, as_json: bool, out: Path, **options: Any) -> None:
    """Run every row with every seed and print mean ± sd."""
    chosen = range(first_seed, first_seed + seeds)
    measured = [run_seed(rows.split(","), seed, out, **options) for seed in chosen]
    summary = {name: summarise([one[name] for one in measured]) for name in measured[0]}
    report = {
        "schema": 1, "date": date.today().isoformat(), "seeds": list(chosen), **options,
        "rows": summary, "per_seed": measured,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    (out / f"ablation-{options['split']}.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2) if as_json else as_table(summary))


def run_seed(
    rows: list[str], seed: int, out: Path, *, data_seed: int, test_scenes: int, split: str,
    jobs: int, epochs: int | None, weights: str | None,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Return the numbers of every row for one seed."""
    from duet.emoji.build import build
    from duet.progress import stages
    from duet.runs.inputs import read_inputs, read_strategies
    from duet.runs.plan import RunPlan
    from duet.runs.run import execute
    from duet.shipped import shipped

    data = out / f"data-{data_seed}-{test_scenes}"
    build(data, seed=data_seed, test=test_scenes)
    inputs = read_inputs(
        shipped("configs", "series", "emoji-2phase.yaml"),
        data_root=data,
        weights=weights,
        changes={"epochs": epochs, "reference_steps": 0} if epochs else None,
    )
    plan = RunPlan(
        series=inputs.series, strategies=read_strategies(tuple(rows), family=inputs.family),
        schedule=inputs.schedule,
        weights=inputs.weights, architecture=inputs.architecture, family=inputs.family, seed=seed,
        out=out / f"data-{data_seed}-seed-{seed}", jobs=jobs, split=split,
    )  # fmt: skip
    with stages() as show:
        results = execute(plan, show, date=date.today().isoformat())
    return {method.name: numbers(method, results) for method in results.strategies}


def numbers(method: Any, results: Any) -> dict[str, float]:
    """Return one row: indices, mAP50 of the new classes, sign conflicts, seconds."""
    last = results.series.increments[-1]
    found = {index.name: method.indices.value(index.name) for index in RATIOS}
    final = method.stage_matrix().get(results.final_stage, last.domain, last.classes)
    # Joint training merges nothing.
    conflict = (method.merges[-1].sign_conflict or 0.0) if method.merges else 0.0
    found |= {"new_map50": final, "sign_conflict": conflict}
    return found | {"seconds": sum(cost.seconds for cost in method.costs[1:])}


def summarise(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return mean and sample standard deviation of every column."""
    return {
        column: {
            "mean": statistics.fmean(row[column] for row in rows),
            "sd": statistics.stdev(row[column] for row in rows) if len(rows) > 1 else 0.0,
        }
        for column in COLUMNS
    }


def as_table(summary: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return the table in Markdown; indices in percent."""
    titles = (*(index.title for index in RATIOS), "new mAP50", "sign conflicts", "seconds")
    lines = ["| row | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, row in summary.items():
        cells = []
        for column in COLUMNS:
            scale = 1 if column == "seconds" else 100
            cells.append(f"{scale * row[column]['mean']:.1f} ± {scale * row[column]['sd']:.1f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
