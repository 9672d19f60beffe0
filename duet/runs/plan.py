"""What a run would do, counted before it is done."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from duet.devices import Device, parse_device
from duet.errors import ConfigError
from duet.evaluation.matrix import Slice as Cut
from duet.evaluation.matrix import slice_title
from duet.evaluation.pairs import cells_needed, reference_slices
from duet.files import sha256_json
from duet.runs.evaluate import require_split
from duet.runs.inputs import Inputs, read_strategies
from duet.runs.learnable import coarsest_stride, require_company, require_learnable
from duet.runs.needed import Cells, Look, looks
from duet.series import Increment, Slice, train_slice
from duet.series.series import joint_slice
from duet.shipped import DEFAULT_STRATEGIES, ONTO_STRATEGIES
from duet.text import duration, short_list
from duet.training.config import Strategy
from duet.training.schedule import FISHER_IMAGES, Schedule

SECONDS_PER_IMAGE = 0.02
"""One training image of 160 px through YOLO11n on one CPU thread, measured on a 2-core machine."""

PARAMETERS = 2.6e6
"""Of that YOLO11n; a network takes longer in about the proportion in which it is larger."""

DISTILLATION = 1.46
"""Cost of a step with the old detector running beside, against a plain step (bench_train.py)."""


@dataclass(frozen=True, kw_only=True)
class RunPlan(Inputs):
    """What to run: checked inputs, and what is done with them.

    Attributes:
        strategies: The first is the one that the report is about.
        seed: Of everything random.
        out: Run folder.
        jobs: Training processes at a time.
        references: Train the reference models that GI and PI need.
        split: Split to evaluate on; empty = test if there is one, else val.
        command: The shell line, for the report.
        lab: Folder of the trainings, for runs that share them; default one in ``out``.
        evaluations: Folder of the evaluations that runs share; default one in ``out``.
        cells: Which detectors look at which domains, see `duet.runs.needed`.
        watched: Domains where all do.
        written: Classes of the series, in the order of its file; default that of ``series``.
        begun: (domain, classes) that a run in the lab begins with; default this one's own.
        elsewhere: Trainings are done on other machines: this one need not have the device.
    """

    strategies: tuple[Strategy, ...]
    seed: int
    out: Path
    jobs: int = 1
    references: bool = True
    split: str = ""
    command: str = ""
    lab: Path | None = None
    evaluations: Path | None = None
    cells: Cells = "needed"
    watched: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    begun: frozenset[Cut] = frozenset()
    elsewhere: bool = False

    def __post_init__(self) -> None:
        """Refuse what no training could finish; see `require_learnable`, `require_company`.

        Raises:
            DataError: A data set lacks the chosen split, or an increment cannot be learned.
            ConfigError: A strategy cannot learn an increment, a batch would be one tiny image, or
                `cells` is no word for them.
        """
        if self.cells not in get_args(Cells):
            known = ", ".join(get_args(Cells))
            raise ConfigError(
                f"cells must be one of: {known}, but got '{self.cells}'", where="cells"
            )
        object.__setattr__(self, "written", self.written or self.series.labels)
        object.__setattr__(self, "begun", self.begun or frozenset(self.steps[:1]))
        require_learnable(self.strategies, self.family, self.series.increments)
        require_split(self.series, self.split)
        if self.schedule.image_size < 2 * coarsest_stride(self.architecture):
            images = {stage.title: stage.images for stage in planned_stages(self)}
            require_company(images, self.schedule, self.architecture)

    @property
    def image_size(self) -> int:
        """Longer side of what the detectors of the run look at, in pixels.

        What an old class needs to be seen is not taken from a detector that is gone on from.
        """
        known = self.onto.manifest.image_size if self.onto is not None else 0
        return max(self.schedule.image_size, known)

    @property
    def training(self) -> Schedule:
        """The schedule of chains: with a Fisher if one of the strategies reads it."""
        asked, read = self.schedule.fisher_images, [one.reads_fisher for one in self.strategies]
        images = FISHER_IMAGES if asked is None and any(read) else asked
        return self.schedule.model_copy(update={"fisher_images": images})

    @property
    def device(self) -> str:
        """Torch's name of where detectors run: where they are trained, on the first of several."""
        return parse_device(self.schedule.device).torch_name

    @property
    def steps(self) -> list[tuple[str, tuple[str, ...]]]:
        """(domain, classes) per increment."""
        return [(item.domain, item.classes) for item in self.series.increments]

    @cached_property
    def looks(self) -> tuple[Look, ...]:
        """(stage, domain) of every evaluation of a chain."""
        return looks(self.steps, self.series.domains, cells=self.cells, watched=self.watched)

    def in_written_order(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Return classes in the order of the series file, whatever the order of learning."""
        return tuple(name for name in self.written if name in frozenset(classes))

    def reference_name(self, cut: Cut) -> str:
        """Return what the head part of a reference is called: as the increment that it equals."""
        same = (item.name for item in self.series.increments if (item.domain, item.classes) == cut)
        return next(same, f"reference-{cut[0]}")

    @property
    def reference_cuts(self) -> list[Cut]:
        """(domain, classes) per reference model, less those in `left_out`."""
        return [cut for cut in self._references if cut not in self.left_out]

    @cached_property
    def left_out(self) -> dict[Cut, str]:
        """(domain, classes) of what the indices ask for and the data cannot answer -> why."""
        cuts = dict.fromkeys((domain, classes) for _, domain, classes in cells_needed(self.steps))
        found: dict[Cut, str] = {}
        for name, classes in (*cuts, *self._references):
            if why := self._absence(name, classes):
                found[name, classes] = why
        return found

    def _absence(self, name: str, classes: tuple[str, ...]) -> str:
        """Return why classes cannot be measured in a domain; empty where they can."""
        if name not in self.series.domains:
            return f"no image of '{name}' was given: name some under 'data' of the series' start"
        domain = self.series.domain(name)
        why = domain.absence(classes, self.split)
        if not why and (name, classes) in self._references:
            why = domain.absence(classes, "train")
        return why

    @property
    def _references(self) -> tuple[Cut, ...]:
        return reference_slices(self.steps) if self.references else ()


def plan_run(
    inputs: Inputs,
    strategies: Sequence[str] = (),
    *,
    seed: int = 0,
    out: Path | None = None,
    jobs: int | None = None,
    references: bool = True,
    split: str = "",
    command: str = "",
    cells: Cells = "needed",
    watched: Sequence[str] = (),
    elsewhere: bool = False,
) -> RunPlan:
    """Return what `execute` does with checked inputs; nothing is written.

    Args:
        inputs: What `duet.runs.inputs.read_inputs` returned.
        strategies: Shipped names or paths; default `DEFAULT_STRATEGIES`, or `ONTO_STRATEGIES`.
        seed: Of everything random.
        out: Run folder; default ``runs/<series>``.
        jobs: Trainings at a time; default the CPU cores, at most two.
        references: See `RunPlan`.
        split: See `RunPlan`.
        command: See `RunPlan`.
        cells: See `RunPlan`.
        watched: See `RunPlan`.
        elsewhere: See `RunPlan`.

    Raises:
        DuetError: A strategy is unknown or does not fit, or see `RunPlan`.
    """
    chosen = tuple(strategies) or (ONTO_STRATEGIES if inputs.onto else DEFAULT_STRATEGIES)
    read = read_strategies(chosen, family=inputs.family, onto=inputs.onto, changes=inputs.changes)
    return RunPlan(
        **vars(inputs), strategies=read, seed=seed,
        out=out or Path("runs") / inputs.series.name, jobs=jobs or min(2, os.cpu_count() or 1),
        references=references, split=split, command=command, cells=cells, watched=tuple(watched),
        elsewhere=elsewhere,
    )  # fmt: skip


@dataclass(frozen=True)
class PlannedStage:
    """One training.

    Attributes:
        title: What it is.
        domain: Where its images come from.
        classes: How many classes it learns.
        images: Training images.
        epochs: Passes over them.
        steps: Optimizer steps.
        seconds: Rough estimate for one CPU thread.
        same: Of two trainings with one value here only one is done, whichever runs ask for it.
    """

    title: str
    domain: str
    classes: int
    images: int
    epochs: int
    steps: int
    seconds: float
    same: str = ""


def planned_stages(plan: RunPlan) -> list[PlannedStage]:
    """Return every training of a run, whether or not it is on disk already."""
    first, *others = plan.series.increments
    stages = []
    if plan.onto is None:
        cut = train_slice(first.data, first.classes)
        same = _same(plan, first.domain, sorted(first.classes))
        stages.append(_stage(plan, "base", cut, plan.schedule.epochs, 1.0, same))
    for strategy in plan.strategies:
        for number, item in enumerate(others, start=2):
            stages += _strategy_stages(plan, strategy, number, item)
    for domain, classes in plan.reference_cuts:
        cut = (data := plan.series.domain(domain)).train(data.known(classes))
        several = sum(other == domain for other, _ in plan.reference_cuts) > 1
        name = f"reference {domain}{f' [{short_list(classes, limit=3)}]' if several else ''}"
        epochs = plan.schedule.of_reference(len(cut)).epochs
        longer = ["reference"] if epochs > plan.schedule.epochs else []  # no base of an order
        same = _same(plan, domain, sorted(classes), *longer)
        stages.append(_stage(plan, name, cut, epochs, 1.0, same))
    return stages


def _strategy_stages(
    plan: RunPlan, strategy: Strategy, number: int, item: Increment
) -> Iterator[PlannedStage]:
    """Yield what a strategy trains at stage ``number``."""
    name, epochs = f"{strategy.name}: {item.name}", plan.schedule.epochs
    same = _same(plan, strategy.name, plan.steps[:number])
    if strategy.data != "increment":
        seen, full = plan.series.increments[:number], strategy.data == "joint-full"
        cut = joint_slice(seen, plan.series.classes_until(number - 1), full=full)
        yield _stage(plan, name, cut, epochs, 1.0, same)
        return
    cut, distill = train_slice(item.data, item.classes), strategy.distill
    share = 1.0 if strategy.old_negatives == "pseudo" else distill.images * bool(distill.weight)
    factor = 1.0 if strategy.apart else 1 + (DISTILLATION - 1) * share
    yield _stage(plan, name, cut, epochs, factor, same)
    refit = strategy.refit.of(plan.schedule, len(cut))
    new = not {*item.classes} <= {*plan.series.classes_until(number - 2)}
    if refit is not None and new and not strategy.apart:
        yield _stage(plan, f"{name} re-fit", cut, refit.epochs, 0.5, f"{same} re-fit")


def _same(plan: RunPlan, *what: object) -> str:
    """Return `PlannedStage.same`: of runs that differ in nothing but seed and order."""
    return sha256_json([plan.seed, *what])[:16]


def estimated_seconds(plan: RunPlan, stages: Sequence[PlannedStage]) -> float:
    """Return how long all trainings take on a CPU, ``jobs`` at a time."""
    return sum(stage.seconds for stage in stages) / max(plan.jobs, 1)


def estimated_bytes(plan: RunPlan, stages: Sequence[PlannedStage], size: int) -> int:
    """Return how much a run writes at least.

    Of each stage of a chain stay the increment and the detector; trainings under way hold where
    they started, what they trained, and a checkpoint with two moments; a base stays as it is.

    Args:
        plan: The run.
        stages: Its trainings.
        size: Bytes of a detector's float32 tensors.
    """
    kept = len(plan.strategies) * len(plan.series.increments)
    return round(size * (1 + 2 * kept + 6 * min(plan.jobs, len(stages))))


def notes(plan: RunPlan) -> list[str]:
    """Return what a plan says that will have no effect, or that its estimate does not know."""
    device, found = parse_device(plan.schedule.device), []
    if plan.schedule.precision in {"auto", "bf16"}:
        found += _of_bfloat16(plan.schedule.precision, device)
    if device.kind != "cpu":
        found.append("the times are those of a CPU; a GPU is faster")
    return found


def _of_bfloat16(choice: str, device: Device) -> list[str]:
    """Return what to know of bfloat16 on a device of this machine."""
    import torch

    from duet.training.precision import has_bfloat16

    there = has_bfloat16(torch.device(device.torch_name))
    if choice == "bf16":
        slow = f"{device} has no bfloat16 of its own: precision bf16 is slower than fp32 here"
        return [] if there else [slow]
    here = "bf16" if there else "fp32"
    return [f"precision auto is {here} on {device}; elsewhere results may differ beyond rounding"]


def plan_as_dict(plan: RunPlan) -> dict[str, Any]:
    """Return the plan as JSON-ready data."""
    stages = planned_stages(plan)
    return {
        "schema": 1,
        "series": plan.series.name,
        "strategies": [strategy.name for strategy in plan.strategies],
        "out": str(plan.out),
        "stages": [asdict(stage) for stage in stages],
        "left_out": [
            {"domain": domain, "classes": list(classes), "reason": why}
            for (domain, classes), why in plan.left_out.items()
        ],
        "evaluations": evaluations(plan),
        "jobs": plan.jobs,
        "estimated_seconds": round(estimated_seconds(plan, stages)),
        "notes": notes(plan),
    }


def evaluations(plan: RunPlan) -> dict[str, int]:
    """Return how many detectors look at how many domains.

    They are those of the chains, of ``cells`` that there are, and of the references.
    """
    chains = len(plan.strategies)
    return {
        "chains": chains * len(plan.looks),
        "cells": chains * len(plan.steps) * len(plan.series.domains),
        "references": len(plan.reference_cuts),
    }


def left_out(plan: RunPlan) -> list[str]:
    """Return what the indices ask for and the run will not measure, one sentence each."""
    return [f"not measured: {slice_title(*cut)}: {why}" for cut, why in plan.left_out.items()]


def plan_as_text(plan: RunPlan) -> str:
    """Return the plan for people."""
    lines = [f"{plan.series.name}: {len(plan.series.increments)} increments -> {plan.out}"]
    stages = planned_stages(plan)
    lines += [
        f"  {stage.title:<28} {stage.domain:<12} {stage.classes:>3} classes "
        f"{stage.images:>6} images x {stage.epochs:>3} epochs  about {stage.seconds:>6.0f} s"
        for stage in stages
    ]
    lines += [f"  {line}" for line in left_out(plan)]
    lines += [f"  note: {note}" for note in notes(plan)]
    total, seen = duration(estimated_seconds(plan, stages)), evaluations(plan)
    which = f"{seen['chains']} of {seen['cells']} cells, {seen['references']} references"
    count = seen["chains"] + seen["references"]
    lines.append(f"{len(stages)} trainings, {count} evaluations: {which}")
    lines.append(f"about {total} with {plan.jobs} at a time; nothing was done")
    return "\n".join(lines)


def _stage(
    plan: RunPlan, title: str, cut: Slice, epochs: int, factor: float, same: str
) -> PlannedStage:
    images = len(cut)
    scale = (plan.schedule.image_size / 160) ** 2 * max(_parameters(plan) / PARAMETERS, 1.0)
    seconds = images * epochs * SECONDS_PER_IMAGE * scale * factor
    return PlannedStage(
        title, cut.domain, len(cut.classes), images, epochs, plan.schedule.steps(images) * epochs,
        round(seconds, 1), same,
    )  # fmt: skip


def _parameters(plan: RunPlan) -> float:
    """Return about how many numbers θ_0 has: start weights are float16, or float32 at most."""
    if plan.onto is not None:
        return sum(tensor.numel() for tensor in plan.onto.state.shared.values())
    if plan.weights is None or not plan.weights.is_file():
        return PARAMETERS
    return plan.weights.stat().st_size / 2
