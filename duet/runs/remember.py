"""What each stage leaves beside its increment: the evaluation of the detector after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from duet.devices import parse_device
from duet.evaluation.ap import ClassAP
from duet.evaluation.deployment import load_deployed
from duet.evaluation.histograms import still_above
from duet.families.foreign import is_foreign
from duet.increments.manifest import DetectorManifest, IncrementManifest, read_manifest
from duet.increments.scores import ScoreMap
from duet.increments.state import DetectorState
from duet.recipes.edits import kept_recipe
from duet.recipes.find import Finder
from duet.recipes.recipe import Entry
from duet.results.remembered import Remembered, keep_evaluation, remembered
from duet.runs.cells import cell_of
from duet.runs.deployed import deployment_of
from duet.runs.evaluator import Evaluator
from duet.runs.setting import Setting
from duet.series import Increment

EVALUATIONS = "evaluations"
"""Folder of a run where evaluations are kept, see `Evaluator`."""


def evaluator_of(out: Path, setting: Setting, image_size: int) -> Evaluator:
    """Return what measures the detectors of one stage, and keeps it in the run folder."""
    device = parse_device(setting.schedule.device).torch_name
    return Evaluator(out / EVALUATIONS, image_size, setting.lab.asked, device=device)


def measure_own(evaluator: Evaluator, setting: Setting, state: DetectorState) -> ClassAP:
    """Measure the detector after the last increment of a series in the domain of that increment.

    Of all classes that it knows and that are labelled there.
    """
    increment = setting.series.increments[-1]
    domain = setting.series.domain(increment.domain)
    scores = evaluator(state, domain.evaluate(domain.known(state.labels)))
    return scores.covering(increment.classes)


def remember_stage(
    out: Path, folder: Path, state: DetectorState, increment: Increment, scores: ClassAP, split: str
) -> None:
    """Keep beside an increment what the detector after it finds of it, in its own domain.

    Args:
        out: Run folder, which holds the file that ``scores`` names.
        folder: Increment folder.
        state: The detector after its stage.
        increment: What was learned.
        scores: Of the detector in the increment's domain.
        split: Of the images.
    """
    assert scores.seen is not None
    seen = load_deployed(out / scores.seen).of(increment.classes)
    shows = deployment_of(seen, state.scores, increments_of(state))
    cell = cell_of(
        scores, increment.classes, shows,
        domain=increment.domain, increment=increment.name, taught=True, split=split,
    )  # fmt: skip
    keep_evaluation(
        folder,
        increment=read_manifest(folder, IncrementManifest).fingerprint(),
        fingerprint=state.fingerprint(),
        cell=cell,
        seen=seen,
    )


def recollect(
    folder: Path, manifest: DetectorManifest, tell: Callable[[str], None]
) -> dict[str, Remembered]:
    """Return what the increments of a detector remember of their stages, as far as they are near.

    Args:
        folder: The detector's folder.
        manifest: Its manifest.
        tell: Told of what is damaged.

    Returns:
        Name of each increment that remembers something -> what, in the order of the lineage.
    """
    finder, entries, found = Finder(folder), _entries(folder, manifest), {}
    for item in manifest.lineage:
        entry = entries.get(item.manifest)
        place = finder.entry(entry) if entry is not None else finder.manifest(item.manifest)
        kept = remembered(place, item.manifest, tell) if place is not None else None
        if kept is not None:
            found[item.increment] = kept
    return found


def not_near(folder: Path, manifest: DetectorManifest) -> dict[str, Path]:
    """Return the increments of a detector whose folders, and memories with them, were not found.

    Args:
        folder: The detector's folder.
        manifest: Its manifest.

    Returns:
        Name of each that the recipe names -> where it looks for it. A model of another program
        remembers nothing.
    """
    finder, entries = Finder(folder), _entries(folder, manifest)
    named = {item.increment: entries.get(item.manifest) for item in manifest.lineage}
    return {
        name: finder.path(entry)
        for name, entry in named.items()
        if entry is not None and not is_foreign(Path(entry.path)) and finder.entry(entry) is None
    }


def _entries(folder: Path, manifest: DetectorManifest) -> dict[str | None, Entry]:
    """Return fingerprint -> what the recipe says of it; nothing if there is no recipe."""
    recipe = kept_recipe(manifest, folder) if manifest.recipe is not None else None
    return {one.fingerprint: one for one in recipe.increments} if recipe is not None else {}


def found_without(
    kept: Remembered, then: Mapping[str, ScoreMap], now: Mapping[str, ScoreMap]
) -> int:
    """Return how many objects that were found would be if score maps had stayed as they were.

    Args:
        kept: Of a stage.
        then: Score maps of the detector after it, by class name.
        now: Of a later detector, whose deployed scores are those of then.
    """
    found = 0.0
    for name, shown in kept.cell.deployed.classes.items():
        fall = then.get(name, ScoreMap()).fall(now.get(name, ScoreMap()), shown.threshold)
        found += still_above(kept.scores[name].right, shown.threshold, fall)
    return round(found)


def increments_of(state: DetectorState) -> Mapping[str, str]:
    """Return class name -> the increment that brought it."""
    return {name: part.increment for part in state.parts for name in part.classes}
