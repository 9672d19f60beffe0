"""`results.json` of a folder that `duet base` and `duet increment` make, stage after stage.

The detectors of the chain are measured on the domains that can still be read, where an index or the
report needs it. Of a domain whose images are gone it holds what was measured while they were there,
and what its increment remembers.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duet.errors import DuetError
from duet.evaluation.ap import ClassAP
from duet.evaluation.indices import Recalls, compute_indices
from duet.evaluation.matrix import Slice, StageMatrix
from duet.evaluation.pairs import cells_needed
from duet.files import run_lock
from duet.increments.manifest import DetectorManifest, read_manifest
from duet.increments.state import DetectorState
from duet.increments.store import load_detector, load_traces
from duet.results import schema
from duet.results.files import RESULTS_FILE, load_results, save_results
from duet.results.remembered import Remembered
from duet.results.schema import ClassScores, Results
from duet.runs.assemble import environment_of, next_commands, protocol_of, split_counts
from duet.runs.costs import parameter_count
from duet.runs.deployed import deployments, recalls
from duet.runs.kept import kept_models, manifest_of, start_of
from duet.runs.needed import looks, not_looked_at
from duet.runs.remember import evaluator_of, found_without, recollect
from duet.runs.setting import Setting
from duet.runs.steps import StepReport
from duet.runs.there import There, read_there
from duet.training.config import Strategy

Scores = dict[tuple[int, str], ClassScores]
"""(stage, domain) -> what was measured there."""


@dataclass(frozen=True)
class _Chain:
    """The stages of a run folder up to the one that was just learned.

    Attributes:
        names: Of the stages; the start's own first, if the chain goes on from a detector.
        steps: (domain, classes) of each.
        models: Detector folder of each.
        states: Stage 1..T -> its detector.
        begun: Whether the first was not trained.
    """

    names: tuple[str, ...]
    steps: tuple[Slice, ...]
    models: tuple[Path, ...]
    states: Mapping[int, DetectorState]
    begun: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """All classes."""
        return tuple(dict.fromkeys(name for _, names in self.steps for name in names))


def write_stages(
    out: Path, setting: Setting, strategy: Strategy, report: StepReport, series: Path,
    data_root: Path | None,
) -> None:  # fmt: skip
    """Write the results of a chain after a stage; those of `duet run` stay as they are.

    An independent increment has no chain, and writes none.

    Args:
        out: Run folder.
        setting: Of the stage.
        strategy: Of the chain.
        report: The stage.
        series: Series YAML.
        data_root: Replaces the file's ``root``.
    """
    if report.detector is None:
        return
    with run_lock(out):
        before = _before(out, setting)
        if before is not None and before.stagewise is None:
            note = f"{out / RESULTS_FILE} is that of `duet run` and stays as it is"
            setting.lab.listen(report.name, {"note": note})
            return
        chain = _chain(out, strategy, report.name)
        earlier = before if before and _continues(before, chain, strategy) else None
        there = read_there(series, data_root=data_root, only=chain.names)
        save_results(out, _results(out, setting, strategy, chain, there, report, earlier))


def _before(out: Path, setting: Setting) -> Results | None:
    """Return the results of the folder so far; None if there are none that can be read."""
    if not (out / RESULTS_FILE).exists():
        return None
    try:
        return load_results(out)
    except DuetError as error:
        note = f"{error.where}: {error.what}; written anew"
        setting.lab.listen(out.name, {"note": note})
        return None


def _chain(out: Path, strategy: Strategy, last: str) -> _Chain:
    models = kept_models(out, strategy)
    names = [path.name.split("-", 1)[1] for path in models]
    models = models[: names.index(last) + 1]
    begun, steps = start_of(models) is not None, list[Slice]()
    for number, model in enumerate(models):
        if begun and not number:
            manifest = read_manifest(model, DetectorManifest)
            classes = tuple(name for part in manifest.parts for name in part.classes)
            steps.append((manifest.name_in(model), classes))
        else:
            item = manifest_of(out, strategy, model)
            steps.append((item.domain, item.classes or item.adapts))
    states = {stage: load_detector(path).state for stage, path in enumerate(models, start=1)}
    return _Chain(tuple(names[: len(models)]), tuple(steps), tuple(models), states, begun)


def _continues(before: Results, chain: _Chain, strategy: Strategy) -> bool:
    """Tell whether results speak of the stages before the last one of a chain."""
    done = len(chain.steps) - 1
    return (
        before.main_strategy == strategy.name and before.series.steps[:done] == chain.steps[:done]
    )


def _results(
    out: Path, setting: Setting, strategy: Strategy, chain: _Chain, there: There,
    report: StepReport, before: Results | None,
) -> Results:  # fmt: skip
    measured = _measured(out, setting, chain, there)
    maps = {stage: state.scores for stage, state in chain.states.items()}
    shown = deployments(out, chain.steps, maps, measured)
    kept = _kept(setting, chain)
    scores = _remembered(kept, chain, before)
    for (stage, domain), one in measured.items():
        scores[stage, domain] = ClassScores.of(stage, domain, one, shown.get((stage, domain)))
    last = len(chain.steps)
    unread = {
        domain: _why(chain, domain) for domain, _ in chain.steps if (last, domain) not in scores
    }
    result = schema.StrategyResult(
        name=strategy.name,
        title=strategy.title or strategy.name,
        **_indices(chain, scores, unread, recalls(out, chain.steps, maps, measured)),
        class_scores=tuple(scores[key] for key in sorted(scores)),
        merges=tuple(
            schema.MergeEntry.of(stage, trace)
            for stage, model in enumerate(chain.models, start=1)
            for trace in load_traces(model)
        ),
        costs=_costs(before, report, last - 1),
        parameters=parameter_count(chain.states[last]),
    )
    return Results(
        series=schema.SeriesEntry(
            name=there.series.name, increments=_increments(chain, there, before)
        ),
        protocol=protocol_of(
            setting.architecture,
            [there.series.domain(name) for name in there.series.domains],
            strategy,
            seed=setting.seed,
            image_size=read_manifest(chain.models[-1], DetectorManifest).image_size,
        ),
        main_strategy=strategy.name,
        strategies=(result,),
        environment=environment_of(setting.schedule, datetime.date.today().isoformat()),
        commands=schema.Commands(next=next_commands(chain.models[-1])),
        stagewise=schema.Stagewise(unread=unread, without_maps=_without_maps(kept, chain)),
        not_looked_at=not_looked_at(chain.steps, there.series.domains, scores),
    )


def _indices(
    chain: _Chain, scores: Scores, unread: Mapping[str, str], found: Mapping[Slice, Recalls]
) -> dict[str, Any]:
    """Return the stage matrix and the indices of what was measured."""
    matrix = _matrix(chain, scores)
    undefined = {
        (domain, names): unread.get(domain, f"no labelled object of {', '.join(names)} in {domain}")
        for stage, domain, names in cells_needed(chain.steps)
        if (stage, domain, names) not in matrix
    }
    indices = compute_indices(chain.steps, matrix, None, undefined=undefined, recalls=found)
    return {"indices": indices, "matrix": matrix.as_records()}


def _measured(
    out: Path, setting: Setting, chain: _Chain, there: There
) -> dict[tuple[int, str], ClassAP]:
    """Measure detectors on the domains that can be read and are needed; most were before."""
    size = read_manifest(chain.models[-1], DetectorManifest).image_size
    evaluator, series, labels = evaluator_of(out, setting, size), there.series, chain.labels
    domains = {name: series.domain(name) for name in series.domains}
    cuts = {name: one.evaluate(one.known(labels)) for name, one in domains.items()}
    return {
        (stage, name): evaluator(chain.states[stage], cuts[name]).covering(labels)
        for stage, name in looks(chain.steps, cuts)
    }


def _kept(setting: Setting, chain: _Chain) -> dict[int, Remembered]:
    """Return what the increments of earlier stages remember, by stage."""
    model = chain.models[-1]

    def tell(line: str) -> None:
        setting.lab.listen(chain.names[-1], {"note": line})

    every = recollect(model, read_manifest(model, DetectorManifest), tell)
    found = {chain.names.index(name) + 1: kept for name, kept in every.items()}
    return {stage: kept for stage, kept in found.items() if stage < len(chain.steps)}


def _remembered(kept: Mapping[int, Remembered], chain: _Chain, before: Results | None) -> Scores:
    """Return what was measured of earlier stages at their time."""
    found: Scores = {}
    absent = dict.fromkeys(chain.labels)
    for stage, cell in ((stage, one.cell) for stage, one in kept.items()):
        found[stage, cell.domain] = ClassScores(
            stage=stage,
            domain=cell.domain,
            ap50=absent | cell.ap50,
            ap=absent | cell.ap,
            deployed=cell.deployed,
            objects={name: one.objects for name, one in cell.deployed.classes.items()},
        )
    carried = before.main.class_scores if before is not None else ()
    last = len(chain.steps)
    return found | {(one.stage, one.domain): one for one in carried if one.stage < last}


def _without_maps(kept: Mapping[int, Remembered], chain: _Chain) -> tuple[int | None, ...]:
    """Return `schema.Stagewise.without_maps`."""
    today = chain.states[len(chain.steps)].scores
    return tuple(
        found_without(kept[stage], chain.states[stage].scores, today) if stage in kept else None
        for stage in range(1, len(chain.steps))
    )


def _why(chain: _Chain, domain: str) -> str:
    """Return why nothing was measured in a domain after the last stage."""
    if chain.begun and domain == chain.steps[0][0]:
        return f"the chain goes on from {domain}, and no images of it are known"
    return f"the images of {domain} cannot be read any more"


def _matrix(chain: _Chain, scores: Scores) -> StageMatrix:
    matrix = StageMatrix()
    for stage, domain, classes in cells_needed(chain.steps):
        one = scores.get((stage, domain))
        if one is not None:
            found = ClassAP(one.ap50, one.ap)
            if found.covering(classes).has_truth(classes):
                matrix = matrix.with_value(stage, domain, classes, found.map50(classes))
    return matrix


def _costs(before: Results | None, report: StepReport, done: int) -> tuple[schema.StageCost, ...]:
    earlier = before.main.costs[:done] if before is not None else ()
    return (*earlier, schema.StageCost(title=report.name, seconds=report.seconds))


def _increments(
    chain: _Chain, there: There, before: Results | None
) -> tuple[schema.IncrementEntry, ...]:
    """Return the stages with counts of the data: of today, or of when they could be read."""
    here = {item.name: item for item in there.series.increments}
    known: Sequence[schema.IncrementEntry] = before.series.increments if before is not None else ()
    entries = []
    for number, (name, (domain, classes)) in enumerate(zip(chain.names, chain.steps, strict=True)):
        counts = known[number].counts if number < min(len(known), len(chain.steps) - 1) else {}
        if name in here:
            counts = split_counts(there.series, here[name])
        entries.append(schema.IncrementEntry(domain=domain, classes=classes, counts=counts))
    return tuple(entries)
