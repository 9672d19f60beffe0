"""The chains that a run folder keeps, read from its folders: in order, whole, and in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from duet.errors import ConfigError, ModelError
from duet.increments.manifest import (
    MANIFEST,
    DetectorManifest,
    IncrementManifest,
    read_manifest,
)
from duet.recipes.edits import kept_recipe
from duet.recipes.find import find_start
from duet.runs.keep import start_lineage
from duet.text import shell_line
from duet.training.config import Strategy
from duet.trees import resolved


def kept_models(out: Path, strategy: Strategy) -> list[Path]:
    """Return the detector folders of a strategy, oldest first; one may be damaged or be missing."""
    return detectors_in(out / "models" / strategy.name)


def detectors_in(folder: Path) -> list[Path]:
    """Return the detector folders of a chain, oldest first, as `kept_models`."""
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


def strategies_with_start(out: Path) -> list[str]:
    """Return the strategies whose chains in a run folder go on from a detector."""
    return sorted({path.parent.name for path in (out / "models").glob("*/0-*")})


def require_increments(strategy: Strategy) -> None:
    """Refuse a strategy whose stages leave no increment, see `keep_stage`."""
    if strategy.old_part != "kept":
        raise ConfigError(
            f"'{strategy.name}' trains the old head rows and keeps no increments, which one stage "
            "after the other is learned from",
            remedy="use `duet run`, which learns all stages in one go",
        )


def detectors_before(out: Path, strategy: Strategy, name: str) -> list[Path]:
    """Return the detectors of a chain before an increment, oldest first; see `kept_models`.

    Raises:
        ModelError: There is none, or one is missing.
    """
    models = kept_models(out, strategy)
    if not models:
        first = shell_line("duet", "base", "SERIES.yaml", "--strategy", strategy.name, "--out", out)
        raise ModelError(
            f"no base trained with strategy '{strategy.name}'",
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


def chain_kept(out: Path, strategy: Strategy, name: str | None = None) -> KeptChain | None:
    """Return what an increment is learned on in a chain that goes on from a detector.

    Args:
        out: Run folder.
        strategy: Whose chain.
        name: The increment; None if the chain is begun again, which mends its first detector.

    Returns:
        None if the folder has no such chain.

    Raises:
        ModelError: A detector of it is missing, or it is called as the increment.
        ConfigError: The strategy keeps no increments.
    """
    models = kept_models(out, strategy)
    if (start := start_of(models)) is None:
        return None
    require_increments(strategy)
    before = detectors_before(out, strategy, name) if name is not None else models
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
        brought = [item.manifest for item in start_lineage(start)]
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


def increment_of(out: Path, strategy: Strategy, model: Path) -> Path:
    """Return the folder of the increment that was merged into a detector of a chain last."""
    return out / "increments" / strategy.name / model.name.split("-", 1)[1]


def manifest_of(out: Path, strategy: Strategy, model: Path) -> IncrementManifest:
    """Return its manifest; errors as `read_manifest`."""
    return read_manifest(increment_of(out, strategy, model), IncrementManifest)
