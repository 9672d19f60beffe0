"""A run repeated with several seeds and orders of the increments, and what they say together."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from duet.comparison.page import as_markdown
from duet.comparison.ranking import Comparison, compare
from duet.comparison.runs import find_runs
from duet.comparison.tables import as_dict
from duet.errors import ConfigError, DataError
from duet.files import run_lock, write_json, write_text
from duet.progress import Listener
from duet.report.markdown import write_report
from duet.runs.engines.engine import HERE, Engine
from duet.runs.forks import forking
from duet.runs.lab import silent, tidy
from duet.runs.plan import RunPlan, plan_as_dict, plan_as_text
from duet.runs.remember import EVALUATIONS
from duet.runs.run import execute, learn, require_chains, tell_left_out
from duet.runs.walls import require_runnable
from duet.series import Series
from duet.series.series import known_among_new
from duet.text import duration

SUMMARY_FILE = "summary.json"
COMPARE_FILE = "compare.md"

_DRAWS = 1000
"""How often an order is drawn for each one that is wanted, before the search ends."""

_ALL_LISTED = 7
"""Up to so many increments all orders are listed; beyond, orders are drawn until they differ."""


def repeats(plan: RunPlan, *, seeds: int, orders: int) -> tuple[RunPlan, ...]:
    """Return one plan per order and seed, each with a folder of its own and one lab for all.

    Seeds count up from the plan's. Order 0 is the series as written; the others are drawn by the
    plan's seed. Every increment keeps its classes and its domain.

    Args:
        plan: What to repeat; its ``out`` becomes the folder of the repeats.
        seeds: Number of seeds, 1 or more.
        orders: Number of orders, 1 or more.

    Raises:
        ConfigError: The series has fewer orders.
    """
    plans, every = [], ordered(plan.series, orders, seed=plan.seed)
    firsts = (series.increments[0] for series in every)
    begun = frozenset((first.domain, first.classes) for first in firsts)
    for number, series in enumerate(every):
        for seed in range(plan.seed, plan.seed + seeds):
            name = f"order-{number}-seed-{seed}" if orders > 1 else f"seed-{seed}"
            plans.append(
                replace(
                    plan,
                    series=series,
                    seed=seed,
                    out=plan.out / name,
                    lab=plan.lab or plan.out / "lab",
                    evaluations=plan.evaluations or plan.out / EVALUATIONS,
                    written=plan.written,
                    begun=begun,
                )
            )
    return tuple(plans)


def ordered(series: Series, count: int, *, seed: int) -> tuple[Series, ...]:
    """Return the series in ``count`` distinct orders of its increments, the written one first.

    A detector that the series goes on from stays the first. Orders in which an increment would
    bring new classes together with known ones are left out.

    Raises:
        ConfigError: There are not so many.
        DataError: There are not so many because the others mix new classes with known ones.
    """
    length = len(series.learned)
    if count > math.factorial(length):
        raise ConfigError(
            f"{length} increments have {math.factorial(length)} orders, got {count}",
            where="--orders",
            remedy="ask for fewer",
        )
    random = np.random.default_rng(seed)
    chosen: dict[tuple[int, ...], None] = {tuple(range(length)): None}
    if length <= _ALL_LISTED:
        others = list(itertools.permutations(range(length)))[1:]
        others = [order for order in others if _learnable(series, order)]
        picked = random.permutation(len(others))[: count - 1]
        chosen |= dict.fromkeys(others[place] for place in picked)
    else:
        for _ in range(_DRAWS * count):
            order = tuple(random.permutation(length).tolist())
            if len(chosen) < count and _learnable(series, order):
                chosen[order] = None
    if len(chosen) < count:
        raise DataError(
            f"of {count} orders {len(chosen)} can be learned: in the others an increment brings "
            "new classes and known ones",
            where="--orders",
            remedy="ask for fewer",
        )
    return tuple(_in_order(series, order) for order in chosen)


def _learnable(series: Series, order: Sequence[int]) -> bool:
    """Tell whether each increment brings new classes alone, or known ones alone."""
    known: set[str] = set()
    for increment in _in_order(series, order).increments:
        if known_among_new(increment.classes, known):
            return False
        known.update(increment.classes)
    return True


def _in_order(series: Series, order: Sequence[int]) -> Series:
    begun = (series.start,) if series.start is not None else ()
    return replace(series, increments=(*begun, *(series.learned[place] for place in order)))


def execute_repeats(
    out: Path,
    plans: Sequence[RunPlan],
    listen: Listener = silent,
    *,
    date: str = "",
    engine: Engine = HERE,
) -> Comparison:
    """Do what is missing of every run; write the runs, `summary.json` and `compare.md`.

    Args:
        out: Folder of the repeats.
        plans: What `repeats` returned.
        listen: Progress; titles begin with the name of the run.
        date: ISO 8601, for the reports; default today.
        engine: Where trainings are done; on several machines runs go side by side.

    Raises:
        DuetError: A training failed; what is finished stays and is reused by the same command.
    """
    require_chains(plans)
    require_runnable(plans[0])  # before anything is written; each asks for itself again
    # The lab is shared: nobody else may train in it.
    with run_lock(out), forking(engine.run) as run:
        engine = replace(engine, run=run)
        tidy(out, lambda line: listen(out.name, {"note": line}))
        if engine.elsewhere:
            _side_by_side(plans, listen, date, engine)
        else:
            for plan in plans:
                learn(plan, _titled(plan.out.name, listen), date=date, engine=engine)
        found = compare(find_runs([plan.out for plan in plans]))
        write_text(out / COMPARE_FILE, as_markdown(found))
        write_json(out / SUMMARY_FILE, as_dict(found))
    return found


def _side_by_side(plans: Sequence[RunPlan], listen: Listener, date: str, engine: Engine) -> None:
    """Do runs that share a lab at the same time; the first failure stops the others."""
    stopped = threading.Event()

    def work(plan: RunPlan) -> None:
        show = _titled(plan.out.name, listen)
        tell_left_out(plan, show)
        execute(plan, show, date=date, engine=engine, stopped=stopped)

    with ThreadPoolExecutor(len(plans)) as pool:
        futures = [pool.submit(work, plan) for plan in plans]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:  # Ctrl-C too
            stopped.set()
            raise
    for plan in plans:  # one after the other: who draws them is not made for threads
        write_report(plan.out)


def _titled(name: str, listen: Listener) -> Listener:
    return lambda title, record: listen(f"{name} {title}", record)


def repeats_as_dict(plans: Sequence[RunPlan]) -> dict[str, Any]:
    """Return the plans as JSON-ready data; what runs share counts once in the sums."""
    runs = [plan_as_dict(plan) for plan in plans]
    once = {stage["same"]: stage["seconds"] for run in runs for stage in run["stages"]}
    seconds = round(sum(once.values()) / max(plans[0].jobs, 1))
    asked = sum(len(run["stages"]) for run in runs)
    return {
        "schema": 1, "runs": runs, "trainings": len(once), "asked": asked,
        "estimated_seconds": seconds,
    }  # fmt: skip


def repeats_as_text(plans: Sequence[RunPlan]) -> str:
    """Return the plans for people: the first in full, the others by name."""
    told = repeats_as_dict(plans)
    lines = [plan_as_text(plans[0]), "", f"and {len(plans) - 1} more like it:"]
    for plan in plans[1:]:
        order = " → ".join(item.name for item in plan.series.increments)
        lines.append(f"  {plan.out}  seed {plan.seed}  {order}")
    lines.append(
        f"about {duration(told['estimated_seconds'])} in all: {told['trainings']} trainings for "
        f"{told['asked']} that the runs ask for"
    )
    return "\n".join(lines)
