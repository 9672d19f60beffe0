"""Changing a recipe by words such as `comic=0.7` or `comic:cat=kitten` (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from duet.config import parse_config
from duet.errors import ConfigError, did_you_mean
from duet.families.foreign import file_name
from duet.increments.manifest import MANIFEST, IncrementManifest, read_any_manifest
from duet.recipes.recipe import Entry, Recipe


def edited(
    recipe: Recipe, *, scales: Iterable[str] = (), aliases: Iterable[str] = (),
    drops: Iterable[str] = (), counts: Iterable[str] = (),
) -> Recipe:  # fmt: skip
    """Return the recipe with the changes applied to the entries that they name.

    Args:
        recipe: Names may still be missing; manifests are then asked.
        scales: `NAME=FACTOR`.
        aliases: `NAME:OLD=NEW`.
        drops: `NAME:CLASS`.
        counts: `NAME=IMAGES`.

    Raises:
        ConfigError: A word has another form, or names no model of the recipe.
    """
    for word in scales:
        name, factor = _pair(word, "=", "--scale", "NAME=FACTOR")
        recipe = change(recipe, name, _scaled(factor), "--scale")
    for word in counts:
        name, images = _pair(word, "=", "--count", "NAME=IMAGES")
        recipe = change(recipe, name, _counted(images), "--count")
    for word in aliases:
        name, rest = _pair(word, ":", "--alias", "NAME:OLD=NEW")
        recipe = change(recipe, name, _renamed(*_pair(rest, "=", "--alias", "OLD=NEW")), "--alias")
    for word in drops:
        name, label = _pair(word, ":", "--drop", "NAME:CLASS")
        recipe = change(recipe, name, _dropped(label), "--drop")
    return recipe


def change(
    recipe: Recipe, name: str, changes: Callable[[Entry], dict[str, Any]], option: str
) -> Recipe:
    """Change keys of the entry called ``name``; they must be as good as those of a file.

    Raises:
        ConfigError: There is no such entry, with the nearest name, or it is not valid any more.
    """
    names = [entry_name(entry) for entry in recipe.increments]
    if name not in names:
        raise ConfigError(
            f"no model '{name}' in this merge{did_you_mean(name, names)}",
            where=option,
            remedy=f"its models: {', '.join(names)}",
        )
    entries = tuple(
        parse_config(Entry, entry.model_dump() | changes(entry), where=option)
        if known == name
        else entry
        for known, entry in zip(names, recipe.increments, strict=True)
    )
    return recipe.model_copy(update={"increments": entries})


def entry_name(entry: Entry) -> str:
    """Return the name of an entry: given, or its increment's, or its file's."""
    path = Path(entry.path)
    if entry.name:
        return entry.name
    if (path / MANIFEST).is_file():
        manifest = read_any_manifest(path)
        if isinstance(manifest, IncrementManifest):
            return manifest.name
        if len(manifest.parts) == 1:
            return manifest.parts[0].increment
    return file_name(path) if path.is_file() else path.name


def _scaled(factor: str) -> Callable[[Entry], dict[str, Any]]:
    return lambda entry: {"scale": factor}


def _counted(images: str) -> Callable[[Entry], dict[str, Any]]:
    return lambda entry: {"images": images}


def _renamed(old: str, new: str) -> Callable[[Entry], dict[str, Any]]:
    return lambda entry: {"alias": {**entry.alias, old: new}}


def _dropped(label: str) -> Callable[[Entry], dict[str, Any]]:
    return lambda entry: {"drop": (*entry.drop, label)}


def _pair(word: str, separator: str, option: str, form: str) -> tuple[str, str]:
    left, found, right = word.partition(separator)
    if not found or not left.strip() or not right.strip():
        raise ConfigError(f"expected {form}, got '{word}'", where=option)
    return left.strip(), right.strip()
