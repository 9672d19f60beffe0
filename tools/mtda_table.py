"""One detector for several domains: adapted apart and merged, beside joint training.

    python tools/mtda_table.py --seeds 2 --out runs/mtda     # the table of docs/merging.md

The series is `configs/series/emoji-mtda.yaml`: a detector of ten classes, trained on photographs,
is adapted apart to three other domains with the same classes (all weights, heads too) and merged.
`joint` is the same detector trained on the three data sets at once. Everything is trained once.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from duet.increments.state import DetectorState
    from duet.runs.evaluator import Evaluator
    from duet.runs.setting import Setting
    from duet.series import Increment

STRATEGY = "mtda"
HARMONIC = "harmonic mean"


@dataclass(frozen=True)
class World:
    """One seed: what was trained, and what to measure it with.

    Attributes:
        setting: Series, schedule and lab.
        evaluate: Scores a detector on a domain.
        folder: Run folder of the seed.
        source: The detector that the others were adapted from.
        joint: It, trained on all targets at once.
        split: Split to measure on.
    """

    setting: Setting
    evaluate: Evaluator
    folder: Path
    source: DetectorState
    joint: DetectorState
    split: str

    @property
    def targets(self) -> tuple[Increment, ...]:
        """What the source was adapted to."""
        return self.setting.series.increments[1:]

    @property
    def start(self) -> Path:
        """Folder of the source."""
        first = self.setting.series.increments[0]
        return self.folder / "models" / STRATEGY / f"1-{first.name}"

    def merge(self, *names: str, **recipe: Any) -> DetectorState:
        """Merge adapted detectors, by name; one alone is as it was trained."""
        from duet.config import parse_config
        from duet.recipes.apply import merge_plan
        from duet.recipes.plan import make_plan
        from duet.recipes.recipe import Recipe

        kept = self.folder / "increments" / STRATEGY
        paths = [str(kept / item.name) for item in self.targets if item.name in names]
        data = {"method": "mtda", "weights": str(self.start), "geometry": "independent", **recipe}
        chosen = parse_config(Recipe, data | {"increments": paths}, where="tools/mtda_table.py")
        return merge_plan(make_plan(chosen)).state

    def all(self, **recipe: Any) -> DetectorState:
        """Merge all adapted detectors."""
        return self.merge(*(item.name for item in self.targets), **recipe)


def _rule(rule: str) -> Callable[[World], DetectorState]:
    return lambda world: world.all(batchnorm={"rule": rule})


def _own_statistics(world: World) -> DetectorState:
    """Merge the weights alone: statistics stay those of the source."""
    from duet.merging.batchnorm import is_statistic

    merged, source = world.all(), world.source
    (part,), (old,) = merged.parts, source.parts
    kept = {n: old.tensors[n] if is_statistic(n) else t for n, t in part.tensors.items()}
    return replace(merged, buffers=source.buffers, parts=(replace(part, tensors=kept),))


ROWS: dict[str, Callable[[World], DetectorState]] = {
    "source": lambda world: world.source,
    "adapted to comic": lambda world: world.merge("comic"),
    "adapted to watercolor": lambda world: world.merge("watercolor"),
    "adapted to night": lambda world: world.merge("night"),
    "merge, statistics as a mixture (MTDA)": _rule("mixture"),
    "merge, mean of statistics": _rule("average"),
    "merge, statistics of the first (comic)": _rule("oldest"),
    "merge, statistics of the last (night)": _rule("newest"),
    "merge, statistics of the source": _own_statistics,
    "merge by TIES at its defaults": lambda world: world.all(method="ties"),
    "merge by task arithmetic, 2/3": lambda world: world.all(
        method="task-arithmetic", params={"weight": 2 / 3}
    ),
    "joint training": lambda world: world.joint,
}
"""Each row's detector. Statistics estimated anew on unlabelled images will be one more."""


@click.command()
@click.option("--rows", default=";".join(ROWS), help="Which rows, with ; between.")
@click.option("--seeds", default=2, show_default=True)
@click.option("--first-seed", default=0, show_default=True)
@click.option("--data-seed", default=1, show_default=True, help="Of the scenes.")
@click.option("--train-scenes", default=450, show_default=True, help="Of each domain.")
@click.option("--test-scenes", default=250, show_default=True)
@click.option("--split", default="test", show_default=True)
@click.option("--jobs", default=2, show_default=True)
@click.option("--epochs", type=int, help="Of every training [as the series says].")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/mtda"))
@click.option("--json", "as_json", is_flag=True)
def main(rows: str, seeds: int, first_seed: int, out: Path, as_json: bool, **options: Any) -> None:
    """Train every seed once, or go on with what is there; measure every row, print mean ± sd."""
    chosen, measured = range(first_seed, first_seed + seeds), []
    for seed in chosen:
        world = prepare(seed, out, **options)
        found = {name: domains_of(world, ROWS[name](world)) for name in rows.split(";")}
        home = {item.domain: world.merge(item.name) for item in world.targets}
        found["each adapted one at home"] = at_home(world, home)
        measured.append(found)
    summary = {name: summarise([one[name] for one in measured]) for name in measured[0]}
    report = {
        "schema": 1, "date": date.today().isoformat(), "seeds": list(chosen), **options,
        "rows": summary, "per_seed": measured,
    }  # fmt: skip
    (out / "mtda-table.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2) if as_json else as_table(summary))


def prepare(
    seed: int, out: Path, *, data_seed: int, train_scenes: int, test_scenes: int, split: str,
    jobs: int, epochs: int | None,
) -> World:  # fmt: skip
    """Train what one seed needs, or read it."""
    from duet.emoji.build import build
    from duet.emoji.vocabulary import FOCI
    from duet.families.table import resolve_family
    from duet.progress import stages
    from duet.runs.evaluator import Evaluator
    from duet.runs.inputs import read_inputs
    from duet.runs.lab import Lab
    from duet.runs.setting import Setting
    from duet.shipped import shipped

    data = out / f"data-{data_seed}-{train_scenes}-{test_scenes}"
    build(
        data, seed=data_seed, train=train_scenes, val=1, test=test_scenes,
        domains=tuple(FOCI["mtda"]), focus=FOCI["mtda"],
    )  # fmt: skip
    changes: dict[str, object] | None = {"epochs": epochs} if epochs else None
    series = shipped("configs", "series", "emoji-mtda.yaml")
    inputs = read_inputs(series, data_root=data, changes=changes)
    assert inputs.weights is not None  # the series begins with start weights
    with stages() as show:
        setting = Setting(
            inputs.series, inputs.family, inputs.architecture,
            resolve_family(inputs.family).weights(inputs.weights), inputs.schedule, seed,
            Lab(out / "lab", jobs=jobs, listen=show), inputs.weights,
        )  # fmt: skip
        folder = out / f"{data.name}-epochs-{inputs.schedule.epochs}-seed-{seed}"
        source, joint = train_all(setting, folder)
    evaluate = Evaluator(out / "evaluations", inputs.schedule.image_size)
    return World(setting, evaluate, folder, source, joint, split)


def train_all(setting: Setting, folder: Path) -> tuple[DetectorState, DetectorState]:
    """Train the source, what is adapted from it, and the joint one; return first and last."""
    from duet.runs.apart import apart_stages, from_detector
    from duet.runs.inputs import read_strategies
    from duet.runs.learn import train_alone
    from duet.series.series import joint_slice

    (strategy,) = read_strategies((STRATEGY,), family=setting.family)
    source = next(iter([stage.merged for stage in apart_stages(folder, setting, strategy)]))
    first, *targets = setting.series.increments
    adapting = from_detector(setting, folder / "models" / STRATEGY / f"1-{first.name}")
    data = joint_slice(tuple(targets), first.classes, full=False)
    joint = train_alone(adapting, data, "joint")
    return source, setting.engine.recast(joint.state, strategy.head)


def domains_of(world: World, state: DetectorState) -> dict[str, float]:
    """Return mAP50 in percent on every domain, and the harmonic mean over the targets."""
    found = {item.domain: score(world, state, item) for item in world.setting.series.increments}
    low = [found[item.domain] for item in world.targets]
    return found | {HARMONIC: _harmonic(low)}


def at_home(world: World, home: Mapping[str, DetectorState]) -> dict[str, float]:
    """Return what every adapted detector reaches in its own domain."""
    found = {item.domain: score(world, home[item.domain], item) for item in world.targets}
    return found | {HARMONIC: _harmonic(list(found.values()))}


def score(world: World, state: DetectorState, item: Increment) -> float:
    """Return mAP50 in percent on the domain of an increment."""
    from duet.series import eval_slice

    data = eval_slice(item.data, item.classes, world.split)
    return 100 * world.evaluate(state, data).map50(item.classes)


def _harmonic(values: list[float]) -> float:
    return statistics.harmonic_mean(values) if min(values) > 0 else 0.0


def summarise(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return [mean, sd] of every column."""
    return {
        key: [
            statistics.mean(row[key] for row in rows),
            statistics.stdev(row[key] for row in rows) if len(rows) > 1 else 0.0,
        ]
        for key in rows[0]
    }


def as_table(summary: dict[str, dict[str, list[float]]]) -> str:
    """Return a Markdown table: mean ± sd of mAP50 in percent."""
    columns = list(next(iter(summary.values())))
    lines = [f"| detector | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in summary.items():
        cells = [f"{row[c][0]:.1f} ± {row[c][1]:.1f}" if c in row else "" for c in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
