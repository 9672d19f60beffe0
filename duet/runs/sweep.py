"""Choosing merge parameters on a declared validation split: merge, measure, take the best."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from duet.config import parse_config
from duet.errors import ConfigError, DataError
from duet.merging.table import resolve
from duet.recipes.apply import merge_plan
from duet.recipes.plan import Plan
from duet.recipes.prepared import Prepared
from duet.recipes.recipe import Recipe
from duet.recipes.sources import open_source
from duet.runs.evaluate import evaluate_state, require_split
from duet.series import Series, Slice


@dataclass(frozen=True)
class Trial:
    """One point of the grid.

    Attributes:
        params: Parameters that were swept.
        map50: mAP50 of each increment's classes in its own domain, by increment, as a fraction.
        score: Harmonic mean of them: no increment can be bought with another.
    """

    params: Mapping[str, Any]
    map50: Mapping[str, float]
    score: float


def grid_of(words: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every combination of the values.

    Args:
        words: Values by parameter: one, or a list.
    """
    lists = [value if isinstance(value, list) else [value] for value in words.values()]
    return [dict(zip(words, point, strict=True)) for point in itertools.product(*lists)]


def sweep(
    merge: Prepared,
    grid: Sequence[Mapping[str, Any]],
    series: Series,
    *,
    split: str,
    listen: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Prepared, list[Trial]]:
    """Merge and measure every point of a grid.

    Args:
        merge: What to merge; its parameters are the ones that are not swept.
        grid: Parameters of each point.
        series: Data to measure on.
        split: Split of it, declared by the user: results on it say nothing about unseen images.
        listen: Called as ``listen(points done, points in all)``.

    Returns:
        The merge with the best parameters (the first of equals), and all trials in order.

    Raises:
        ConfigError: A point is not valid; before anything is merged.
        DataError: The series has none of the merged classes, or no such split.
    """
    recipes = [_with(merge.plan.recipe, point) for point in grid]
    sources = merge.plan.sources
    plans = [replace(merge.plan, recipe=one) for one in recipes]
    opened = [open_source(source) for source in sources]
    objective, size = merge.objective(), max(source.image_size for source in sources)
    slices = _slices(plans[0], series, split)
    trials: list[Trial] = []
    for number, (point, plan) in enumerate(zip(grid, plans, strict=True), start=1):
        state = merge_plan(plan, opened=opened, make_objective=objective).state
        map50 = {
            name: evaluate_state(state, data, image_size=size).map50(data.classes)
            for name, data in slices.items()
        }
        low = min(map50.values())
        score = statistics.harmonic_mean(list(map50.values())) if low > 0 else 0.0
        trials.append(Trial(point, map50, score))
        listen(number, len(grid))
    best = max(range(len(trials)), key=lambda index: trials[index].score)
    return replace(merge, plan=plans[best]), trials


def _with(recipe: Recipe, point: Mapping[str, Any]) -> Recipe:
    params = {**recipe.params, **point}
    parse_config(resolve(recipe.method).params, params, where=f"--sweep for '{recipe.method}'")
    return recipe.model_copy(update={"params": params})


def _slices(plan: Plan, series: Series, split: str) -> dict[str, Slice]:
    if not split:
        raise ConfigError("a sweep needs a declared split to choose on", remedy="give --split val")
    require_split(series, split)
    found = {}
    for item in series.increments:
        known = tuple(name for name in item.classes if name in plan.labels)
        domain = series.domain(item.domain)
        if known and not domain.absence(known, split):
            found[item.name] = domain.evaluate(known, split)
    if not found:
        raise DataError(
            f"the split '{split}' of the series '{series.name}' shows none of the merged classes",
            remedy=f"merged classes: {', '.join(plan.labels)}",
        )
    return found
