"""Every merge method on 2, 4 and 8 models trained apart, each with the same small sweep.

    python tools/many_tasks.py --k 2,4,8 --seeds 1 --out runs/many-tasks   # docs/merging.md

Eight increments of two or three classes of the embedded series, each trained from θ_0 on its own
scenes; K of them are the first K. A method's points are tried on validation scenes (the best
harmonic mean of the increments' mAP50), and the best one is measured on test scenes, in percent of
what each specialist reaches there. Everything is trained and measured once: the same command goes
on, or adds another K, seed or row.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

if TYPE_CHECKING:
    from duet.increments.state import DetectorState
    from duet.runs.evaluator import Evaluator
    from duet.runs.setting import Setting
    from duet.series import Increment

TASKS: dict[str, tuple[str, ...]] = {
    "flat": ("aeroplane", "cat", "bus"),
    "comic": ("dog", "bicycle"),
    "watercolor": ("car", "cow", "chair"),
    "night": ("horse", "boat"),
    "sketch": ("motorbike", "sheep", "bottle"),
    "fog": ("train", "tvmonitor"),
    "flat-2": ("person", "pottedplant", "sofa"),
    "comic-2": ("bird", "diningtable"),
}
"""Domain (-2: other scenes of the same look) -> classes, in the order in which K grows."""

Points = Callable[[int], Sequence[dict[str, Any]]]


def _each(name: str, *values: float, **fixed: Any) -> Points:
    return lambda k: [{name: value, **fixed} for value in values]


def _per_model(*shares: float, **fixed: Any) -> Points:
    return lambda k: [{"weight": share / k, **fixed} for share in shares]


ROWS: dict[str, tuple[str, Points]] = {
    "average": ("average", lambda k: [{}]),
    "duet": ("duet", _each("alpha_base", 0.5, 0.6, 0.7, 0.8)),
    "task-arithmetic": ("task-arithmetic", _per_model(1, 1.5, 2, 3)),
    "ties": (
        "ties", lambda k: [{"density": d, "weight": w} for d in (0.2, 0.5) for w in (0.6, 1.0)],
    ),
    "magmax": ("magmax", _each("weight", 0.4, 0.6, 0.8, 1.0)),
    "dare": ("dare", _per_model(1, 1.5, 2, 3)),
    "dare + ties": ("dare", _each("weight", 0.4, 0.6, 0.8, 1.0, then="ties")),
    "fisher": ("fisher", _each("floor", 1e-6, 0.01, 0.1, 1.0)),
    "lines": ("lines", _each("beta", 0.1, 0.25, 0.5, 1.0)),
    "iso-c": ("iso-c", _each("weight", 0.5, 0.75, 1.0, 1.5)),
    "tsv-m": ("tsv-m", _each("weight", 0.5, 0.75, 1.0, 1.5)),
}  # fmt: skip
"""Row -> method and its points for K models: four each. A mended merge will be one more row."""
DEFAULTS = ("task-arithmetic", "ties", "magmax", "dare", "lines")
"""Methods that are shown as they come, too."""
MEASURES = ("mean", "harmonic", "worst")


@dataclass(frozen=True)
class World:
    """One seed: its specialists, and what to measure them with.

    Attributes:
        setting: Series, schedule and lab.
        evaluate: Scores a detector on a slice.
        folder: Where the increments are kept.
        alone: Each specialist as a detector, by increment.
    """

    setting: Setting
    evaluate: Evaluator
    folder: Path
    alone: dict[str, DetectorState]

    def merge(self, k: int, method: str, params: dict[str, Any]) -> DetectorState:
        """Merge the first k specialists."""
        from duet.recipes.apply import merge_plan
        from duet.recipes.plan import make_plan
        from duet.recipes.recipe import Entry, Recipe

        names = [item.name for item in self.setting.series.increments[:k]]
        recipe = Recipe(
            method=method, params=params, weights=str(self.setting.weights), geometry="independent",
            increments=tuple(Entry(path=str(self.folder / name)) for name in names),
        )  # fmt: skip
        return merge_plan(make_plan(recipe)).state

    def score(self, state: DetectorState, item: Increment, split: str) -> float:
        """Return mAP50 of an increment's classes in its domain, as a fraction."""
        from duet.series import eval_slice

        data = eval_slice(item.data, item.classes, split)
        return self.evaluate(state, data).map50(item.classes)


@click.command()
@click.option("--k", "counts", default="2,4,8", show_default=True, help="How many models.")
@click.option("--rows", default=";".join(ROWS), help="Which rows, with ; between.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--first-seed", default=0, show_default=True)
@click.option("--data-seed", default=10, show_default=True, help="Of the scenes; -2 one higher.")
@click.option("--train-scenes", default=150, show_default=True, help="Of each increment.")
@click.option("--val-scenes", default=80, show_default=True)
@click.option("--test-scenes", default=150, show_default=True)
@click.option("--epochs", default=5, show_default=True)
@click.option("--jobs", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/many-tasks"))
@click.option("--json", "as_json", is_flag=True)
def main(
    counts: str, rows: str, seeds: int, first_seed: int, out: Path, as_json: bool, **options: Any
) -> None:
    """Train the specialists of every seed once, sweep and measure every row at every K."""
    many = [int(word) for word in counts.split(",")]
    if wrong := [k for k in many if not 2 <= k <= len(TASKS)]:
        raise click.BadParameter(f"from 2 to {len(TASKS)}, got {wrong[0]}", param_hint="--k")
    chosen, measured = range(first_seed, first_seed + seeds), []
    for seed in chosen:
        world = prepare(seed, out, models=max(many), **options)
        measured.append({k: rows_of(world, k, rows.split(";")) for k in many})
    report = {
        "schema": 1, "date": date.today().isoformat(), "seeds": list(chosen), **options,
        "per_seed": measured,
    }  # fmt: skip
    (out / "many-tasks.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2) if as_json else as_table(measured))


def prepare(
    seed: int, out: Path, *, models: int, data_seed: int, train_scenes: int, val_scenes: int,
    test_scenes: int, epochs: int, jobs: int,
) -> World:  # fmt: skip
    """Train as many specialists as are needed, or read them."""
    from duet.families.table import resolve_family
    from duet.progress import stages
    from duet.runs.evaluator import Evaluator
    from duet.runs.inputs import read_inputs
    from duet.runs.lab import Lab
    from duet.runs.setting import Setting

    scenes = {"train": train_scenes, "val": val_scenes, "test": test_scenes}
    series = draw(out, data_seed, scenes)
    changes: dict[str, object] = {"epochs": epochs, "fisher_images": 128}
    inputs = read_inputs(series, changes=changes)
    assert inputs.weights is not None  # the series begins with start weights
    folder = out / f"{series.stem}-epochs-{epochs}-seed-{seed}"
    with stages() as show:
        setting = Setting(
            inputs.series, inputs.family, inputs.architecture,
            resolve_family(inputs.family).weights(inputs.weights), inputs.schedule, seed,
            Lab(out / "lab", jobs=jobs, listen=show), inputs.weights,
        )  # fmt: skip
        alone = train_all(setting, folder, models, jobs)
    evaluate = Evaluator(out / "evaluations", inputs.schedule.image_size)
    return World(setting, evaluate, folder / "increments" / "alone", alone)


def draw(out: Path, seed: int, scenes: dict[str, int]) -> Path:
    """Draw the scenes of all increments and write their series."""
    from duet.emoji.build import build
    from duet.shipped import shipped

    name, steps = "-".join(map(str, ("tasks", seed, *scenes.values()))), []
    for number, ending in enumerate(("", "-2")):
        own = [domain for domain in TASKS if domain.endswith("-2") is bool(ending)]
        focus = {domain.removesuffix("-2"): TASKS[domain] for domain in own}
        build(
            out / f"{name}-data{ending}", seed=seed + number, domains=tuple(focus), focus=focus,
            train=scenes["train"], val=scenes["val"], test=scenes["test"],
        )  # fmt: skip
    for domain, classes in TASKS.items():
        folder = f"{name}-data{'-2' if domain.endswith('-2') else ''}"
        data = f"{folder}/{domain.removesuffix('-2')}/data.yaml"
        steps.append({"domain": domain, "data": data, "classes": list(classes)})
    defaults = {
        "train": str(shipped("configs", "train", "emoji.yaml")),
        "weights": str(shipped("weights", "yolo11n-emoji.safetensors")),
        "architecture": "yolo11n.yaml",
    }
    series = out / f"{name}.yaml"
    content = {"schema": 1, "name": name, "increments": steps, "defaults": defaults}
    series.write_text(yaml.safe_dump(content, sort_keys=False))
    return series


def train_all(setting: Setting, folder: Path, models: int, jobs: int) -> dict[str, DetectorState]:
    """Train and keep the first specialists, each from θ_0 alone."""
    from concurrent.futures import ThreadPoolExecutor

    from duet.runs.inputs import read_strategies
    from duet.runs.keep import keep_independent
    from duet.runs.learn import run_independent

    (strategy,) = read_strategies(("mtda",), family=setting.family)
    strategy = strategy.model_copy(update={"name": "alone"})
    with ThreadPoolExecutor(jobs) as pool:
        items = setting.series.increments[:models]
        done = list(pool.map(lambda item: run_independent(setting, strategy, item), items))
    for result in done:
        keep_independent(folder, setting, strategy, result)
    return {result.increment.name: result.merged for result in done}


def rows_of(world: World, k: int, names: Sequence[str]) -> dict[str, Any]:
    """Return every row at K models: the point that was chosen, and what it reaches."""
    items = world.setting.series.increments[:k]
    best = {item.name: world.score(world.alone[item.name], item, "test") for item in items}
    specialists = {name: 100 * value for name, value in best.items()}
    found: dict[str, Any] = {"specialists": {"params": {}, "map50": specialists}}
    for name in names:
        method, points = ROWS[name]
        params = chosen(world, k, method, points(k))
        found[name] = measured_at(world, k, method, params, best)
        if name in DEFAULTS:
            found[f"{name}, as it comes"] = measured_at(world, k, method, {}, best)
    return found


def chosen(world: World, k: int, method: str, points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the point with the best harmonic mean of mAP50 on validation scenes."""
    if len(points) == 1:
        return points[0]
    items, scores = world.setting.series.increments[:k], []
    for params in points:
        state = world.merge(k, method, params)
        values = [world.score(state, item, "val") for item in items]
        scores.append(statistics.harmonic_mean(values) if min(values) > 0 else 0.0)
    return points[scores.index(max(scores))]


def measured_at(
    world: World, k: int, method: str, params: dict[str, Any], best: dict[str, float]
) -> dict[str, Any]:
    """Return what a merge keeps of its specialists on test scenes, in percent."""
    state = world.merge(k, method, params)
    items = world.setting.series.increments[:k]
    kept = [100 * world.score(state, item, "test") / best[item.name] for item in items]
    harmonic = statistics.harmonic_mean(kept) if min(kept) > 0 else 0.0
    return {
        "params": params, "mean": statistics.mean(kept), "harmonic": harmonic, "worst": min(kept),
        "kept": dict(zip(best, kept, strict=True)),
    }  # fmt: skip


def as_table(measured: Sequence[dict[int, dict[str, Any]]]) -> str:
    """Return a Markdown table: per K the mean of what is kept and the worst increment."""
    counts = list(measured[0])
    head = "".join(f" K = {k}: mean | harmonic | worst | chosen |" for k in counts)
    lines = [f"| method |{head}", "|---" * (1 + 4 * len(counts)) + "|"]
    for name in measured[0][counts[0]]:
        if name != "specialists":
            cells = "".join(_cells([one[k][name] for one in measured]) for k in counts)
            lines.append(f"| {name} |{cells}")
    return "\n".join(lines)


def _cells(rows: Sequence[dict[str, Any]]) -> str:
    """Return the cells of a row at one K: means over seeds, with ± sd where there are several."""
    words = []
    for measure in MEASURES:
        values = [row[measure] for row in rows]
        more = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        words.append(f"{statistics.mean(values):.1f}{more}")
    points = (
        ", ".join(f"{key} {value if isinstance(value, str) else f'{value:.3g}'}"
                  for key, value in row["params"].items())
        for row in rows
    )  # fmt: skip
    return f" {' | '.join(words)} | {'; '.join(dict.fromkeys(points))} |"


if __name__ == "__main__":
    main()
