"""How two detectors or increments differ: classes, recipes, weights, statistics."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from duet.errors import ModelError
from duet.families.foreign import is_foreign
from duet.families.table import resolve_roles
from duet.increments.manifest import read_any_manifest
from duet.increments.state import HeadForm, HeadPart
from duet.recipes.edits import kept_recipe
from duet.recipes.find import Finder, find_start, start_of
from duet.recipes.model import Model, manifest_and_folder
from duet.recipes.recipe import Entry, Recipe
from duet.recipes.sources import Opened, Source, describe, describe_state, open_source
from duet.recipes.weight_diff import compare_weights
from duet.recipes.words import entry_name
from duet.vectors.tensors import Tensors
from duet.weights import find
from duet.weights.start import Start


@dataclass(frozen=True)
class Side:
    """One of the two models.

    Attributes:
        source: Facts.
        opened: Tensors, mapped from disk.
        recipe: How it was merged; None for increments and files.
        place: Where it is, in words.
    """

    source: Source
    opened: Opened
    recipe: Recipe | None
    place: str

    @property
    def increments(self) -> tuple[str, ...]:
        """What went into it."""
        lineage = tuple(item.increment for item in self.source.lineage)
        return lineage or tuple(part.increment for part in self.opened.parts)


def compare_models(
    a: Path | Model, b: Path | Model, *, weights: str | Path | None = None, trust: bool = False
) -> dict[str, Any]:
    """Compare two detectors, increment folders or `.pt` files; return JSON-ready data.

    Args:
        a: First one.
        b: Second one.
        weights: θ_0, by name or path; default: what a recipe names, or the shipped weights if they
            are it.
        trust: See `duet.recipes.sources.describe`.

    Raises:
        ModelError: One is not a model or damaged, or ``weights`` is not its θ_0.
        ConfigError: There are no such ``weights``.
    """
    head: HeadForm = _head_of(a) or _head_of(b) or "towers"
    one, other = (_side(path, head, trust) for path in (a, b))
    start, found, remarks = None, None, list[str]()
    alike = _network(one.source) == _network(other.source)
    if alike:
        start, found = _shared_weights(one, other, weights, remarks)
    else:
        told = " and ".join(f"{s.family} {s.architecture}" for s in (one.source, other.source))
        remarks.append(
            f"different architectures ({told}): only classes and recipes can be compared"
        )
    return {
        "schema": 1,
        "a": _about(one),
        "b": _about(other),
        "weights_of_start": str(start) if start is not None else None,
        "classes": _sets(one.source.classes, other.source.classes),
        "increments": _sets(one.increments, other.increments),
        "recipe": _recipe_changes(one.recipe, other.recipe),
        "weights": found,
        "parts": _parts(one.opened.parts, other.opened.parts),
        "statistics": _statistics(one.opened.buffers, other.opened.buffers) if alike else {},
        "remarks": remarks,
    }


def _shared_weights(
    one: Side, other: Side, weights: str | Path | None, remarks: list[str]
) -> tuple[Path | None, dict[str, Any] | None]:
    """Return the file of θ_0 and the comparison of shared weights; None where it is not known."""
    if one.source.head != other.source.head:
        remarks.append(
            f"different head forms ({one.source.head} and {other.source.head}): only tensors that "
            "are shared in both are compared"
        )
    start = find(weights) if weights is not None else _start_of((one, other))
    base = _base(start, (one, other), strict=weights is not None)
    rules = resolve_roles(one.source.family)
    found = compare_weights(
        one.opened.stage, other.opened.stage, base,
        lambda names: rules.layers(names, one.source.architecture),
        same_start=one.source.base == other.source.base,
    )  # fmt: skip
    if found is None:
        remarks.append(
            "an increment alone is a difference to its start weights θ_0, which are not known: "
            "shared weights are not compared (--weights FILE)"
        )
    elif found["total"]["tau_a"] is None:
        remarks.append("start weights θ_0 are not known: no task vectors (--weights FILE)")
    return start if base is not None else None, found


# ---- the two sides ------------------------------------------------------------------------------


def _head_of(model: Path | Model) -> HeadForm | None:
    if isinstance(model, Model):
        return model.manifest.head
    return None if is_foreign(model) else read_any_manifest(model).head


def _side(model: Path | Model, head: HeadForm, trust: bool) -> Side:
    if isinstance(model, Model):
        source = describe_state(model.state, model.manifest, model.folder)
    else:
        source = describe(Entry(path=str(model)), head=head, trust=trust)
    recipe, place = None, model.place if isinstance(model, Model) else str(model)
    if source.kind == "detector":
        manifest, folder = manifest_and_folder(model)
        recipe = kept_recipe(manifest, folder) if manifest.recipe is not None else None
    return Side(source, open_source(source), recipe, place)


def _network(source: Source) -> tuple[str, str]:
    return source.family, source.architecture


def _about(side: Side) -> dict[str, Any]:
    source = side.source
    return {
        "path": side.place, "kind": source.kind, "architecture": source.architecture,
        "head": source.head, "classes": len(source.classes), "fingerprint": source.fingerprint,
    }  # fmt: skip


# ---- θ_0 ----------------------------------------------------------------------------------------


def _start_of(sides: Sequence[Side]) -> Path | None:
    """Return the file with θ_0 that a recipe or a fingerprint leads to."""
    for side in sides:
        source, path = side.source, None
        if side.recipe is not None:
            finder = Finder(source.path)
            found = [finder.entry(entry) for entry in side.recipe.increments]
            path = find_start(side.recipe, source.path, [one for one in found if one is not None])
        elif source.base is not None:
            path = start_of(source.family, source.head, source.base, [source.path])
        if path is not None:
            return path
    return None


def _base(start: Path | None, sides: Sequence[Side], *, strict: bool) -> Tensors | None:
    """Return θ_0's shared tensors; None if they are not known to belong to both sides."""
    if start is None:
        return None
    whole = Start(start, sides[0].source.family)
    shared: Tensors = {}
    for side in sides:
        source = side.source
        shared = whole.shared(source.head)
        got = whole.fingerprint(source.head) if source.base is not None else None
        if got != source.base:
            if not strict:
                return None
            raise ModelError(
                f"'{source.name}' belongs to other start weights: got fingerprint {got}, expected "
                f"{source.base}",
                where=str(start),
                remedy="give the start weights that it was trained from",
            )
    first = sides[0].opened.stage.tensors
    if any(name in first and first[name].shape == shared[name].shape for name in shared):
        return shared
    if strict:
        raise ModelError(
            "no tensor of these start weights fits the models",
            where=str(start),
            remedy=f"give start weights of {sides[0].source.architecture}",
        )
    return None


# ---- facts --------------------------------------------------------------------------------------


def _sets(a: Sequence[str], b: Sequence[str]) -> dict[str, Any]:
    """Compare two ordered sets of names."""
    both = [name for name in a if name in b]
    return {
        "both": both,
        "only_a": [name for name in a if name not in b],
        "only_b": [name for name in b if name not in a],
        "same_order": both == [name for name in b if name in a],
    }


def _recipe_changes(a: Recipe | None, b: Recipe | None) -> list[dict[str, Any]]:
    """Return every setting that differs; paths do not count, nor increments that one side lacks."""
    if a is None or b is None:
        return []
    both = {entry_name(entry) for entry in a.increments} & set(map(entry_name, b.increments))
    one, other = _settings(a, both), _settings(b, both)
    return [
        {"setting": key, "a": one.get(key), "b": other.get(key)}
        for key in dict.fromkeys((*one, *other))
        if one.get(key) != other.get(key)
    ]


def _settings(recipe: Recipe, names: Collection[str]) -> dict[str, Any]:
    """Return the settings of a recipe, and of its increments of these names."""
    statistics = recipe.batchnorm.model_dump(mode="json")
    settings = {
        "method": recipe.method,
        "geometry": recipe.geometry,
        **{f"params.{key}": value for key, value in recipe.params.items()},
        **{f"batchnorm.{key}": value for key, value in statistics.items()},
    }
    for entry in recipe.increments:
        if (name := entry_name(entry)) in names:
            facts = entry.model_dump(include={"scale", "alias", "drop", "fingerprint"}, mode="json")
            settings |= {f"{name}.{key}": value for key, value in facts.items()}
    return settings


def _parts(a: Sequence[HeadPart], b: Sequence[HeadPart]) -> list[dict[str, Any]]:
    """Compare head parts by the name of their increment."""
    one, other = ({part.increment: part for part in parts} for parts in (a, b))
    return [
        {"increment": name, **_part_change(one[name], other[name])} for name in one if name in other
    ]


def _part_change(a: HeadPart, b: HeadPart) -> dict[str, Any]:
    """Return whether the rows of two head parts are the same, and what differs.

    That is the largest difference if their shapes agree, and the classes whose score maps differ.
    """
    scores = [n for n in a.classes if n in b.classes and a.scores.get(n) != b.scores.get(n)]
    shapes = [{name: tensor.shape for name, tensor in p.tensors.items()} for p in (a, b)]
    if shapes[0] != shapes[1]:
        return {"identical": False, "max_difference": None, "scores": scores}
    gaps = [_gap(a.tensors[name], b.tensors[name]) for name in a.tensors]
    same = a.classes == b.classes and all(identical for identical, _ in gaps)
    largest = max((gap for _, gap in gaps), default=0.0)
    return {"identical": same, "max_difference": largest, "scores": scores}


def _statistics(a: Tensors, b: Tensors) -> dict[str, Any]:
    """Return the largest difference of BatchNorm statistics by their kind."""
    found: dict[str, Any] = {}
    for name in a:
        if name not in b or a[name].shape != b[name].shape:
            continue
        same, gap = _gap(a[name], b[name])
        kind = name.rpartition(".")[2]
        row = found.setdefault(kind, {"tensors": 0, "identical": True, "max_difference": 0.0})
        row["tensors"] += 1
        row["identical"] &= same
        row["max_difference"] = max(row["max_difference"], gap)
    return found


def _gap(a: torch.Tensor, b: torch.Tensor) -> tuple[bool, float]:
    """Return whether two tensors have the same bits, and their largest difference."""
    one, other = (t.detach().contiguous().view(-1) for t in (a, b))
    same = a.dtype == b.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))
    largest = float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
    return same, largest
