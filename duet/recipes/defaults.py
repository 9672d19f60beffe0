"""What a merge takes that nobody says: the method of the last increment, θ_0 by its fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from duet.config import load_yaml, parse_config
from duet.errors import ConfigError
from duet.increments.manifest import IncrementManifest, read_any_manifest
from duet.recipes.find import start_of
from duet.recipes.recipe import Entry, Recipe, load_recipe
from duet.recipes.sources import is_source


def recipe_of(
    models: Sequence[Entry] = (),
    *,
    file: Path | None = None,
    method: str | None = None,
    params: Mapping[str, Any] | None = None,
    batchnorm: str | None = None,
    geometry: str | None = None,
    weights: str | Path | None = None,
    images: str | Path | None = None,
    architecture: str | None = None,
    keep_apart: bool = False,
) -> Recipe:
    """Return the recipe of a merge: what is given, else what the file says, else the defaults.

    Args:
        models: What to merge, oldest first; default those of the file.
        file: Recipe YAML.
        method: Merge method; default the last increment's own, of whole models without θ_0 average.
        params: Parameters of the method; another method drops those of the file.
        batchnorm: Rule for BatchNorm statistics; default as the method's.
        geometry: See `Recipe`.
        weights: θ_0, by name or path; default the one that the increments' fingerprints name, if it
            is near: noted in their run folder, shipped with duet, or downloaded.
        images: Unlabelled, for methods that learn.
        architecture: The only one that a foreign file may be.
        keep_apart: See `Recipe`.

    Raises:
        ConfigError: There is nothing to merge, or something of it is not valid.
        ModelError: A model cannot be read.
    """
    changes = {
        "increments": list(models), "weights": weights and str(weights), "geometry": geometry,
        "batchnorm": batchnorm and {"rule": batchnorm}, "keep_apart": keep_apart,
    }  # fmt: skip
    changes = {key: value for key, value in changes.items() if value}
    if file is not None:
        said = load_yaml(file) or {}
        changes |= _method(said if isinstance(said, dict) else {}, method, params)
        recipe = load_recipe(file, changes)
    elif models:
        recipe = _without_file(changes, [Path(entry.path) for entry in models], method, params)
    else:
        raise ConfigError(
            "nothing to merge", where="duet merge", remedy="give SOURCES, or --recipe FILE"
        )
    return _with(recipe, images, architecture)


def _with(recipe: Recipe, images: str | Path | None, architecture: str | None) -> Recipe:
    """Return the recipe with images and an architecture for all of its models, where given."""
    if images is not None:
        adapt = recipe.adapt.model_copy(update={"images": str(images)})
        recipe = recipe.model_copy(update={"adapt": adapt})
    if architecture is not None:
        only = {"architecture": architecture}
        entries = tuple(entry.model_copy(update=only) for entry in recipe.increments)
        recipe = recipe.model_copy(update={"increments": entries})
    return recipe


def _method(
    data: Mapping[str, Any], method: str | None, params: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return `method` and `params` with the changes; a new method drops old parameters."""
    if not method and not params:
        return {}
    before = data.get("method", "duet")
    kept = dict(data.get("params") or {}) if (method or before) == before else {}
    return {"method": method or before, "params": kept | dict(params or {})}


def _without_file(
    changes: dict[str, Any],
    paths: Sequence[Path],
    method: str | None,
    params: Mapping[str, Any] | None,
) -> Recipe:
    """Take method and BatchNorm rule from the last increment, unless something else is given."""
    own: dict[str, Any] = {}
    manifests = [
        read_any_manifest(path) if path.is_dir() and is_source(path) else None for path in paths
    ]
    last = manifests[-1]
    if isinstance(last, IncrementManifest):
        config = last.config.get("method")
        own = dict(config) if isinstance(config, dict) else {}
    data = {"batchnorm": own.get("batchnorm", {}), **own.get("merge", {}), **changes}
    data |= _method(data, method, params)
    known = next((one for one in manifests if isinstance(one, IncrementManifest)), None)
    if "weights" not in data and known is not None:
        start = start_of(known.family, known.head, known.base, paths)
        data |= {"weights": str(start)} if start is not None else {}
    if "method" not in data and "weights" not in data:
        data["method"] = "average"  # of whole models: what can be done without θ_0
    return parse_config(Recipe, data, where="merge options")
