"""Dropping classes of a detector: exact, and without θ_0, increments or images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from duet.errors import ConfigError, DuetError, did_you_mean, together
from duet.increments.manifest import DetectorManifest, read_any_manifest
from duet.increments.state import DetectorState
from duet.increments.store import load_detector, load_traces, save_detector
from duet.merging.trace import MergeTrace
from duet.recipes.edits import kept_recipe
from duet.recipes.model import Model
from duet.recipes.pairing import group
from duet.recipes.recipe import Entry, Recipe
from duet.recipes.refined import cut_to
from duet.recipes.words import entry_name
from duet.recipes.write import stored_recipe
from duet.trees import resolved


@dataclass(frozen=True)
class Dropped:
    """A detector without some of its classes.

    Attributes:
        state: It.
        manifest: Its manifest; paths of the recipe are relative to the folder that was asked for.
        classes: What was dropped, by increment.
        gone: Increments of which no class is left.
        remarks: What a user should know before relying on the result.
    """

    state: DetectorState
    manifest: DetectorManifest
    classes: Mapping[str, tuple[str, ...]]
    gone: tuple[str, ...]
    remarks: tuple[str, ...]


def drop_classes(
    detector: Path, names: Sequence[str], out: Path, *, overwrite: bool = False
) -> Dropped:
    """Write a detector without some classes; all other weights stay the same to the bit.

    So do the outputs, but for the rounding of a convolution that has fewer rows. The shared tensors
    still hold what the classes taught them. The recipe remembers the drop, so that a later merge
    keeps it.

    Args:
        detector: Detector folder.
        names: Classes to drop, as the detector calls them.
        out: Must not exist or be empty, unless ``overwrite``.
        overwrite: Replace an older detector there.

    Raises:
        ConfigError: Unknown classes, or no class would be left.
        ModelError: The detector is damaged.
        DuetError: ``out`` is in the way, or the file system refuses the write.
    """
    model = Model(load_detector(detector), detector, True, load_traces(detector))
    dropped = without_classes(model, names, out)
    saved = save_detector(
        out, dropped.state, dropped.manifest, traces=model.traces, overwrite=overwrite
    )
    return replace(dropped, manifest=saved)


def without_classes(model: Model, names: Sequence[str], out: Path) -> Dropped:
    """Return a detector without some classes, see `drop_classes`; nothing is written.

    Args:
        model: The detector.
        names: Classes to drop, as the detector calls them.
        out: What paths of the result's recipe shall be relative to.

    Raises:
        ConfigError: Unknown classes, or no class would be left.
    """
    state, manifest = model.state, model.manifest
    _require_droppable(names, tuple(state.labels), str(model.folder))
    left = cut_to(state, [name for name in state.labels if name not in names])
    lost = {one.increment: tuple(n for n in one.classes if n in names) for one in state.parts}
    dropped = {increment: classes for increment, classes in lost.items() if classes}
    recipe = _with_drops(manifest, model.folder, dropped, model.traces)
    saved = DetectorManifest.for_state(
        left, lineage=manifest.lineage, image_size=manifest.image_size, licence=manifest.licence,
        recipe=None if recipe is None else stored_recipe(recipe, out),
    )  # fmt: skip
    still = {part.increment for part in left.parts}
    gone = tuple(name for name in dropped if name not in still)
    return Dropped(left, saved, dropped, gone, tuple(_remarks(gone, manifest, saved)))


def _remarks(
    gone: Sequence[str], before: DetectorManifest, after: DetectorManifest
) -> Iterator[str]:
    for name in gone:
        yield (
            f"no class is left of '{name}', but the shared weights still hold what it taught; "
            "`duet revert` merges without it"
        )
    if before.recipe is not None and after.recipe is None:
        yield (
            "the detector that a class came from cannot be told any more, or a merge without the "
            "class would keep head parts apart that are one here; so the result keeps no recipe "
            "and cannot be merged again"
        )


def _require_droppable(names: Sequence[str], known: Sequence[str], where: str) -> None:
    unknown = [name for name in dict.fromkeys(names) if name not in known]
    if unknown:
        raise ConfigError(
            together(
                [f"no class '{name}'{did_you_mean(name, known)}" for name in unknown],
                summary="the detector does not know all of these classes",
            ),
            where=where,
            remedy=f"its classes: {', '.join(known)}",
        )
    if set(names) >= set(known):
        raise ConfigError(
            "no class would be left, and a detector needs one",
            where=where,
            remedy=f"keep at least one of: {', '.join(known)}",
        )


def _with_drops(
    manifest: DetectorManifest,
    detector: Path,
    dropped: Mapping[str, Sequence[str]],
    traces: Sequence[MergeTrace],
) -> Recipe | None:
    """Return the recipe with absolute paths and the drops; None if it would merge otherwise."""
    if manifest.recipe is None:
        return None
    recipe = kept_recipe(manifest, detector)
    entries = list(recipe.increments)
    for part, names in dropped.items():
        shares = next((trace.classes for trace in traces if trace.part == part), None)
        if shares is not None:
            if manifest.head != "rows" and _falls_apart(shares.values(), manifest, part, names):
                return None
            places = {entry_name(entry): place for place, entry in enumerate(entries)}
            if not places.keys() >= shares.keys():  # the trace is of another merge
                return None
            for stage, classes in shares.items():
                entry = entries[places[stage]]
                entries[places[stage]] = _without(entry, [n for n in names if n in classes])
            continue
        owner = _owner(entries, part, manifest, detector)
        if owner is None:
            return None
        entries[owner] = _without(entries[owner], names)
    return recipe.model_copy(update={"increments": tuple(entries)}).absolute(detector)


def _falls_apart(
    shares: Iterable[Sequence[str]], manifest: DetectorManifest, part: str, names: Sequence[str]
) -> bool:
    """Tell whether the models of a joined part share no class without ``names``."""
    had = next(entry.classes for entry in manifest.parts if entry.increment == part)
    left = [tuple(n for n in classes if n in had and n not in names) for classes in shares]
    return len(group([(classes,) for classes in left if classes])) > 1


def _without(entry: Entry, names: Sequence[str]) -> Entry:
    """Return an entry that drops classes, which are named as the detector calls them."""
    original = {new: old for old, new in entry.alias.items()}
    more = tuple(original.get(name, name) for name in names)
    alias = {old: new for old, new in entry.alias.items() if old not in more}
    return entry.model_copy(update={"drop": (*entry.drop, *more), "alias": alias})


def _owner(
    entries: Sequence[Entry], part: str, manifest: DetectorManifest, detector: Path
) -> int | None:
    """Return the entry that a head part came from: of its name, or a detector that holds it."""
    names = [entry_name(entry) for entry in entries]
    if part in names:
        return names.index(part)
    parts = {entry.increment for entry in manifest.parts}
    joined = [place for place, name in enumerate(names) if name not in parts]
    if len(joined) == 1:
        return joined[0]
    for place, entry in enumerate(entries):
        try:
            source = read_any_manifest(resolved(detector / entry.path))
        except DuetError:  # moved or gone: the others may tell
            continue
        inside = source.parts if isinstance(source, DetectorManifest) else ()
        if any(one.increment == part for one in inside):
            return place
    return None
