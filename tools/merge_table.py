"""Every merge method on the same checkpoints of the embedded series, in one table.

    python tools/merge_table.py --seeds 3 --out runs/merge-table     # the table of docs/merging.md

Two geometries: `sequential` joins the base with an increment that was trained from it (duet-plus
without its re-fit), `independent` joins it with one trained from θ_0 alone. Nothing is trained
again for a method; the Concrete rows learn from unlabelled training images of the newest domain.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.evaluation.definitions import RATIOS
from duet.evaluation.indices import combined

if TYPE_CHECKING:
    from duet.evaluation.ap import ClassAP
    from duet.increments.state import DetectorState
    from duet.runs.evaluator import Evaluator
    from duet.runs.setting import Setting

COLUMNS = (*(index.name for index in RATIOS), "seconds")
ROWS: dict[str, dict[str, Any]] = {
    "newest": {"method": "newest", "batchnorm": {"rule": "newest"}},
    "average": {"method": "average"},
    "duet": {"method": "duet"},
    "duet 0.6": {"method": "duet", "params": {"alpha_base": 0.6}},
    "mtda": {"method": "mtda"},
    "task-arithmetic 0.3": {"method": "task-arithmetic"},
    "task-arithmetic 0.5": {"method": "task-arithmetic", "params": {"weight": 0.5}},
    "ties": {"method": "ties"},
    "ties density 0.5": {"method": "ties", "params": {"density": 0.5}},
    "ties sum 0.3": {"method": "ties", "params": {"merge": "sum", "weight": 0.3}},
    "magmax": {"method": "magmax"},
    "magmax 1": {"method": "magmax", "params": {"weight": 1.0}},
    "dare": {"method": "dare"},
    "dare + ties": {"method": "dare", "params": {"then": "ties"}},
    "fisher": {"method": "fisher"},
    "lines": {"method": "lines"},
    "iso-c": {"method": "iso-c"},
    "tsv-m": {"method": "tsv-m"},
    "concrete": {"file": "concrete-emoji.yaml"},
    "concrete, binary entropy": {
        "file": "concrete-emoji.yaml",
        "adapt": {"kind": "scores", "share": 0.01, "least": 10},
    },
    "concrete-adamerging": {"file": "concrete-adamerging-emoji.yaml"},
}
SEEDED = ("dare", "concrete", "concrete-adamerging")


@dataclass(frozen=True)
class World:
    """One seed: its checkpoints and what to measure them with.

    Attributes:
        setting: Series, schedule and lab.
        evaluate: Scores a detector on a domain.
        base: Folder of the base increment.
        later: Folder of the second increment, by geometry.
        images: Unlabelled images of the newest domain.
        references: mAP50 that RI, GI and PI are ratios to.
        split: Split to measure on.
    """

    setting: Setting
    evaluate: Evaluator
    base: Path
    later: dict[str, Path]
    images: list[Path]
    references: dict[str, float]
    split: str


@click.command()
@click.option("--rows", default=";".join(ROWS), help="Which rows, with ; between.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--first-seed", default=0, show_default=True)
@click.option("--data-seed", default=1, show_default=True, help="Of the scenes.")
@click.option("--test-scenes", default=400, show_default=True)
@click.option("--split", default="test", show_default=True)
@click.option("--jobs", default=2, show_default=True)
@click.option("--epochs", type=int)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/merge-table"))
@click.option("--json", "as_json", is_flag=True)
def main(rows: str, seeds: int, first_seed: int, out: Path, as_json: bool, **options: Any) -> None:
    """Train the checkpoints of every seed once, merge them with every method, print mean ± sd."""
    names = rows.split(";")
    chosen = range(first_seed, first_seed + seeds)
    measured = []
    for seed in chosen:
        world = prepare(seed, out, **options)
        measured.append(
            {
                f"{geometry} {name}": run_row(world, geometry, name, out, seed)
                for geometry in ("sequential", "independent")
                for name in names
            }
        )
    summary = {key: summarise([one[key] for one in measured]) for key in measured[0]}
    report = {
        "schema": 1,
        "date": date.today().isoformat(),
        "seeds": list(chosen),
        **options,
        "rows": summary,
        "per_seed": measured,
    }
    (out / "merge-table.json").write_text(json.dumps(report, indent=2, default=str) + "\n")
    print(json.dumps(report, indent=2, default=str) if as_json else as_table(summary))


def prepare(
    seed: int, out: Path, *, data_seed: int, test_scenes: int, jobs: int, epochs: int | None,
    split: str,
) -> World:  # fmt: skip
    """Train what one seed needs, or read it."""
    from duet.emoji.build import build
    from duet.families.table import resolve_family
    from duet.progress import stages
    from duet.runs.evaluator import Evaluator
    from duet.runs.inputs import read_inputs
    from duet.runs.lab import Lab
    from duet.runs.setting import Setting
    from duet.series import train_slice
    from duet.shipped import shipped

    data = out / f"data-{data_seed}-{test_scenes}"
    build(data, seed=data_seed, test=test_scenes)
    series = shipped("configs", "series", "emoji-2phase.yaml")
    changes: dict[str, object] | None = {"epochs": epochs} if epochs else None
    inputs = read_inputs(series, data_root=data, changes=changes)
    assert inputs.weights is not None  # the series begins with start weights
    with stages() as show:
        setting = Setting(
            inputs.series, inputs.family, inputs.architecture,
            resolve_family(inputs.family).weights(inputs.weights), inputs.schedule, seed,
            Lab(out / "lab", jobs=jobs, listen=show), inputs.weights,
        )  # fmt: skip
        trained = train_all(setting, out / f"seed-{seed}")
    evaluate = Evaluator(out / "evaluations", inputs.schedule.image_size)
    first, second = inputs.series.increments
    references = {
        "old": score(evaluate, trained["old"], first, split).map50(first.classes),
        "new on old": score(evaluate, trained["new on old"], first, split).map50(second.classes),
        "old on new": score(evaluate, trained["old on new"], second, split).map50(first.classes),
        "new": score(evaluate, trained["new"], second, split).map50(second.classes),
    }
    kept = out / f"seed-{seed}" / "increments"
    later = {"sequential": kept / "seq" / second.name, "independent": kept / "alone" / second.name}
    images = list(train_slice(second.data, second.classes).images)
    return World(setting, evaluate, kept / "seq" / first.name, later, images, references, split)


def train_all(setting: Setting, folder: Path) -> dict[str, DetectorState]:
    """Train and keep both increments in both geometries, and return what ratios are made of."""
    from concurrent.futures import ThreadPoolExecutor

    from duet.runs.inputs import read_strategies
    from duet.runs.keep import keep_chain, keep_independent
    from duet.runs.learn import run_chain, run_independent, train_alone
    from duet.series import train_slice
    from duet.training.config import Refit

    (method,) = read_strategies(("duet-plus",), family=setting.family)
    method = method.model_copy(update={"refit": Refit(), "name": "seq"})
    alone = method.model_copy(update={"name": "alone"})
    first, second = setting.series.increments
    with ThreadPoolExecutor(4) as pool:
        chain = pool.submit(run_chain, setting, method)
        lone = pool.submit(run_independent, setting, alone, second)
        others = {
            key: pool.submit(
                train_alone, setting, train_slice(at.data, of.classes), f"reference-{at.domain}"
            )
            for key, at, of in (("new on old", first, second), ("old on new", second, first))
        }
        keep_chain(folder, setting, method, chain.result())
        keep_independent(folder, setting, alone, lone.result())
        states = {key: item.result().state for key, item in others.items()}
    # Trained alone on its own slice: the independent increment is PI's reference as well.
    return {**states, "old": chain.result()[0].merged, "new": lone.result().merged}


def run_row(world: World, geometry: str, name: str, out: Path, seed: int) -> dict[str, float]:
    """Merge with one method and measure the result."""
    from duet.config import load_yaml, parse_config
    from duet.recipes.objective import objective_from
    from duet.recipes.plan import make_plan
    from duet.recipes.recipe import Recipe
    from duet.recipes.write import write_detector
    from duet.shipped import shipped

    data: dict[str, Any] = dict(ROWS[name])
    file = data.pop("file", None)
    if file is not None:
        data = load_yaml(shipped("configs", "merge", file)) | data
    if data["method"] in SEEDED:
        data["params"] = {**data.get("params", {}), "seed": seed}
    data |= {
        "geometry": geometry, "weights": str(world.setting.weights),
        "increments": [str(world.base), str(world.later[geometry])],
    }  # fmt: skip
    recipe = parse_config(Recipe, data, where=name)
    size = world.setting.schedule.image_size

    def make_objective(state: DetectorState) -> Any:
        return objective_from(state, world.images, image_size=size, adapt=recipe.adapt)

    began = time.perf_counter()
    written = write_detector(
        make_plan(recipe),
        out / f"seed-{seed}" / "merged" / f"{geometry}-{name.replace(' ', '-')}",
        overwrite=True,
        make_objective=make_objective if file is not None else None,
    )
    seconds = time.perf_counter() - began
    row = indices(world, written.result.state) | {"seconds": seconds}
    facts = written.result.traces[-1].facts
    if "entropy_before" in facts:
        row |= {key: facts[key] for key in ("entropy_before", "entropy_after")}
    return row


def indices(world: World, state: DetectorState) -> dict[str, float]:
    """Return RI, GI, RAI, PI and H of a merged detector, in percent."""
    first, second = world.setting.series.increments
    old = score(world.evaluate, state, first, world.split)
    new = score(world.evaluate, state, second, world.split)
    r = world.references
    ri = old.map50(first.classes) / r["old"]
    gi = statistics.mean(
        [old.map50(second.classes) / r["new on old"], new.map50(first.classes) / r["old on new"]]
    )
    pi = new.map50(second.classes) / r["new"]
    values = combined({"ri": ri, "gi": gi, "pi": pi})
    return {key: 100 * value for key, value in values.items()}


def score(evaluate: Evaluator, state: DetectorState, increment: Any, split: str) -> ClassAP:
    """Return the AP of all classes that ``state`` knows, on the domain of an increment."""
    from duet.series import eval_slice

    known = tuple(name for name in increment.data.labels if name in state.labels)
    return evaluate(state, eval_slice(increment.data, known, split))


def summarise(rows: Iterable[dict[str, float]]) -> dict[str, list[float]]:
    """Return [mean, sd] of every column."""
    rows = list(rows)
    return {
        key: [
            statistics.mean(row[key] for row in rows),
            statistics.stdev(row[key] for row in rows) if len(rows) > 1 else 0.0,
        ]
        for key in rows[0]
    }


def as_table(summary: dict[str, dict[str, list[float]]]) -> str:
    """Return a Markdown table: mean ± sd in percent, seconds of the merge."""
    lines = ["| geometry | method | RI | GI | RAI | PI | H | seconds |", "|---" * 8 + "|"]
    for key, row in summary.items():
        geometry, _, name = key.partition(" ")
        cells = [f"{row[c][0]:.1f} ± {row[c][1]:.1f}" for c in COLUMNS[:-1]]
        lines.append(f"| {geometry} | {name} | {' | '.join(cells)} | {row['seconds'][0]:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
