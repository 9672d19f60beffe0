"""Checking a merge before any weight is read: what fits, in which geometry, and what results."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from duet.errors import ModelError, together
from duet.increments.state import DetectorState, HeadForm, HeadPart
from duet.labels import LabelSpace
from duet.merging.table import METHODS
from duet.recipes.pairing import Head, kept_apart, pair
from duet.recipes.recipe import Geometry, Recipe
from duet.recipes.sources import REFINEMENT, Source, describe
from duet.vectors.tensors import Tensors
from duet.weights import find


@dataclass(frozen=True)
class Plan:
    """A merge that can be done.

    Attributes:
        recipe: With names, fingerprints and the geometry filled in; θ_0 is a path.
        sources: What is merged, in the recipe's order.
        geometry: See `Recipe.geometry`.
        ancestor: Position of the increment that all others were trained from, in the independent
            geometry; its merged weights take the place of θ_0. None: they started from θ_0.
        heads: Head parts of the result, and which parts of the sources make them.
        remarks: What a user should know before relying on the result.
    """

    recipe: Recipe
    sources: tuple[Source, ...]
    geometry: Geometry
    ancestor: int | None
    heads: tuple[Head, ...]
    remarks: tuple[str, ...]

    @property
    def labels(self) -> LabelSpace:
        """Classes of the result."""
        return LabelSpace(tuple(name for head in self.heads for name in head.classes))

    @property
    def merged(self) -> tuple[Source, ...]:
        """The sources that the method joins: all but the ancestor."""
        return tuple(s for number, s in enumerate(self.sources) if number != self.ancestor)

    def state(
        self, shared: Tensors, buffers: Tensors, parts: tuple[HeadPart, ...]
    ) -> DetectorState:
        """Return a detector of the models' architecture and head form."""
        first = self.sources[0]
        return DetectorState(first.family, first.architecture, first.head, shared, buffers, parts)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data for `--dry-run`."""
        return {
            "method": self.recipe.method,
            "params": self.recipe.params,
            "geometry": self.geometry,
            "starts_from": "θ_0" if self.ancestor is None else self.sources[self.ancestor].name,
            "classes": list(self.labels),
            "sources": [
                {
                    "name": s.name, "path": s.entry.path, "kind": s.kind, "scale": s.entry.scale,
                    "classes": list(s.classes), "fingerprint": s.fingerprint,
                }
                for s in self.sources
            ],
            "remarks": list(self.remarks),
        }  # fmt: skip


def make_plan(recipe: Recipe, *, head: HeadForm = "towers", trust: bool = False) -> Plan:
    """Read the facts of all sources and check that they fit together.

    Args:
        recipe: What to merge and how.
        head: Head form in which foreign models are read.
        trust: See `duet.recipes.sources.describe`.

    Raises:
        ModelError: With everything that does not fit, at once.
        ConfigError: Aliases or drops name unknown classes, or there are no such start weights.
    """
    sources = tuple(describe(entry, head=head, trust=trust) for entry in recipe.increments)
    _require_fit(sources)
    kept = tuple[str, ...]()
    if recipe.keep_apart:
        sources, kept = kept_apart(sources)
    geometry, ancestor = recipe.geometry, None
    if geometry is None:
        geometry = _geometry(sources)
    _require_refinable(sources, geometry)
    if geometry == "independent":
        ancestor = _ancestor(sources)
        _require_counts(recipe, sources)
    heads = pair(sources, geometry, ancestor)
    entries = tuple(source.entry for source in sources)
    weights = recipe.weights and str(find(recipe.weights))
    update = {"increments": entries, "geometry": geometry, "weights": weights}
    fixed = recipe.model_copy(update=update)
    remarks = (
        *kept,
        *_remarks(fixed, sources, geometry, ancestor),
        *(remark for head in heads for remark in head.remarks(sources)),
    )
    return Plan(fixed, _followed(sources), geometry, ancestor, heads, remarks)


def require_weights(plan: Plan) -> None:
    """Refuse a plan that needs θ_0 and does not name it.

    Raises:
        ModelError: Names who needs it.
    """
    if plan.recipe.weights is not None:
        return
    kept = [source.name for source in plan.sources if source.base is not None]
    if kept:
        raise ModelError(
            f"task vectors need the start weights θ_0 they belong to: {', '.join(kept)}",
            remedy="give --weights FILE, or a name of `duet weights ls`",
        )
    if "start" in METHODS[plan.recipe.method].needs:
        free = [name for name, row in METHODS.items() if "start" not in row.needs]
        raise ModelError(
            f"'{plan.recipe.method}' adds task vectors to start weights θ_0, which are not given",
            remedy="give --weights FILE (the model that all were fine-tuned from), or choose a "
            f"method without it: {', '.join(free)}",
        )


def _require_fit(sources: Sequence[Source]) -> None:
    """Compare family, architecture, head, base and names; all problems at once."""
    problems = []
    first = sources[0]
    for other in sources[1:]:
        for fact in ("family", "architecture", "head"):
            a, b = getattr(first, fact), getattr(other, fact)
            if a != b:
                problems.append(f"{fact}: '{first.name}' has {a}, '{other.name}' has {b}")
    bases = {source.base: source.name for source in sources if source.base is not None}
    if len(bases) > 1:
        told = ", ".join(f"'{name}' from {base[:12]}…" for base, name in bases.items())
        problems.append(f"base: trained from different start weights: {told}")
    names = [source.name for source in sources]
    problems += [
        f"name: '{name}' occurs {names.count(name)} times; give one as NEW_NAME=PATH"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if not any(source.classes for source in sources):
        problems.append("classes: every one is left out, so that nothing is left to detect")
    if problems:
        raise ModelError(
            together(problems, summary="these models do not fit together"),
            remedy="merge models of one architecture and head form, trained from the same start "
            "weights",
        )


def _require_counts(recipe: Recipe, sources: Sequence[Source]) -> None:
    """Refuse to weigh models by images where nobody knows of any how many it saw.

    Where some are known, the others count as their mean (`duet.merging.weights.imputed`).
    """
    places = {"method": recipe.params.get("weights"), "batchnorm": recipe.batchnorm.weights}
    asked = [place for place, weights in places.items() if weights == "images"]
    if asked and not any(source.images for source in sources):
        names = [source.name for source in sources]
        raise ModelError(
            f"weights: images, but the number of training images is not known of "
            f"{', '.join(names)}",
            where=" and ".join(asked),
            remedy=f"give all: {' '.join(f'--count {name}=IMAGES' for name in names)} (`images` of "
            "a model in the recipe); or use weights: uniform",
        )


def _require_refinable(sources: Sequence[Source], geometry: Geometry) -> None:
    """Refuse refined rows without a detector before them to be joined with."""
    free = sources if geometry == "independent" else sources[:1]
    names = [source.name for source in free if source.kind == REFINEMENT]
    if names:
        raise ModelError(
            f"{', '.join(names)}: rows of known classes, which are joined with a detector before "
            "them, but here none is",
            remedy="merge in order (--geometry sequential), what was refined first",
        )


def _followed(sources: Sequence[Source]) -> tuple[Source, ...]:
    """Let refinements follow what the recipe renames and leaves out of the models before them."""
    alias, drop, found = dict[str, str](), list[str](), list[Source]()
    for source in sources:
        entry = source.entry
        if source.kind == REFINEMENT:
            named = {old: new for old, new in alias.items() if old in source.refines}
            gone = (name for name in drop if name in source.refines)
            changes = {"alias": named | entry.alias, "drop": (*entry.drop, *gone)}
            source = replace(source, entry=entry.model_copy(update=changes))
        else:
            alias |= entry.alias
            drop += entry.drop
        found.append(source)
    return tuple(found)


def _geometry(sources: Sequence[Source]) -> Geometry:
    """Tell from the manifests how the sources were trained."""
    chained = [source for source in sources if source.parent is not None]
    if [source.kind for source in sources] == ["base"]:
        return "sequential"  # nothing to merge yet
    if not chained or (len({source.parent for source in chained}) == 1 and len(chained) > 1):
        return "independent"
    expected = [source.index for source in sources] == list(range(len(sources)))
    if expected and sources[0].parent is None and all(s.parent for s in sources[1:]):
        return "sequential"
    got = ", ".join(f"{source.name} ({source.kind} {source.index})" for source in sources)
    raise ModelError(
        f"increments must be the base and what followed it, in order; got {got}",
        remedy="an increment is trained from the merged detector before it, so none should be left "
        "out in between; --geometry sequential or independent merges them all the same",
    )


def _ancestor(sources: Sequence[Source]) -> int | None:
    """Return the base, or the detector, that several increments were trained from."""
    parents = {source.parent for source in sources if source.parent is not None}
    bases = [number for number, source in enumerate(sources) if is_root(source, parents)]
    if len(parents) == 1 and len(bases) == 1 and len(sources) > 1:
        return bases[0]
    return None


def is_root(source: Source, parents: Collection[str | None]) -> bool:
    """Tell whether increments with these parents may have grown from a source."""
    return source.kind == "base" or (source.state is not None and source.state in parents)


def _remarks(
    recipe: Recipe, sources: Sequence[Source], geometry: Geometry, ancestor: int | None
) -> list[str]:
    remarks = [
        f"no class is left of '{source.name}', but its weights count as before"
        for source in sources
        if source.entry.drop and not source.classes and source.kind != REFINEMENT
    ]
    parents = {source.parent for source in sources}
    if geometry == "independent" and ancestor is None and len(parents) > 1:
        remarks.append(
            "some increments were trained on top of others, yet are merged as if all had started "
            "from θ_0: what they share counts more than once"
        )
    indices = [source.index for source in sources]
    if geometry == "sequential" and indices != list(range(len(sources))):
        remarks.append(
            "increments are missing in between: later ones were trained on top of them, so the "
            "result is not what training without them would give"
        )
    if METHODS[recipe.method].ordered and geometry == "independent" and len(sources) > 2:
        remarks.append(f"the order of the increments matters to '{recipe.method}'")
    return remarks
