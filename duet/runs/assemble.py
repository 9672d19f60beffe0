"""From chains and references to `results.json`: indices, matrices, costs."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duet.evaluation.agreement import IOU, Agreement
from duet.evaluation.ap import ClassAP, backend
from duet.evaluation.indices import Indices, compute_indices
from duet.evaluation.matrix import StageMatrix
from duet.evaluation.pairs import cells_needed
from duet.families.table import family_of, row_of
from duet.increments.scores import ScoreMap
from duet.increments.state import DetectorState
from duet.results import schema
from duet.results.boxes import GalleryImage
from duet.results.schema import KeptEntry
from duet.runs.costs import latency_ms, parameter_count, peak_megabytes
from duet.runs.deployed import deployments, recalls
from duet.runs.memo import Tell
from duet.runs.needed import not_looked_at
from duet.runs.plan import RunPlan
from duet.runs.references import Reference
from duet.runs.remember import EVALUATIONS
from duet.runs.setting import FinishedStage
from duet.series import Increment, Series, Slice, train_slice
from duet.series.domains import Domain
from duet.series.expected import PublishedEntry, compare
from duet.text import shell_line
from duet.training.config import Strategy
from duet.training.outcome import versions
from duet.training.schedule import Schedule


@dataclass(frozen=True)
class StrategyOutcome:
    """A finished and evaluated chain.

    Attributes:
        strategy: Its configuration.
        results: One per stage.
        scores: (stage, domain) -> AP of every class of the series that the model knows.
        kept: Domain -> what the last detector makes of the detections of the one brought; empty
            where the first increment was trained.
        seconds: Wall time, waiting for other chains included.
    """

    strategy: Strategy
    results: tuple[FinishedStage, ...]
    scores: Mapping[tuple[int, str], ClassAP]
    kept: Mapping[str, Agreement]
    seconds: float

    @property
    def states(self) -> dict[int, DetectorState]:
        """Stage -> the detector to deploy after it."""
        return {stage: result.merged for stage, result in enumerate(self.results, start=1)}

    @property
    def maps(self) -> dict[int, Mapping[str, ScoreMap]]:
        """Stage -> class name -> score map, of classes that have one."""
        return {stage: state.scores for stage, state in self.states.items()}


def indices_of(
    plan: RunPlan, outcome: StrategyOutcome, references: Sequence[Reference]
) -> tuple[StageMatrix, Indices]:
    """Return the stage matrix and the indices of one strategy."""
    matrix = StageMatrix()
    for stage, domain, classes in cells_needed(plan.steps):
        scores = outcome.scores.get((stage, domain))
        if scores is not None and scores.has_truth(classes):
            matrix = matrix.with_value(stage, domain, classes, scores.map50(classes))
    known = {(r.domain, r.classes): r.scores.map50(r.classes) for r in references}
    return matrix, compute_indices(
        plan.steps,
        matrix,
        known if plan.references else None,
        undefined=plan.left_out,
        recalls=recalls(plan.out, plan.steps, outcome.maps, outcome.scores),
    )


def assemble(
    plan: RunPlan,
    outcomes: Sequence[StrategyOutcome],
    references: Sequence[Reference],
    pictures: Sequence[GalleryImage],
    *, date: str, tell: Tell,
) -> schema.Results:  # fmt: skip
    """Return everything that a report needs; ``tell`` hears of damaged measurements."""
    main = outcomes[0].strategy
    domains = [plan.series.domain(name) for name in plan.series.domains]
    return schema.Results(
        series=_series_entry(plan),
        protocol=protocol_of(
            plan.architecture, domains, main,
            split=plan.split, seed=plan.seed, image_size=plan.image_size,
        ),
        main_strategy=main.name,
        strategies=tuple(_strategy_entry(plan, outcome, references, tell) for outcome in outcomes),
        references=tuple(
            schema.ReferenceEntry(
                domain=r.domain,
                classes=r.classes,
                map50=r.scores.map50(r.classes),
                ap50=dict(r.scores.ap50),
                seconds=r.seconds,
                evidence=r.scores.evidence,
            )
            for r in references
        ),
        published=_published(plan, outcomes[0], references),
        environment=environment_of(plan.schedule, date),
        gallery=tuple(pictures),
        commands=_commands(plan, outcomes[0]),
        not_looked_at=not_looked_at(plan.steps, plan.series.domains, plan.looks),
    )  # fmt: skip


def protocol_of(
    architecture: str, domains: Sequence[Domain], strategy: Strategy, *, split: str = "", seed: int,
    image_size: int,
) -> schema.Protocol:  # fmt: skip
    """Return the choices that the numbers depend on.

    Args:
        architecture: Of the detectors.
        domains: That are evaluated.
        strategy: The one that is reported on.
        split: That is evaluated; default each data set's own.
        seed: Of everything random.
        image_size: Longer side of what images are fitted into, pixels.
    """
    rule = "whole split, restricted to the evaluated classes"
    if any(len(domain.parts) > 1 for domain in domains):
        rule += "; of several data sets those that label the class"
    return schema.Protocol(
        family=architecture.removesuffix(".yaml"),
        eval_split="+".join(sorted({domain.split(split) for domain in domains})),
        image_rule=rule,
        ap=schema.ApBackend(**backend()),
        seed=seed,
        image_size=image_size,
        shape="rectangle" if row_of(family_of(architecture)).fit == "rectangle" else "square",
        head_form=strategy.head,
        strategy_config=strategy.model_dump(mode="json"),
    )


def environment_of(schedule: Schedule, date: str) -> schema.Environment:
    """Return where the numbers came from; ``date`` is ISO 8601."""
    return schema.Environment(
        versions=versions(),
        cpu=f"{platform.machine()}, {os.cpu_count()} cores",
        threads=schedule.threads or os.cpu_count() or 1,
        device=schedule.device,
        date=date,
    )


def _published(
    plan: RunPlan, first: StrategyOutcome, references: Sequence[Reference]
) -> tuple[PublishedEntry, ...]:
    """Hold the base and the references against the series' published values."""
    domain, classes = plan.steps[0]
    trained = [(r.domain, r.classes, r.scores) for r in references]
    if plan.onto is None:
        trained.append((domain, classes, first.scores[1, domain]))
    measured = {(d, c): scores.map50(c) for d, c, scores in trained if scores.has_truth(c)}
    return compare(plan.series.expected, measured, architecture=plan.architecture)


def _series_entry(plan: RunPlan) -> schema.SeriesEntry:
    entries = []
    for item in plan.series.increments:
        counts = split_counts(plan.series, item, plan.split)
        entries.append(
            schema.IncrementEntry(domain=item.domain, classes=item.classes, counts=counts)
        )
    return schema.SeriesEntry(name=plan.series.name, increments=tuple(entries))


def split_counts(series: Series, item: Increment, split: str = "") -> dict[str, schema.SplitCount]:
    """Return how much data there is of an increment: to train on, where any is, and to evaluate."""
    cuts = {}
    if item.detector is None and "train" in item.data.splits:
        cuts["train"] = train_slice(item.data, item.classes)
    if item.domain in series.domains:
        whole = series.domain(item.domain).evaluate(item.classes, split)
        cuts[whole.split] = whole
    return {name: _counted(data) for name, data in cuts.items()}


def _counted(data: Slice) -> schema.SplitCount:
    ids = np.concatenate([np.zeros(0, np.int64), *(row.object_ids for row in data.annotations)])
    numbers = np.bincount(ids, minlength=len(data.classes)).tolist()
    classes = dict(zip(data.classes, numbers, strict=True))
    return schema.SplitCount(images=len(data), boxes=len(ids), classes=classes)


def _strategy_entry(
    plan: RunPlan, outcome: StrategyOutcome, references: Sequence[Reference], tell: Tell
) -> schema.StrategyResult:
    matrix, indices = indices_of(plan, outcome, references)
    merges = tuple(
        schema.MergeEntry.of(number, result.trace)
        for number, result in enumerate(outcome.results, start=1)
        if result.trace is not None
    )
    costs = tuple(
        schema.StageCost(title=result.increment.name, seconds=result.seconds)
        for result in outcome.results
    )
    final = outcome.results[-1].merged
    shown = deployments(plan.out, plan.steps, outcome.maps, outcome.scores)
    return schema.StrategyResult(
        name=outcome.strategy.name,
        title=outcome.strategy.title or outcome.strategy.name,
        indices=indices,
        matrix=matrix.as_records(),
        class_scores=tuple(
            schema.ClassScores.of(stage, domain, scores, shown.get((stage, domain)))
            for (stage, domain), scores in outcome.scores.items()
        ),
        kept=tuple(
            KeptEntry(
                domain=domain,
                images=one.images,
                before=one.before,
                kept=one.kept,
                renamed=one.renamed,
                added=one.added,
                iou=IOU,
            )
            for domain, one in outcome.kept.items()
        ),
        merges=merges,
        costs=costs,
        parameters=parameter_count(final),
        latency_ms=latency_ms(
            final,
            _latest_images(plan),
            image_size=plan.image_size,
            folder=plan.out / EVALUATIONS,
            tell=tell,
        ),
        memory_mb=peak_megabytes(outcome.results),
    )


def _latest_images(plan: RunPlan) -> tuple[Path, ...]:
    """Return the evaluation images of the last domain: what the detector will meet next."""
    last = plan.series.domain(plan.series.increments[-1].domain)
    return last.evaluate((), plan.split).images


def _commands(plan: RunPlan, main: StrategyOutcome) -> schema.Commands:
    last = main.results[-1].increment.name
    number = len(main.results) - (1 if plan.onto is not None else 0)
    model = plan.out / "models" / main.strategy.name / f"{number}-{last}"
    return schema.Commands(
        reproduce=(plan.command,) if plan.command else (), next=next_commands(model)
    )


def next_commands(model: Path) -> tuple[str, ...]:
    """Return what to do with a detector."""
    return (
        shell_line("duet", "predict", model, "IMAGES"),
        shell_line("duet", "export", model, "--to", "onnx"),
    )
