"""One stage at a time: `duet base` and `duet increment` on the folders of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
    Lineage,
    read_manifest,
)
from duet.increments.store import load_detector, load_increment
from duet.merging.table import METHODS
from duet.runs.chain import (
    Before,
    Setting,
    StageResult,
    run_base,
    run_increment,
    run_independent,
)
from duet.runs.keep import keep_independent, keep_stage
from duet.runs.lab import tidy
from duet.runs.lone import require_company
from duet.series import train_slice
from duet.text import shell_line
from duet.training.config import Method
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
    """

    name: str
    increment: Path
    detector: Path | None
    classes: tuple[str, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "schema": 1,
            "name": self.name,
            "increment": str(self.increment),
            "detector": str(self.detector) if self.detector else None,
            "classes": list(self.classes),
            "seconds": self.seconds,
        }

    def as_text(self) -> str:
        """Return the same for people."""
        if self.detector is None:
            return (
                f"{self.name}: trained in {self.seconds:.0f} s from the start weights, "
                f"{len(self.classes)} classes\n  increment {self.increment}"
            )
        return (
            f"{self.name}: trained in {self.seconds:.0f} s, the detector now knows "
            f"{len(self.classes)} classes\n"
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
        report = _keep(out, setting, method, run_base(setting, method), [], None)
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
    with _locked(out, setting):
        result = run_independent(setting, method, setting.series.increments[0])
        folder = keep_independent(out, setting, method, result)
    name, classes = result.increment.name, result.increment.classes
    return StepReport(name, folder, None, classes, result.seconds)


def learn_increment(out: Path, setting: Setting, method: Method) -> StepReport:
    """Train the one increment of ``setting.series`` on top of what the run folder holds.

    Raises:
        ModelError: The folder holds no base, or the increment is the base.
        ConfigError: The method needs the images of all increments.
    """
    increment = setting.series.increments[0]
    if method.data != "increment":
        raise ConfigError(
            f"'{method.name}' trains on the images of all increments, `duet increment` reads one",
            remedy="use `duet run` for joint training",
        )
    _require_increments(method)
    _require_company(setting)
    with _locked(out, setting):
        models = kept_models(out, method)
        if not models:
            first = shell_line("duet", "base", "SERIES.yaml", "--method", method.name, "--out", out)
            raise ModelError(
                f"no base trained with method '{method.name}'",
                where=str(out),
                remedy=f"run `{first}` first",
            )
        names = [path.name.split("-", 1)[1] for path in models]
        if increment.name in names:
            models = models[: names.index(increment.name)]  # learn it again: resume or new settings
        if not models:
            raise ModelError(
                f"'{increment.name}' is the base of this run folder",
                where=str(out),
                remedy="use `duet base` for the first increment",
            )
        require_whole(models)
        done = [_manifest(out, method, path) for path in models]
        last = load_detector(models[-1])
        require_line(models, done)
        rules = resolve_roles(setting.family)
        earlier = (
            load_detector(models[-2]).state.shared
            if len(models) > 1
            else rules.split_roles(setting.theta_0.tensors, method.head).shared
        )
        images = sum(manifest.images for manifest in done)
        fisher = _fisher(out, method, models, last.state.shared)
        before = Before(last.state, earlier, len(models), images, fisher)
        result = run_increment(setting, method, increment, before)
        return _keep(out, setting, method, result, list(last.manifest.lineage), before)


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
    increment = setting.series.increments[0]
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
    for number, model in enumerate(models, start=1):
        if _number(model) != number or not (model / MANIFEST).is_file():
            raise ModelError(
                f"the detector of stage {number} is missing or has no {MANIFEST}",
                where=str(model),
                remedy="give the command of that stage again: what was trained is kept, and its "
                "folder is written anew",
            )


def require_line(models: Sequence[Path], increments: Sequence[IncrementManifest]) -> None:
    """Refuse a chain one of whose stages was learned again after those that follow it.

    Raises:
        ModelError: With the first detector that was made of another increment than the one here.
    """
    kept = [one.fingerprint() for one in increments]
    for number, model in enumerate(models, start=1):
        lineage = read_manifest(model, DetectorManifest).lineage
        pairs = zip(lineage, kept[:number], strict=False)
        other = next((item.increment for item, here in pairs if item.manifest != here), None)
        if other is not None or len(lineage) != number:
            stage = increments[number - 1].name
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
    out: Path, setting: Setting, method: Method, result: StageResult, lineage: list[Lineage],
    before: Before | None,
) -> StepReport:  # fmt: skip
    previous, number = (before.merged, before.stages + 1) if before else (None, 1)
    kept = keep_stage(out, setting, method, result, lineage, previous, number)
    return StepReport(
        result.increment.name, kept.increment, kept.detector, result.merged.labels.names,
        result.seconds,
    )  # fmt: skip
