"""A chain: one strategy over one series, every stage in its order, each on the one before it.

θ_t starts from the previous merged detector, its shared tensors are merged with it, its head part
is added and perhaps re-fitted (docs/method.md, "One increment"). Everything trained comes from the
lab, so a stage only computes what is not on disk yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from duet.errors import ConfigError
from duet.families.table import resolve_roles
from duet.increments.fisher import sum_fishers
from duet.increments.state import DetectorState, HeadForm
from duet.merging.inputs import Inputs
from duet.merging.operand import Operand
from duet.merging.shared import SO_FAR, merge_shared
from duet.merging.trace import MergeTrace
from duet.merging.weights import together
from duet.recipes.refined import cut_to, refined, rows_of
from duet.runs.calibrate import calibrated
from duet.runs.lab import Trained
from duet.runs.learnable import adapts, require_adaptable
from duet.runs.retain import retained
from duet.runs.setting import RETENTION, Before, Setting, StageResult
from duet.series import Increment, Slice, train_slice
from duet.series.series import joint_slice
from duet.series.slices import with_classes
from duet.training.config import Strategy
from duet.training.job import Job, JobPart
from duet.training.schedule import Schedule
from duet.vectors.tensors import Tensors


def run_chain(setting: Setting, strategy: Strategy) -> list[StageResult]:
    """Learn the whole series with one strategy, oldest increment first."""
    return list(chain_stages(setting, strategy))


def chain_stages(setting: Setting, strategy: Strategy) -> Iterator[StageResult]:
    """Yield the stages of `run_chain` as they finish; the next begins when it is asked for."""
    if strategy.data != "increment":
        yield from _joint(setting, strategy)
        return
    result = run_base(setting, strategy)
    seen, fishers = [result.trained.images_seen], [result.trained.fisher]
    yield result
    earlier = setting.shared_start(strategy.head)
    size = setting.onto.manifest.image_size if setting.onto is not None else 0
    for increment in setting.series.increments[1:]:
        fisher = sum_fishers(fishers, result.merged.shared)
        before = Before(result.merged, earlier, len(seen), together(seen), fisher, size)
        result = run_increment(setting, strategy, increment, before)
        seen.append(result.trained.images_seen)
        fishers.append(result.trained.fisher)
        earlier = before.merged.shared
        yield result


def _joint(setting: Setting, strategy: Strategy) -> Iterator[StageResult]:
    """Train one detector per stage on all images so far, from θ_0: the yardstick of the field.

    It breaks the rule that old images are gone, on purpose. With partial labels each image carries
    the labels of its own increment, as it did when it came. With full labels it carries every class
    known so far that its data set labels, and images that hold such classes alone join: the
    ceiling.
    """
    yield run_base(setting, strategy)
    increments = setting.series.increments
    for stage, increment in enumerate(increments[1:], start=2):
        classes = setting.series.classes_until(stage - 1)
        data = joint_slice(increments[:stage], classes, full=strategy.data == "joint-full")
        title = f"{strategy.name}: {increment.name}"
        trained = train_alone(setting, data, increment.name, title)
        yield _lone(setting, strategy, increment, trained)


def alone(
    setting: Setting, classes: Sequence[str], name: str, *, head: HeadForm = "rows",
    trunk: Literal["trained", "frozen"] = "trained", schedule: Schedule | None = None,
) -> tuple[Job, DetectorState]:  # fmt: skip
    """Return the job that trains θ_0 on one slice, and where it starts; see `train_alone`.

    ``schedule`` is in place of the setting's.
    """
    start = setting.engine.start_state(
        setting.theta_0, architecture=setting.architecture, head=head, classes=classes,
        increment=name, seed=setting.seed,
    )  # fmt: skip
    job = Job(
        family=setting.family, architecture=setting.architecture, head=head, phase="base",
        parts=(JobPart(increment=name, classes=tuple(classes)),),
        schedule=schedule or setting.schedule, trunk=trunk, seed=setting.seed,
    )  # fmt: skip
    return job, start


def train_alone(
    setting: Setting, data: Slice, name: str, title: str = "", *, head: HeadForm = "rows",
    trunk: Literal["trained", "frozen"] = "trained",
) -> Trained:  # fmt: skip
    """Train θ_0 on one slice with the detector's own loss.

    The result is head-agnostic where its head form is `rows`, see `Family.recast`.

    Args:
        setting: What all trainings of the run share.
        data: The slice.
        name: Of the one head part, which owns all classes of the slice.
        title: For the progress; by default the name, the domain and its classes.
        head: Head form that is trained.
        trunk: Whether θ_0's shared tensors are; else the head part alone.
    """
    job, start = alone(setting, data.classes, name, head=head, trunk=trunk)
    title = title or title_of(name, data)
    return setting.lab.train(title, job, start, data, put_back=setting.put_back)


def title_of(name: str, data: Slice) -> str:
    """Return what a training of one slice is called in the progress."""
    ends = " … ".join(dict.fromkeys((data.classes[0], data.classes[-1])))
    return f"{name}: {data.domain}[{ends}]"


def run_base(setting: Setting, strategy: Strategy) -> StageResult:
    """Train the first increment, or take the detector that stands for it."""
    first = setting.series.increments[0]
    if setting.onto is not None:
        state = setting.onto.in_form(strategy.head)
        return StageResult(first, Trained(state, 0, 0.0, (), "", reused=True), state)
    data = train_slice(first.data, first.classes)
    trained = train_alone(setting, data, first.name)
    return _calibrated(setting, strategy, _lone(setting, strategy, first, trained))


def run_independent(setting: Setting, strategy: Strategy, increment: Increment) -> StageResult:
    """Train one increment from θ_0 alone, to be merged with others later, in any order.

    Of the strategy its head form counts, and whether the trunk is trained; what it says about
    earlier increments has nothing to act on.
    """
    data = train_slice(increment.data, increment.classes)
    # Trained as rows it fits every form; on a frozen trunk only what the form owns may train.
    head = strategy.head if strategy.trunk == "frozen" else "rows"
    trained = train_alone(setting, data, increment.name, head=head, trunk=strategy.trunk)
    return _calibrated(setting, strategy, _lone(setting, strategy, increment, trained))


def _calibrated(
    setting: Setting, strategy: Strategy, result: StageResult, before: Before | None = None
) -> StageResult:
    """Return a stage with score maps, if the strategy wants them."""
    if not strategy.calibrate:
        return result
    return replace(result, merged=calibrated(setting, result.increment, result.merged, before))


def _lone(
    setting: Setting, strategy: Strategy, increment: Increment, trained: Trained
) -> StageResult:
    """Return a stage that was trained on its own, as a detector of the strategy's head form."""
    state = setting.engine.recast(trained.state, strategy.head)
    return StageResult(increment, trained, state)


def run_increment(
    setting: Setting, strategy: Strategy, increment: Increment, before: Before
) -> StageResult:
    """Train, merge and re-fit one increment; no data but its own is touched.

    An increment whose classes are all known brings no head part: it moves the shared tensors alone,
    or where these stay the class rows.

    Raises:
        DataError: It brings new classes and known ones.
        ConfigError: EWC has no Fisher to go by, or the strategy cannot learn known classes.
        ModelError: Class rows that would train do not fit into one tensor.
    """
    previous = before.merged
    known = previous.labels.names
    again = adapts(increment, known)
    if again:
        parts = [part.classes for part in previous.parts]
        require_adaptable(strategy, setting.family, increment, parts)
        if strategy.refines:
            return _refine(setting, strategy, increment, before)
    data = train_slice(increment.data, increment.classes)
    start = previous if again else _grow(setting, strategy, increment, previous)
    if again:
        data = with_classes(data, known)
    direction = None
    if strategy.directional.weight > 0 and strategy.trunk == "trained":
        direction = {name: theta - before.earlier[name] for name, theta in previous.shared.items()}
    job = stage_job(
        setting, strategy, start, "increment", adapts=increment.classes if again else ()
    )
    trained = setting.lab.train(
        f"{strategy.name}: {increment.name}", job, start, data, direction,
        _importance(strategy, increment, before), put_back=setting.put_back,
    )  # fmt: skip
    merged, trace, drawn = _merged(setting, strategy, increment, before, trained)
    refit = None
    once_more = None if again else strategy.refit.of(setting.schedule, len(data))
    if once_more is not None:
        job = stage_job(setting, strategy, merged, "refit", schedule=once_more)
        title = f"{strategy.name}: {increment.name} re-fit"
        refit = setting.lab.train(title, job, merged, data, put_back=setting.put_back)
        merged = replace(merged, parts=(*merged.parts[:-1], refit.state.parts[-1]))
    stage = StageResult(increment, trained, merged, trace, refit, drawn)
    return _calibrated(setting, strategy, stage, before)


def _merged(
    setting: Setting, strategy: Strategy, increment: Increment, before: Before, trained: Trained
) -> tuple[DetectorState, MergeTrace, DetectorState | None]:
    """Merge what was trained with the detector before it, no further than `min_retention` lets it.

    Returns:
        The merged detector, the trace, and what was merged if that is not all that was trained.
    """
    theta_0 = setting.shared_start(strategy.head)

    def merge(state: DetectorState) -> tuple[DetectorState, MergeTrace]:
        return merge_states(
            strategy, theta_0, before.merged, state, before.stages,
            (before.images, trained.images_seen), fishers=(before.fisher, trained.fisher),
            name=increment.name,
        )  # fmt: skip

    if not strategy.min_retention or strategy.trunk == "frozen":
        return *merge(trained.state), None
    state, found = retained(
        setting, strategy.min_retention, increment, before, trained.state,
        lambda drawn: merge(drawn)[0],
    )  # fmt: skip
    merged, trace = merge(state)
    trace = replace(trace, facts={**trace.facts, RETENTION: found.as_dict()})
    return merged, trace, None if found.moved == 1 else state


def _refine(
    setting: Setting, strategy: Strategy, increment: Increment, before: Before
) -> StageResult:
    """Train the rows of known classes alone, on the detector of just these classes."""
    start = cut_to(before.merged, increment.classes)
    rows_of(start, increment.classes, increment.name)  # refuses before any training
    data = with_classes(train_slice(increment.data, increment.classes), start.labels.names)
    job = stage_job(setting, strategy, start, "increment", adapts=increment.classes)
    trained = setting.lab.train(
        f"{strategy.name}: {increment.name}", job, start, data, None,
        _importance(strategy, increment, before), put_back=setting.put_back,
    )  # fmt: skip
    parts = refined(
        before.merged.parts, rows_of(trained.state, increment.classes, increment.name),
        strategy.merge.method, strategy.merge.params, images=(before.images, trained.images_seen),
    )  # fmt: skip
    stage = StageResult(increment, trained, replace(before.merged, parts=parts))
    return _calibrated(setting, strategy, stage, before)


def _importance(strategy: Strategy, increment: Increment, before: Before) -> Tensors | None:
    """Return F of EWC, the Fishers of all earlier increments; None if the strategy needs none."""
    if not strategy.ewc.weight:
        return None
    if before.fisher is None:
        raise ConfigError(
            f"'{strategy.name}' (EWC) needs the Fisher of every earlier increment, one has none",
            where=increment.name,
            remedy="give the commands that learned the earlier ones again, with --fisher-images "
            "128: what they trained stays, the Fisher is added",
        )
    return before.fisher


def merge_states(
    strategy: Strategy,
    theta_0: Tensors,
    previous: DetectorState,
    trained: DetectorState,
    stages_before: int,
    images: tuple[int, int],
    fishers: tuple[Tensors | None, Tensors | None] = (None, None),
    name: str = "",
) -> tuple[DetectorState, MergeTrace]:
    """Join the previous detector with the newly trained one.

    Args:
        strategy: Merge method, BatchNorm rule, and whether old parts were trained.
        theta_0: Shared tensors of the pretrained detector.
        previous: Merged detector before this stage.
        trained: The same detector after training, with the new part if there is one.
        stages_before: Increments that ``previous`` holds; `weights: uniform` counts them, of DuET
            as of BatchNorm.
        images: Images seen by ``previous`` and in this stage, for ``weights: images``.
        fishers: Of both, for `fisher`.
        name: Of the increment; default that of its part.
    """  # fmt: skip
    roles = resolve_roles(trained.family)
    new = name or trained.parts[-1].increment
    operands = (
        Operand(
            SO_FAR,
            weights=previous.shared,
            fisher=fishers[0],
            images=images[0],
            increments=stages_before,
        ),
        Operand(new, weights=trained.shared, fisher=fishers[1], images=images[1]),
    )
    merged = merge_shared(
        strategy.merge.method,
        strategy.merge.params,
        Inputs(operands, start=theta_0, layers=roles.layers(trained.shared, trained.architecture)),
        buffers=(previous.buffers, trained.buffers),
        fusion=strategy.batchnorm.with_one_more(stages_before),
        images=images,
    )
    kept = 0 if strategy.old_part == "trained" else len(previous.parts)
    parts = (*previous.parts[:kept], *trained.parts[kept:])
    state = replace(trained, shared=merged.tensors, buffers=merged.buffers, parts=parts)
    return state, merged.trace


def _grow(
    setting: Setting, strategy: Strategy, increment: Increment, previous: DetectorState
) -> DetectorState:
    source = setting.theta_0 if strategy.new_part == "pretrained" else None
    return setting.engine.grow(
        previous,
        classes=increment.classes,
        increment=increment.name,
        seed=setting.seed,
        source=source,
    )


def stage_job(
    setting: Setting,
    strategy: Strategy,
    start: DetectorState,
    phase: Any,
    adapts: tuple[str, ...] = (),
    schedule: Schedule | None = None,
) -> Job:
    """Return the settings of one training of a chain.

    Args:
        setting: What all trainings of the run share.
        strategy: What is trained, and against what.
        start: Where the training starts.
        phase: As in `Job`.
        adapts: As in `Job`.
        schedule: In place of the setting's.
    """
    return Job(
        family=setting.family, architecture=setting.architecture, head=strategy.head, phase=phase,
        parts=tuple(JobPart(increment=p.increment, classes=p.classes) for p in start.parts),
        old_part=strategy.old_part, old_negatives=strategy.old_negatives, trunk=strategy.trunk,
        pseudo=strategy.pseudo if strategy.old_negatives == "pseudo" else None,
        distill=strategy.distill if phase == "increment" else None,
        directional=strategy.directional if phase == "increment" else None,
        ewc=strategy.ewc if phase == "increment" and strategy.ewc.weight else None, adapts=adapts,
        schedule=schedule or setting.schedule, seed=setting.seed,
    )  # fmt: skip
