"""Choosing merge parameters on a declared validation split: merge, measure, take the best."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from duet.config import parse_config
from duet.devices import threads
from duet.errors import ConfigError, DataError
from duet.increments.state import DetectorState
from duet.merging.table import resolve
from duet.recipes.apply import merge_plan
from duet.recipes.plan import Plan
from duet.recipes.prepared import Prepared
from duet.recipes.recipe import Recipe
from duet.recipes.sources import open_source
from duet.runs.engines.engine import HERE, LOOKERS, Engine
from duet.runs.evaluate import require_split
from duet.runs.questions import Scoring, on_any_machine, torch_threads
from duet.series import Series, Slice
from duet.training.schedule import Schedule


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
    engine: Engine = HERE,
    listen: Callable[[int, int], None] = lambda done, total: None,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Prepared, list[Trial]]:
    """Merge every point of a grid here, and have it measured where the engine says.

    Args:
        merge: What to merge; its parameters are the ones that are not swept.
        grid: Parameters of each point.
        series: Data to measure on.
        split: Split of it, declared by the user: results on it say nothing about unseen images.
        engine: Where detectors look at images.
        listen: Called as ``listen(points done, points in all)``.
        tell: Told how many machines there are, where there are several.

    Returns:
        The merge with the best parameters (the first of equals), and all trials in order.

    Raises:
        ConfigError: A point is not valid; before anything is merged.
        DataError: The series has none of the merged classes, or no such split.
        DuetError: A point could not be measured; the others are ended.
    """
    recipes = [_with(merge.plan.recipe, point) for point in grid]
    sources = merge.plan.sources
    plans = [replace(merge.plan, recipe=one) for one in recipes]
    opened = [open_source(source) for source in sources]
    objective, size = merge.objective(), max(source.image_size for source in sources)
    slices = _slices(plans[0], series, split)
    engine.prepare([image for data in slices.values() for image in data.images], Schedule(), tell)
    with _Scorings(engine, slices, size, len(grid), listen) as scorings:
        for plan in plans:
            scorings.begin(merge_plan(plan, opened=opened, make_objective=objective).state)
        trials = [_trial(point, map50) for point, map50 in zip(grid, scorings.ended(), strict=True)]
    best = max(range(len(trials)), key=lambda index: trials[index].score)
    return replace(merge, plan=plans[best]), trials


@dataclass
class _Scorings:
    """Points that are measured, each in all slices, as many at a time as an engine takes.

    Attributes:
        engine: Where.
        slices: By increment.
        size: Longer side of what images are fitted into, pixels.
        points: In all.
        listen: See `sweep`.
    """

    engine: Engine
    slices: Mapping[str, Slice]
    size: int
    points: int
    listen: Callable[[int, int], None]
    _stopped: threading.Event = field(default_factory=threading.Event)
    _begun: list[dict[str, Future[float]]] = field(default_factory=list)

    def __enter__(self) -> _Scorings:
        self._most = min(self.engine.at_a_time(1), LOOKERS)
        self._pool = ThreadPoolExecutor(self._most)
        self._threads = threads()
        return self

    def __exit__(self, kind: object, *more: object) -> None:
        if kind is not None:  # Ctrl-C too: nobody may look on
            self._stopped.set()
        self._pool.shutdown(cancel_futures=True)

    def begin(self, state: DetectorState) -> None:
        """Begin to measure a point, when one more may be at work: who waits would hold it."""
        self._wait(self._most - 1)
        self._begun.append(
            {
                name: self._pool.submit(self._measured, Scoring(state, data, self.size))
                for name, data in self.slices.items()
            }
        )

    def ended(self) -> list[dict[str, float]]:
        """Wait for the end; return mAP50 of every point by increment."""
        self._wait(0)
        return [{name: one.result() for name, one in point.items()} for point in self._begun]

    def _measured(self, question: Scoring) -> float:
        with tempfile.TemporaryDirectory() as folder, torch_threads(self._threads):
            found = self.engine.answer(question, Path(folder), self._stopped)
        return float(found["map50"])

    def _wait(self, most: int) -> None:
        """Wait until so many are left; raise what one of the others raised."""
        every = [one for point in self._begun for one in point.values()]
        while True:
            for one in every:
                if one.done():
                    one.result()
            left = [one for one in every if not one.done()]
            done = sum(all(one.done() for one in point.values()) for point in self._begun)
            self.listen(done, self.points)
            if len(left) <= most:
                return
            wait(left, return_when=FIRST_COMPLETED)


def _trial(point: Mapping[str, Any], map50: Mapping[str, float]) -> Trial:
    low = min(map50.values())
    score = statistics.harmonic_mean(list(map50.values())) if low > 0 else 0.0
    return Trial(point, map50, score)


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
            data = domain.evaluate(known, split)
            found[item.name] = replace(data, images=on_any_machine(data.images))
    if not found:
        raise DataError(
            f"the split '{split}' of the series '{series.name}' shows none of the merged classes",
            remedy=f"merged classes: {', '.join(plan.labels)}",
        )
    return found
