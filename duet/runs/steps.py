"""One stage at a time: `duet base` and `duet increment` on the folders of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from duet.devices import at_hand
from duet.errors import ConfigError, ModelError
from duet.evaluation.ap import ClassAP
from duet.files import run_lock
from duet.increments.fisher import sum_fishers
from duet.increments.manifest import IncrementManifest
from duet.increments.state import DetectorState
from duet.increments.store import load_detector, load_increment
from duet.merging.weights import together
from duet.report.phrases import learned_little
from duet.runs.keep import (
    Behind,
    keep_independent,
    keep_stage,
    keep_start,
    require_chain,
    require_place,
    start_lineage,
)
from duet.runs.kept import (
    detectors_before,
    increment_of,
    kept_models,
    manifest_of,
    require_increments,
    require_line,
    start_of,
)
from duet.runs.lab import tidy
from duet.runs.learn import run_base, run_increment, run_independent
from duet.runs.learnable import require_company
from duet.runs.remember import evaluator_of, measure_own, remember_stage
from duet.runs.seen import Seen, look_again
from duet.runs.setting import Before, Setting, StageResult
from duet.series import Increment, train_slice
from duet.training.config import Strategy
from duet.vectors.tensors import Tensors
from duet.weights.start import start_fingerprint


@dataclass(frozen=True)
class StepReport:
    """What one stage left behind.

    Attributes:
        name: The increment.
        increment: Its folder.
        detector: Folder of the merged detector after it; None for an independent increment.
        classes: All classes of that detector, or of the increment.
        seconds: Training time.
        seen: What the detectors before and after it find on its evaluation images.
    """

    name: str
    increment: Path
    detector: Path | None
    classes: tuple[str, ...]
    seconds: float
    seen: Seen | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        detector = str(self.detector) if self.detector else None
        seen = self.seen.as_dict() if self.seen else None
        told = {"increment": str(self.increment), "detector": detector, "seen": seen}
        return {"schema": 1, **vars(self), **told}

    def as_text(self) -> str:
        """Return the same for people."""
        if self.detector is None:
            return (
                f"{self.name}: trained in {self.seconds:.0f} s from the start weights, "
                f"{len(self.classes)} classes\n  increment {self.increment}"
            )
        seen = [f"  {line}\n" for line in (self.seen.as_lines() if self.seen else ())]
        return (
            f"{self.name}: trained in {self.seconds:.0f} s, the detector now knows "
            f"{len(self.classes)} classes\n{''.join(seen)}"
            f"  increment {self.increment}\n  detector  {self.detector}"
        )


def learn_base(out: Path, setting: Setting, strategy: Strategy) -> StepReport:
    """Train the base and keep it; later stages that do not fit it any more are named.

    Raises:
        ConfigError: The strategy leaves nothing that `learn_increment` could go on from.
    """
    require_increments(strategy)
    _require_company(setting)
    with _locked(out, setting):
        require_chain(out, strategy, None)
        require_place(out, strategy, setting.series.increments[0].name, independent=False)
        result = run_base(setting, strategy)
        report, scores = _keep(out, setting, strategy, result, Behind())
        classes = result.increment.classes
        _tell_little(setting, 1, scores.map50(classes) if scores.has_truth(classes) else None)
        models = kept_models(out, strategy)
        try:
            require_line(models, [manifest_of(out, strategy, path) for path in models])
        except ModelError as error:
            note = f"{error.where}: {error.what}; {error.remedy}"
            setting.lab.listen(report.name, {"note": note})
        return report


def learn_independent(out: Path, setting: Setting, strategy: Strategy) -> StepReport:
    """Train the one increment of ``setting.series`` from θ_0, to be merged later in any order."""
    _require_company(setting)
    require_place(out, strategy, setting.series.increments[0].name, independent=True)
    with _locked(out, setting):
        result = run_independent(setting, strategy, setting.series.increments[0])
        folder = keep_independent(out, setting, strategy, result)
        _remember(out, setting, folder, result.merged, setting.schedule.image_size)
    name, classes = result.increment.name, result.increment.classes
    return StepReport(name, folder, None, classes, result.seconds)


def learn_increment(out: Path, setting: Setting, strategy: Strategy) -> StepReport:
    """Train the last increment of ``setting.series`` on top of what the run folder holds.

    With ``setting.onto`` the folder begins with that detector.

    Raises:
        ModelError: The folder holds no base, or the increment is the base.
        ConfigError: The strategy needs the images of all increments.
    """
    increment = setting.series.increments[-1]
    if strategy.data != "increment":
        raise ConfigError(
            f"'{strategy.name}' trains on the images of all increments, `duet increment` reads one",
            remedy="use `duet run` for joint training",
        )
    if strategy.apart:
        raise ConfigError(
            f"'{strategy.name}' trains increments apart from each other",
            where="geometry: independent",
            remedy="add --independent, and merge with `duet merge`; or use `duet run`",
        )
    require_increments(strategy)
    _require_company(setting)
    with _locked(out, setting):
        require_place(out, strategy, increment.name, independent=False)
        if setting.onto is not None:
            keep_start(out, setting, strategy)
        models = detectors_before(out, strategy, increment.name)
        result, behind = _learn_on(out, setting, strategy, increment, models)
        report, _ = _keep(out, setting, strategy, result, behind)
        assert behind.merged is not None
        seen = _seen(setting, increment, behind, result.merged)
        _tell_little(setting, behind.stages + 1, seen.after.map50)
        return replace(report, seen=seen)


def _learn_on(
    out: Path, setting: Setting, strategy: Strategy, increment: Increment, models: list[Path]
) -> tuple[StageResult, Behind]:
    """Learn an increment on the last of some detectors; return also what it has behind it."""
    start = start_of(models)
    trained = models[1:] if start is not None else models
    done = [manifest_of(out, strategy, path) for path in trained]
    last = load_detector(models[-1])
    require_line(models, done)
    _require_same_start(setting, strategy, last.state, done)
    lineage = start_lineage(start) if start == models[-1] else last.manifest.lineage
    behind = Behind(last.state, lineage, len(models), start, last.manifest.image_size)
    several = len(models) > 1
    earlier = (
        load_detector(models[-2]).state.shared if several else setting.shared_start(strategy.head)
    )
    unknown = [0] * (len(models) - len(done))  # of a detector that was brought
    images = together([*unknown, *(manifest.images for manifest in done)])
    fisher = None if start is not None else _fisher(out, strategy, models, last.state.shared)
    size = last.manifest.image_size
    before = Before(last.state, earlier, len(models), images, fisher, size)
    return run_increment(setting, strategy, increment, before), behind


def _require_same_start(
    setting: Setting, strategy: Strategy, last: DetectorState, done: Sequence[IncrementManifest]
) -> None:
    """Refuse another θ_0 or head form than the chain has: its parts would not fit together."""
    if last.head != strategy.head:
        raise ConfigError(
            f"asks for head: {strategy.head}, but its chain in this run folder has {last.head}",
            where=f"strategy '{strategy.name}'",
            remedy="take the strategy as it was, or name another folder with --out",
        )
    if done and start_fingerprint(setting.shared_start(strategy.head)) != done[-1].base:
        raise ModelError(
            f"other start weights than those that '{done[-1].name}' was trained with: a chain has "
            "one θ_0",
            where=str(setting.weights),
            remedy="give the same with --weights, or name another folder with --out",
        )


def _seen(setting: Setting, increment: Increment, before: Behind, after: DetectorState) -> Seen:
    """Look at the increment's evaluation images with the detectors before and after it."""
    domain = setting.series.domain(increment.domain)
    cut, size = domain.evaluate(domain.known(increment.classes)), setting.schedule.image_size
    assert before.merged is not None
    sizes = (before.image_size, max(before.image_size, size))
    device = at_hand(setting.schedule.device)
    return look_again(before.merged, after, cut, sizes=sizes, device=device)


def _tell_little(setting: Setting, stage: int, map50: float | None) -> None:
    """Say it if the last increment learned next to nothing, before others build on it."""
    increment = setting.series.increments[-1]
    line = None if map50 is None else learned_little(stage, increment.domain, map50)
    if line is not None:
        setting.lab.listen(increment.name, {"note": line})


def _fisher(out: Path, strategy: Strategy, models: Sequence[Path], like: Tensors) -> Tensors | None:
    """Return the Fisher of all stages so far, if the strategy wants it."""
    if not strategy.reads_fisher:
        return None
    kept = [load_increment(increment_of(out, strategy, path)).fisher for path in models]
    return sum_fishers(kept, like)


def _require_company(setting: Setting) -> None:
    increment = setting.series.increments[-1]
    images = {increment.name: len(train_slice(increment.data, increment.classes))}
    require_company(images, setting.schedule, setting.architecture)


@contextmanager
def _locked(out: Path, setting: Setting) -> Iterator[None]:
    with run_lock(out):
        tidy(out, lambda line: setting.lab.listen(out.name, {"note": line}))
        yield


def _keep(
    out: Path, setting: Setting, strategy: Strategy, result: StageResult, behind: Behind
) -> tuple[StepReport, ClassAP]:
    """Write the folders of a stage; return also what its detector reaches in its domain."""
    kept, state = keep_stage(out, setting, strategy, result, behind), result.merged
    setting.let_go(result, kept.detector, kept.increment)
    report = StepReport(
        result.increment.name, kept.increment, kept.detector, state.labels.names, result.seconds
    )
    return report, _remember(out, setting, kept.increment, state, kept.behind.image_size)


def _remember(
    out: Path, setting: Setting, folder: Path, state: DetectorState, image_size: int
) -> ClassAP:
    """Measure the detector after a stage in its domain, and keep that beside the increment."""
    increment = setting.series.increments[-1]
    scores = measure_own(evaluator_of(out, setting, image_size), setting, state)
    split = setting.series.domain(increment.domain).split()
    remember_stage(out, folder, state, increment, scores, split)
    return scores
