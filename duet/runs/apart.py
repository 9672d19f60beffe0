"""A series whose increments are trained apart and merged at once, with all that came before.

After each increment the detector is the merge of all so far, from one start: θ_0; or, where every
increment shows known classes in a domain of its own, the base, which is then no part of the merge.
Everything else of a run is as for a chain: folders, recipes, evaluations, indices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from duet.increments.store import load_detector
from duet.recipes.plan import make_plan
from duet.recipes.recipe import Entry, Recipe
from duet.recipes.write import write_detector
from duet.runs.keep import keep_independent, kept_stages
from duet.runs.learn import run_base, run_independent
from duet.runs.setting import FinishedStage, Setting
from duet.series import Series
from duet.training.config import Strategy
from duet.weights.start import start_weights_of


def apart_stages(folder: Path, setting: Setting, strategy: Strategy) -> Iterator[FinishedStage]:
    """Yield the base, then the merge after each increment, each when it is kept.

    Args:
        folder: Run folder; holds `increments/<strategy>` and `models/<strategy>` as of a chain.
        setting: What all trainings share.
        strategy: Its head form, merge and BatchNorm rule count, and whether the trunk is trained.

    Raises:
        ModelError: The increments cannot be merged, see `duet.recipes.apply.merge_plan`.
    """
    first, *later = setting.series.increments
    (base,) = kept_stages(folder, setting, strategy, [run_base(setting, strategy)])
    yield base
    number = 1 if setting.onto is None else 0
    models = folder / "models" / strategy.name
    root = models / f"{number}-{first.name}"
    kept = root if setting.onto is not None else folder / "increments" / strategy.name / first.name
    entries = [Entry(path=str(kept), name=first.name)]
    if adapts_base(setting.series):
        setting, entries = from_detector(setting, root), []
    start = setting.weights or root
    for count, increment in enumerate(later, start=number + 1):
        result = run_independent(setting, strategy, increment)
        kept = keep_independent(folder, setting, strategy, result)
        entries.append(Entry(path=str(kept), name=increment.name))
        recipe = Recipe(
            method=strategy.merge.method, params=strategy.merge.params,
            batchnorm=strategy.batchnorm, geometry="independent", weights=str(start),
            increments=tuple(entries),
        )  # fmt: skip
        target = models / f"{count}-{increment.name}"
        written = write_detector(make_plan(recipe), target, overwrite=True)
        done = replace(result, merged=load_detector(target).state, trace=written.result.traces[0])
        yield done.finished(done.merged)


def adapts_base(series: Series) -> bool:
    """Tell whether every increment after the first shows classes of the first alone."""
    first, *later = series.increments
    return all(set(item.classes) <= set(first.classes) for item in later)


def from_detector(setting: Setting, folder: Path) -> Setting:
    """Return a setting whose start weights are those of a kept detector of one head part."""
    theta_0 = start_weights_of(load_detector(folder).state)
    return replace(setting, theta_0=theta_0, weights=folder, onto=None)
