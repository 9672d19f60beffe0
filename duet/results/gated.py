"""What finished runs and kept evaluations say to a gate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from duet.config import Config, parse_config
from duet.errors import ConfigError, DataError, DuetError
from duet.evaluation.cells import Cell
from duet.evaluation.checks import Measured, Standing, Standings, standings
from duet.evaluation.gate import Gate
from duet.files import read_json, require_writable
from duet.results.files import RESULTS_FILE, load_results
from duet.results.schema import Results, StrategyResult
from duet.text import shown
from duet.trees import lost_link


def measured_run(
    results: Results, strategy: StrategyResult, before: Standings | None = None
) -> Measured:
    """Return what a run measured of a strategy's final detector.

    Args:
        results: The run.
        strategy: One of its strategies.
        before: What old classes are compared with; default when each was learned.
    """
    final = _standings(results, strategy, results.final_stage)
    learned: dict[tuple[str, str], Standing] = {}
    steps = results.series.steps[:-1]
    for stage, (_, classes) in enumerate(steps, start=1):
        for key, one in _standings(results, strategy, stage).items():
            known = learned.get(key)
            if key[1] in classes and (known is None or one.taught > known.taught):
                learned[key] = one
    for key, stage in _not_looked(results):
        why = f"stage {stage} did not look at {key[0]}: `duet run --cells all` has it look"
        learned.setdefault(key, Standing(None, None, taught=False, why=why))
    nothing = Standing(None, None, taught=True, why=f"{RESULTS_FILE} has nothing of its stage")
    for key in ((domain, name) for domain, names in steps for name in names):
        learned.setdefault(key, nothing)
    seen = [one for one in strategy.class_scores if one.stage == results.final_stage]
    domains = {one.domain for one in seen}
    return Measured(
        now=final,
        taught=[step for step in results.series.steps if step[0] in domains],
        before=learned if before is None else before,
        doubles={one.domain: one.deployed.doubles if one.deployed else None for one in seen},
        indices=strategy.indices.numbers(),
        reasons=strategy.indices.left_out,
    )


def _not_looked(results: Results) -> Iterator[tuple[tuple[str, str], int]]:
    """Yield (domain, class) where the detector of the class's own stage did not look."""
    for domain, stages in results.not_looked_at.items():
        for stage in stages:
            for name in results.series.steps[stage - 1][1]:
                yield (domain, name), stage


def _standings(
    results: Results, strategy: StrategyResult, stage: int
) -> dict[tuple[str, str], Standing]:
    """Return what the detector after a stage knows, and where it had learned that by then."""
    steps = results.series.steps[:stage]
    known = {name for _, names in steps for name in names}
    taught = {(domain, name) for domain, names in steps for name in names}
    splits = {
        step.domain: "+".join(sorted(step.counts.keys() - {"train"}))
        for step in results.series.increments
    }
    return {
        (scores.domain, name): Standing(
            value,
            scores.deployed.classes.get(name) if scores.deployed is not None else None,
            (scores.domain, name) in taught,
            splits.get(scores.domain, ""),
        )
        for scores in strategy.class_scores
        if scores.stage == stage
        for name, value in scores.ap50.items()
        if name in known
    }


def kept_before(gate: Gate) -> Standings | None:
    """Return what a gate compares with, where no data are there to measure a detector on.

    Raises:
        ConfigError: It is a detector.
        DataError: It cannot be read.
    """
    if gate.against is None:
        return None
    found = load_before(gate.against)
    if found is None:
        raise ConfigError(
            "neither a run folder nor the JSON of an evaluation, and there are no data here to "
            "measure a detector on",
            where=str(gate.against),
            remedy="evaluate it first: `duet eval MODEL SERIES.yaml --out BEFORE.json`",
        )
    return found


class _Evaluation(Config):
    cells: Annotated[tuple[Cell, ...], Field(min_length=1)]


_ANOTHER = (
    "give what `duet eval MODEL SERIES.yaml --out BEFORE.json` wrote, the evaluation.json of an "
    "increment, a run folder, or a detector"
)


def load_before(path: Path) -> Standings | None:
    """Read what an earlier detector had reached: of a run folder, or the JSON of `duet eval`.

    Args:
        path: The folder, its `results.json`, or the JSON. Of a run the final detector of the
            strategy that it reports on counts.

    Returns:
        None if the path is neither: then it may be a detector.

    Raises:
        DataError: It cannot be read, or is a link that leads nowhere.
    """
    if lost := lost_link(path):
        raise DataError(lost, where=str(path), remedy=_ANOTHER)
    if (path / RESULTS_FILE).is_file():
        path /= RESULTS_FILE
    if path.name == RESULTS_FILE:
        results = load_results(path.parent)
        return _standings(results, results.main, results.final_stage)
    if path.suffix != ".json":
        return None
    found = read_json(path, remedy=_ANOTHER)
    if "cells" not in found:
        what = f"no evaluation: it has no 'cells', but {shown(list(found))}"
        raise DataError(what, where=str(path), remedy=_ANOTHER)
    kept = parse_config(
        _Evaluation, {"cells": found["cells"]}, where=str(path), called="the evaluation",
        error=DataError, remedy=_ANOTHER,
    )  # fmt: skip
    return standings(kept.cells)


def require_place(path: Path) -> None:
    """Refuse where an evaluation cannot be kept, before anything is measured.

    Raises:
        DuetError: What lies there is none that `duet eval` wrote, or no file can be made there.
    """
    if str(path) == "-":
        raise ConfigError("expected a file, got '-'", where="--out", remedy="--json prints it")
    if path.exists() and not _is_kept(path):
        raise DuetError(
            "already exists and is no evaluation that `duet eval` wrote",
            where=str(path),
            remedy="choose another file or remove this one first",
        )
    require_writable(path)


def _is_kept(path: Path) -> bool:
    """Tell an evaluation, or an empty file, from what would be lost."""
    if not path.is_file():
        return False
    try:
        return path.stat().st_size == 0 or read_json(path).keys() >= {"model", "cells"}
    except (DuetError, OSError, ValueError):
        return False
