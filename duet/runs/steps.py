"""One stage at a time: `duet base` and `duet increment` on the folders of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from duet.errors import ConfigError, ModelError
from duet.families.table import resolve_roles
from duet.files import run_lock
from duet.increments.fisher import sum_fishers
from duet.increments.manifest import (
    MANIFEST,
    DetectorManifest,
    IncrementManifest,
    read_manifest,
)
from duet.increments.state import DetectorState
from duet.increments.store import load_detector, load_increment
from duet.merging.table import METHODS
from duet.recipes.find import find_start
from duet.recipes.history import kept_recipe
from duet.recipes.start import start_fingerprint
from duet.runs.chain import (
    Before,
    Setting,
    StageResult,
    run_base,
    run_increment,
    run_independent,
)
from duet.runs.keep import (
    Behind,
    behind_start,
    keep_independent,
    keep_stage,
    keep_start,
    require_chain,
    require_place,
)
from duet.runs.lab import tidy
from duet.runs.lone import require_company
from duet.runs.seen import Seen, look_again
from duet.series import Increment, domain_of, train_slice
from duet.text import shell_line
from duet.training.config import Method
from duet.trees import resolved
from duet.vectors.tensors import Tensors


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
        return {
            "schema": 1,
            "name": self.name,
            "increment": str(self.increment),
            "detector": str(self.detector) if self.detector else None,
            "classes": list(self.classes),
            "seconds": self.seconds,
            "seen": self.seen.as_dict() if self.seen else None,
        }

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


def learn_base(out: Path, setting: Setting, method: Method) -> StepReport:
    """Train the base and keep it; later stages that do not fit it any more are named.

    Raises:
        ConfigError: The method leaves nothing that `learn_increment` could go on from.
    """
    _require_increments(method)
    _require_company(setting)
    with _locked(out, setting):
        require_chain(out, method, None)
        require_place(out, method, setting.series.increments[0].name, independent=False)
        report = _keep(out, setting, method, run_base(setting, method), Behind())
        models = kept_models(out, method)
        try:
            require_line(models, [_manifest(out, method, path) for path in models])
        except ModelError as error:
            note = f"{error.where}: {error.what}; {error.remedy}"
            setting.lab.listen(report.name, {"note": note})
        return report


def learn_independent(out: Path, setting: Setting, method: Method) -> StepReport:
    """Train the one increment of ``setting.series`` from θ_0, to be merged later in any order."""
    _require_company(setting)
    require_place(out, method, setting.series.increments[0].name, independent=True)
    with _locked(out, setting):
        result = run_independent(setting, method, setting.series.increments[0])
        folder = keep_independent(out, setting, method, result)
    name, classes = result.increment.name, result.increment.classes
    return StepReport(name, folder, None, classes, result.seconds)


def learn_increment(out: Path, setting: Setting, method: Method) -> StepReport:
    """Train the last increment of ``setting.series`` on top of what the run folder holds.

    With ``setting.onto`` the folder begins with that detector.

    Raises:
        ModelError: The folder holds no base, or the increment is the base.
        ConfigError: The method needs the images of all increments.
    """
    increment = setting.series.increments[-1]
    if method.data != "increment":
        raise ConfigError(
            f"'{method.name}' trains on the images of all increments, `duet increment` reads one",
            remedy="use `duet run` for joint training",
        )
    _require_increments(method)
    _require_company(setting)
    with _locked(out, setting):
        require_place(out, method, increment.name, independent=False)
        if setting.onto is not None:
            keep_start(out, setting, method)
        models = _before(out, method, increment.name)
        result, behind = _learn_on(out, setting, method, increment, models)
        report = _keep(out, setting, method, result, behind)
        assert behind.merged is not None
        return replace(report, seen=_seen(setting, increment, behind, result.merged))


def _before(out: Path, method: Method, name: str) -> list[Path]:
    """Return the detectors of a chain before an increment, oldest first; see `kept_models`.

    Raises:
        ModelError: There is none, or one is missing.
    """
    models = kept_models(out, method)
    if not models:
        first = shell_line("duet", "base", "SERIES.yaml", "--method", method.name, "--out", out)
        raise ModelError(
            f"no base trained with method '{method.name}'",
            where=str(out),
            remedy=f"run `{first}` first, or name a detector to go on from with --onto",
        )
    names = [path.name.split("-", 1)[1] for path in models]
    begun = start_of(models) is not None
    if name in names:
        models = models[: names.index(name)]  # learn it again: resume or new settings
    if not models:
        raise ModelError(
            f"'{name}' is the {'detector that the chain' if begun else 'base'} of this run folder"
            f"{' goes on from' if begun else ''}",
            where=str(out),
            remedy="give the increment another name with 'name' in the series"
            if begun
            else "use `duet base` for the first increment",
        )
    require_whole(models)
    return models


def _learn_on(
    out: Path, setting: Setting, method: Method, increment: Increment, models: list[Path]
) -> tuple[StageResult, Behind]:
    """Learn an increment on the last of some detectors; return also what it has behind it."""
    start = start_of(models)
    trained = models[1:] if start is not None else models
    done = [_manifest(out, method, path) for path in trained]
    last = load_detector(models[-1])
    require_line(models, done)
    _require_same_start(setting, method, last.state, done)
    size = last.manifest.image_size
    behind = Behind(last.state, last.manifest.lineage, len(models), start, size)
    if len(models) == 1 and start is not None:
        behind = behind_start(start)
    rules = resolve_roles(setting.family)
    earlier = (
        load_detector(models[-2]).state.shared
        if len(models) > 1
        else rules.split_roles(setting.theta_0.tensors, method.head).shared
    )
    images = sum(manifest.images for manifest in done)
    fisher = None if start is not None else _fisher(out, method, models, last.state.shared)
    before = Before(last.state, earlier, len(models), images, fisher)
    return run_increment(setting, method, increment, before), behind


def _require_same_start(
    setting: Setting, method: Method, last: DetectorState, done: Sequence[IncrementManifest]
) -> None:
    """Refuse another θ_0 or head form than the one of the chain: its parts would not fit together.

    Raises:
        ModelError: Names the stage.
        ConfigError: The method has another head form now.
    """
    if last.head != method.head:
        raise ConfigError(
            f"asks for head: {method.head}, but its chain in this run folder has head: {last.head}",
            where=f"method '{method.name}'",
            remedy="take the method as it was, or name another folder with --out",
        )
    shared = resolve_roles(setting.family).split_roles(setting.theta_0.tensors, method.head).shared
    if done and start_fingerprint(shared) != done[-1].base:
        raise ModelError(
            f"other start weights than those that '{done[-1].name}' was trained with: a chain has "
            "one θ_0",
            where=str(setting.weights),
            remedy="give the same with --weights, or name another folder with --out",
        )


def _seen(setting: Setting, increment: Increment, before: Behind, after: DetectorState) -> Seen:
    """Look at the increment's evaluation images with the detectors before and after it."""
    domain = domain_of(setting.series, increment.domain)
    cut, size = domain.evaluate(domain.known(increment.classes)), setting.schedule.image_size
    assert before.merged is not None
    sizes = (before.image_size, max(before.image_size, size))
    return look_again(before.merged, after, cut, sizes=sizes)


def _fisher(out: Path, method: Method, models: Sequence[Path], like: Tensors) -> Tensors | None:
    """Return the Fisher of all stages so far, if the method wants it."""
    if not method.ewc.weight and "fisher" not in METHODS[method.merge.method].needs:
        return None
    kept = [load_increment(_increment(out, method, path)).fisher for path in models]
    return sum_fishers(kept, like)


def _require_increments(method: Method) -> None:
    """Refuse a method whose stages leave no increment, see `keep_stage`."""
    if method.old_part != "kept":
        raise ConfigError(
            f"'{method.name}' trains the old head rows and keeps no increments, which one stage "
            "after the other is learned from",
            remedy="use `duet run`, which learns all stages in one go",
        )


def _require_company(setting: Setting) -> None:
    increment = setting.series.increments[-1]
    images = {increment.name: len(train_slice(increment.data, increment.classes))}
    require_company(images, setting.schedule, setting.architecture)


@contextmanager
def _locked(out: Path, setting: Setting) -> Iterator[None]:
    with run_lock(out):
        tidy(out, lambda line: setting.lab.listen(out.name, {"note": line}))
        yield


def kept_models(out: Path, method: Method) -> list[Path]:
    """Return the detector folders of a method, oldest first; one may be damaged or be missing."""
    folder = out / "models" / method.name
    found = [path for path in folder.glob("*") if re.match(r"\d+-", path.name) and path.is_dir()]
    return sorted(found, key=_number)


def _number(model: Path) -> int:
    return int(model.name.split("-", 1)[0])


def require_whole(models: list[Path]) -> None:
    """Refuse a chain with a gap: what is learned on top of it would not fit.

    Raises:
        ModelError: A stage is missing, or its folder has no manifest.
    """
    for number, model in enumerate(models, start=0 if start_of(models) is not None else 1):
        if _number(model) != number or not (model / MANIFEST).is_file():
            raise ModelError(
                f"the detector of stage {number} is missing or has no {MANIFEST}",
                where=str(model),
                remedy="give the command of that stage again: what was trained is kept, and its "
                "folder is written anew",
            )


def start_of(models: Sequence[Path]) -> Path | None:
    """Return the detector that a chain goes on from; None if it trained its base."""
    return next((path for path in models[:1] if _number(path) == 0), None)


@dataclass(frozen=True)
class KeptChain:
    """A chain of a run folder that goes on from a detector.

    Attributes:
        start: Folder of that detector.
        weights: θ_0; None if it is that detector.
        last: The detector before the increment that is asked about.
    """

    start: Path
    weights: Path | None
    last: Path


def chain_kept(out: Path, method: Method, name: str | None = None) -> KeptChain | None:
    """Return what an increment is learned on in a chain that goes on from a detector.

    Args:
        out: Run folder.
        method: Whose chain.
        name: The increment; None if the chain is begun again, which mends its first detector.

    Returns:
        None if the folder has no such chain.

    Raises:
        ModelError: A detector of it is missing, or it is called as the increment.
        ConfigError: The method keeps no increments.
    """
    models = kept_models(out, method)
    if (start := start_of(models)) is None:
        return None
    _require_increments(method)
    before = _before(out, method, name) if name is not None else models
    newest = next((path for path in reversed(models) if (path / MANIFEST).is_file()), start)
    if newest == start:
        return KeptChain(start, None, before[-1])
    recipe = kept_recipe(read_manifest(newest, DetectorManifest), newest)
    named = resolved(newest / (recipe.weights or start.absolute()))
    found = None if named == resolved(start) else find_start(recipe, newest, ()) or named
    return KeptChain(start, found, before[-1])


def require_line(models: Sequence[Path], increments: Sequence[IncrementManifest]) -> None:
    """Refuse a chain one of whose stages was learned again after those that follow it.

    Raises:
        ModelError: With the first detector that was made of another increment than the one here.
    """
    kept = [one.fingerprint() for one in increments]
    if (start := start_of(models)) is not None:
        brought = [item.manifest for item in behind_start(start).lineage]
        kept, models = brought + kept, models[1:]
    first = len(kept) - len(models) + 1
    for number, model in enumerate(models, start=first):
        lineage = read_manifest(model, DetectorManifest).lineage
        pairs = zip(lineage, kept[:number], strict=False)
        other = next((item.increment for item, here in pairs if item.manifest != here), None)
        if other is not None or len(lineage) != number:
            stage = increments[number - first].name
            raise ModelError(
                f"made of another '{other or stage}' than the one in this run folder, which was "
                "learned again since",
                where=str(model),
                remedy=f"learn '{stage}' again, too: the command of each later stage, in order",
            )


def _increment(out: Path, method: Method, model: Path) -> Path:
    return out / "increments" / method.name / model.name.split("-", 1)[1]


def _manifest(out: Path, method: Method, model: Path) -> IncrementManifest:
    return read_manifest(_increment(out, method, model), IncrementManifest)


def _keep(
    out: Path, setting: Setting, method: Method, result: StageResult, behind: Behind
) -> StepReport:
    kept = keep_stage(out, setting, method, result, behind)
    return StepReport(
        result.increment.name, kept.increment, kept.detector, result.merged.labels.names,
        result.seconds,
    )  # fmt: skip
