"""Editing what a detector learned: leave out an increment, or weigh it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from duet.config import parse_config
from duet.errors import ConfigError, ModelError, did_you_mean, together
from duet.increments.manifest import MANIFEST, DetectorManifest
from duet.recipes.find import Finder, find_start
from duet.recipes.model import Model, manifest_and_folder
from duet.recipes.plan import Plan, is_root, make_plan
from duet.recipes.recipe import Recipe
from duet.recipes.sources import FOREIGN, Source
from duet.recipes.words import change, entry_name
from duet.trees import resolved
from duet.weights import find


@dataclass(frozen=True)
class Edit:
    """A detector's merge, changed and ready to be done again.

    Attributes:
        plan: The changed merge.
        exact: No other increment was trained on top of the one that changes, so nothing of its
            old influence is left.
        why: The same in words.
    """

    plan: Plan
    exact: bool
    why: str


def kept_recipe(manifest: DetectorManifest, folder: Path) -> Recipe:
    """Return the recipe that a detector keeps; paths in it are relative to ``folder``.

    Raises:
        ModelError: It keeps none, or one that this duet cannot read.
    """
    if manifest.recipe is None:
        raise ModelError(
            "the detector keeps no recipe, so it cannot be merged again: its method leaves no "
            "increments, or it was written before recipes were kept",
            where=str(folder),
            remedy="merge its increments with `duet merge`; classes can be dropped all the same",
        )
    return parse_config(
        Recipe,
        manifest.recipe,
        where=str(folder / MANIFEST),
        called="the recipe",
        error=ModelError,
        remedy="the manifest was edited, or written by another version of duet",
    )


def located(
    recipe: Mapping[str, Any],
    folder: Path,
    roots: Sequence[Path] = (),
    weights: str | Path | None = None,
    *,
    without: str | None = None,
) -> Recipe:
    """Return a kept recipe with the absolute paths of today.

    What is not at its old path is searched by fingerprint: below ``roots``, among the increments
    of the detector's run folder, and, for θ_0, among the shipped weights.

    Args:
        recipe: `DetectorManifest.recipe`.
        folder: The detector's folder.
        roots: Folders to search.
        weights: θ_0, by name or path; default: what the recipe names.
        without: Name of an entry that need not exist.

    Raises:
        ModelError: With everything that cannot be found, and the option that helps.
        ConfigError: A root is no folder, or there are no such ``weights``.
    """
    parsed = parse_config(Recipe, recipe, where=str(folder)).absolute(folder)
    finder = Finder(folder, roots)
    entries, found, missing = [], list[Path](), []
    for entry in parsed.increments:
        path = finder.entry(entry)
        if path is not None:
            found.append(path)
            entry = entry.model_copy(update={"path": str(path)})
        elif entry_name(entry) != without:
            known = f" (fingerprint {entry.fingerprint[:12]}…)" if entry.fingerprint else ""
            missing.append(f"'{entry_name(entry)}'{known}: not at {entry.path}")
        entries.append(entry)
    helps = ["--increments DIR searches other folders"] if missing else []
    start = find(weights) if weights else find_start(parsed, folder, found)
    if start is None and parsed.weights is not None:
        missing.append(f"start weights θ_0: not at {parsed.weights}")
        helps.append("--weights FILE names θ_0")
    if missing:
        raise ModelError(
            together(missing, summary="parts of this detector cannot be found"),
            where=str(folder),
            remedy="; ".join(helps),
        )
    theta_0 = str(resolved(start)) if start else None
    changes = {"increments": tuple(entries), "weights": theta_0, "mend": None}
    return parsed.model_copy(update=changes)


# ---- leaving out, weighing again ----------------------------------------------------------------


def revert(
    detector: Path | Model,
    increment: str,
    *,
    roots: Sequence[Path] = (),
    weights: str | Path | None = None,
    trust: bool = False,
) -> Edit:
    """Plan a detector's merge without one of its increments, whose folder may be gone.

    Args:
        detector: Detector with a recipe, in a folder or in memory.
        increment: Name of an increment or model in that recipe.
        roots: See `located`.
        weights: See `located`.
        trust: See `duet.recipes.sources.describe`.

    Raises:
        ConfigError: No such increment, or nothing would be left.
        ModelError: Others were trained on top of it and on nothing else; files are missing; or see
            `make_plan`.
    """
    manifest, folder = manifest_and_folder(detector)
    recipe, number = _place(manifest, folder, increment)
    if len(recipe.increments) == 1:
        raise ConfigError(
            f"'{increment}' is all that this detector is made of",
            where=str(folder),
            remedy="delete its folder, or drop some of its classes with `duet drop-class`",
        )
    found = located(recipe.model_dump(), folder, roots, weights, without=increment)
    rest = tuple(entry for place, entry in enumerate(found.increments) if place != number)
    found = found.model_copy(update={"increments": rest})
    plan = make_plan(found, head=manifest.head, trust=trust)
    later, rooted = _trained_on_top(plan.sources, number, plan.geometry)
    if later and not rooted:
        raise ModelError(
            f"{_these(later)} trained on top of '{increment}', where it all began",
            where=str(folder),
            remedy="drop its classes with `duet drop-class`; to be rid of what it taught, train "
            "the others again without it",
        )
    if plan.geometry == "independent":
        plan = make_plan(_shortened(plan, number), head=manifest.head, trust=trust)
    last = found.geometry == "sequential" and number == len(rest)
    plan = plan if last else _scored_before(plan, manifest)
    return Edit(plan, not later, _why_reverted(increment, later, last=last))


def _why_reverted(increment: str, later: Sequence[str], *, last: bool) -> str:
    if later:
        return (
            f"{_these(later)} trained on top of '{increment}', whose influence stays in them: not "
            "what training without it would give"
        )
    if last:
        return f"'{increment}' was the last of the chain: this is the detector before it"
    return f"nothing was trained on top of '{increment}': this is a merge that never had it"


def rescale(
    detector: Path | Model,
    increment: str,
    factor: float,
    *,
    roots: Sequence[Path] = (),
    weights: str | Path | None = None,
    trust: bool = False,
) -> Edit:
    """Plan a detector's merge with another weight of one increment.

    Args:
        detector: Detector with a recipe, in a folder or in memory.
        increment: Name of an increment or model in that recipe.
        factor: Replaces the factor so far; 1 counts in full.
        roots: See `located`.
        weights: See `located`.
        trust: See `duet.recipes.sources.describe`.

    Raises:
        ConfigError: No such increment, or the factor is out of range.
        ModelError: Files are missing; or see `make_plan`.
    """
    manifest, folder = manifest_and_folder(detector)
    recipe, number = _place(manifest, folder, increment)
    recipe = change(recipe, increment, lambda entry: {"scale": factor}, f"factor of '{increment}'")
    found = located(recipe.model_dump(), folder, roots, weights)
    plan = make_plan(found, head=manifest.head, trust=trust)
    others = [source for place, source in enumerate(plan.sources) if place != number]
    later, _ = _trained_on_top(others, number, plan.geometry)
    if factor == 1:
        return Edit(plan, True, f"'{increment}' counts in full, as it was trained")
    plan = _scored_before(plan, manifest)
    if later:
        why = (
            f"{_these(later)} trained on top of '{increment}' as it was, whose influence stays in "
            "them"
        )
    else:
        why = f"nothing was trained on top of '{increment}'"
    return Edit(plan, not later, why)


def _scored_before(plan: Plan, manifest: DetectorManifest) -> Plan:
    """Remark what belonged to the detector before it changed: score maps, and its mending."""
    remarks = []
    if any(part.scores for part in manifest.parts):
        remarks.append(
            "score maps and thresholds are those of the detector before this; `duet calibrate` on "
            "the result fits them to it"
        )
    if (manifest.recipe or {}).get("mend"):
        remarks.append("the detector was mended after its merge; `duet mend` mends this one")
    return replace(plan, remarks=(*plan.remarks, *remarks))


def _place(manifest: DetectorManifest, folder: Path, increment: str) -> tuple[Recipe, int]:
    """Return the recipe that a manifest keeps, and the place of an entry in it."""
    recipe = kept_recipe(manifest, folder)
    names = [entry_name(entry) for entry in recipe.increments]
    if increment in names:
        return recipe, names.index(increment)
    inner = any(item.increment == increment for item in manifest.lineage)
    raise ConfigError(
        f"no increment '{increment}' in this merge{did_you_mean(increment, names)}",
        where=str(folder),
        remedy=f"it came inside a detector ({', '.join(names)}): change that one and merge again"
        if inner
        else f"its increments: {', '.join(names)}",
    )


def _trained_on_top(
    others: Sequence[Source], place: int, geometry: str
) -> tuple[tuple[str, ...], bool]:
    """Name the sources that were trained on top of the one that stands at ``place``.

    Only facts of the others are used: the one in question may be lost.

    Returns:
        Their names, and whether the base that they stand on is among ``others``.
    """
    grown = [source for source in others if source.parent is not None]
    parents = {source.parent for source in grown}
    whole = ("base", "detector", FOREIGN) if geometry == "sequential" else ()
    rooted = any(source.kind in whole or is_root(source, parents) for source in others)
    if geometry == "independent" and len({source.parent for source in grown}) == 1:
        # All grew from one base, and know nothing of each other.
        return () if rooted else tuple(source.name for source in grown), rooted
    return tuple(s.name for s in others[place:] if s.parent is not None), rooted


def _shortened(plan: Plan, number: int) -> Recipe:
    """Return the recipe without the weights of the stage that stood at ``number``."""
    recipe, changes = plan.recipe, dict[str, Any]()
    counts = recipe.batchnorm.weights
    if isinstance(counts, tuple):
        kept = (*counts[:number], *counts[number + 1 :])
        changes["batchnorm"] = recipe.batchnorm.model_copy(update={"weights": kept})
    given = recipe.params.get("weights")
    if isinstance(given, Sequence) and not isinstance(given, str):
        # A common base is merged into, not weighed.
        place = number - (plan.ancestor is not None and plan.ancestor < number)
        changes["params"] = {**recipe.params, "weights": [*given[:place], *given[place + 1 :]]}
    if len(plan.sources) == 1 and plan.sources[0].kind == "base":
        changes["geometry"] = "sequential"  # the base itself, not a merge of it alone
    return recipe.model_copy(update=changes)


def _these(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'was' if len(names) == 1 else 'were'}"
