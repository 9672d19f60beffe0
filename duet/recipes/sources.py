"""What can be merged: increment folders, detector folders, and foreign models.

Facts are read first, from manifests alone; weights are mapped into memory afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from duet.errors import ConfigError, ModelError, did_you_mean
from duet.families.foreign import (
    file_name,
    image_size_of,
    is_foreign,
    read_foreign,
)
from duet.families.opened import ForeignModel
from duet.families.rows import drop_classes, rename_classes
from duet.families.table import resolve_roles
from duet.increments.manifest import (
    MANIFEST,
    DetectorManifest,
    IncrementManifest,
    Lineage,
    read_any_manifest,
)
from duet.increments.scores import ScoreMap
from duet.increments.state import DetectorState, HeadForm, HeadPart
from duet.increments.store import load_detector, load_increment
from duet.merging.operand import Operand
from duet.recipes.recipe import Entry
from duet.text import shown
from duet.vectors.tensors import Tensors

FOREIGN, REFINEMENT = "foreign", "refinement"


@dataclass(frozen=True)
class Source:
    """Facts about one model, known before a weight is read.

    Attributes:
        entry: What the recipe says about it; the name is filled in.
        kind: ``base``, ``increment`` or `REFINEMENT` (kept stages), ``detector``, or `FOREIGN`.
        family: Detector family.
        architecture: Architecture within the family.
        head: Head form.
        parts: Class names of each head part after aliases and drops, in the order of the outputs;
            a refinement has none.
        base: Fingerprint of θ_0; None for whole models.
        parent: Fingerprint of the detector that training started from; None for θ_0.
        index: Position in its series; 0 for whole models.
        images: Training images; 0 if not known.
        image_size: Side of the training images in pixels.
        licence: SPDX identifier.
        fingerprint: Of the manifest, or of the foreign files.
        lineage: What went into a detector.
        merge: How the run merged the stages of a kept increment, see `merge_of`; None elsewhere.
        refines: Known classes whose rows a refinement holds, as its folder calls them.
        state: Fingerprint of a whole model's tensors and what they mean, as in ``parent``.
        detector: A foreign model, which is read to be described; None for duet's own folders.
    """

    entry: Entry
    kind: str
    family: str
    architecture: str
    head: HeadForm
    parts: tuple[tuple[str, ...], ...]
    base: str | None
    parent: str | None
    index: int
    images: int
    image_size: int
    licence: str
    fingerprint: str
    lineage: tuple[Lineage, ...] = ()
    merge: dict[str, Any] | None = None
    refines: tuple[str, ...] = ()
    state: str | None = None
    detector: DetectorState | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Name in the merge."""
        return self.entry.name or ""

    @property
    def path(self) -> Path:
        """Folder or file."""
        return Path(self.entry.path)

    @property
    def classes(self) -> tuple[str, ...]:
        """All class names, part after part."""
        return tuple(name for part in self.parts for name in part)


@dataclass(frozen=True)
class Opened:
    """The tensors of a source, mapped from disk.

    Attributes:
        stage: Shared tensors.
        buffers: BatchNorm statistics and counters of the shared layers.
        parts: Head parts, or the rows of a refinement, with aliases and drops applied.
        trained: Parts in the detector after its stage, or refined rows, as they were trained.
        rescored: Score maps of older classes in the detector after its stage.
        refit: The last part re-fit on merged weights, if the increment keeps one.
        refit_on: Fingerprint of the merged shared tensors that it was re-fit on.
    """

    stage: Operand
    buffers: Tensors
    parts: tuple[HeadPart, ...]
    refit: HeadPart | None = None
    refit_on: str | None = None
    trained: tuple[HeadPart, ...] = ()
    rescored: Mapping[str, ScoreMap] = field(default_factory=dict)


def merge_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a recipe's JSON-ready data decides a merge of given increments."""
    return {key: settings.get(key) for key in ("method", "params", "batchnorm")}


def describe(entry: Entry, *, head: HeadForm, trust: bool = False) -> Source:
    """Read the facts of one source: its manifest, or a foreign model itself.

    Args:
        entry: What the recipe says.
        head: Head form in which a foreign model is read.
        trust: Unpickle a `.pt` without the guarded door's checks (dangerous).

    Raises:
        ModelError: Not a source, damaged, or not the one that the recipe's fingerprint names.
        ConfigError: Aliases or drops name classes that it does not have.
    """
    path = Path(entry.path)
    source = (
        _foreign(entry, head, trust) if is_foreign(path) else _kept(entry, read_any_manifest(path))
    )
    if entry.fingerprint not in (None, source.fingerprint):
        raise ModelError(
            f"not the one in the recipe: got fingerprint {source.fingerprint}, expected "
            f"{entry.fingerprint}",
            where=entry.path,
            remedy="give the path of the original, or remove 'fingerprint' from the recipe",
        )
    if entry.architecture not in (None, source.architecture):
        raise ModelError(
            f"a model of the architecture {source.architecture}, not {shown(entry.architecture)}",
            where=entry.path,
            remedy="leave the architecture out: models say and show it",
        )
    fixed = entry.model_copy(update={"name": source.name, "fingerprint": source.fingerprint})
    images = source.images if entry.images is None else entry.images
    return replace(source, entry=fixed, parts=_edited(source, entry), images=images)


def _kept(entry: Entry, manifest: IncrementManifest | DetectorManifest) -> Source:
    if isinstance(manifest, IncrementManifest):
        config = manifest.config.get("schedule")
        size = config.get("image_size") if isinstance(config, dict) else None
        return Source(
            entry.model_copy(update={"name": entry.name or manifest.name}), manifest.kind,
            manifest.family, manifest.architecture, manifest.head,
            (manifest.classes,) if manifest.classes else (), manifest.base,
            manifest.parent, manifest.index, manifest.images,
            size if isinstance(size, int) else 640, manifest.licence, manifest.fingerprint(),
            merge=_merge(manifest),
            refines=manifest.adapts if manifest.kind == REFINEMENT else (),
        )  # fmt: skip
    own = entry.name or manifest.name_in(Path(entry.path))
    return Source(
        entry.model_copy(update={"name": own}), "detector", manifest.family,
        manifest.architecture, manifest.head,
        tuple(part.classes for part in manifest.parts), None, None, 0, 0,
        manifest.image_size, manifest.licence, manifest.fingerprint, manifest.lineage,
        state=manifest.fingerprint,
    )  # fmt: skip


def describe_state(state: DetectorState, manifest: DetectorManifest, folder: Path) -> Source:
    """Return the facts of a detector in memory, whose recipe is relative to ``folder``."""
    source = _kept(Entry(path=str(folder)), manifest)
    return replace(source, detector=state)


def _merge(manifest: IncrementManifest) -> dict[str, Any] | None:
    method: Any = manifest.config.get("method")
    merge: Any = method.get("merge") if isinstance(method, dict) else None
    return merge_of({**method, **merge}) if isinstance(merge, dict) else None


def _foreign(entry: Entry, head: HeadForm, trust: bool) -> Source:
    path = Path(entry.path)
    model = ForeignModel(path, trust)
    state, facts = read_foreign(model, name=entry.name, head=head, architecture=entry.architecture)
    return Source(
        entry.model_copy(update={"name": entry.name or file_name(path)}), FOREIGN, state.family,
        state.architecture, state.head, tuple(part.classes for part in state.parts), None, None,
        0, 0, image_size_of(facts), str(facts["licence"]), model.fingerprint,
        state=state.fingerprint(), detector=state,
    )  # fmt: skip


def open_source(source: Source) -> Opened:
    """Map the tensors of a source.

    Raises:
        ModelError: The files are damaged.
    """
    entry, name = source.entry, source.name
    if source.kind in (FOREIGN, "detector"):
        state = source.detector or load_detector(source.path).state
        stage = Operand(name, weights=state.shared, scale=entry.scale, images=source.images)
        kept = [part for one in state.parts if (part := _edit_part(source, one)) is not None]
        if len(state.parts) == 1 and kept:
            kept = [replace(kept[0], increment=name)]
        return Opened(stage, state.buffers, tuple(kept), trained=state.parts)
    item = load_increment(source.path)
    stage = Operand(
        name, vector=item.vector.delta, correction=item.vector.correction, scale=entry.scale,
        images=source.images, fisher=item.fisher,
    )  # fmt: skip
    refit = _edit_part(source, item.refit) if item.refit is not None else None
    part = _edit_part(source, item.part) if item.part is not None else None
    parts = (part,) if part is not None else ()
    trained = tuple(own for own in (item.refit or item.part,) if own is not None)
    own = item.manifest
    return Opened(stage, item.buffers, parts, refit, own.refit_on, trained, own.rescored)


def _edit_part(source: Source, part: HeadPart) -> HeadPart | None:
    """Apply drops and aliases; None if no class is left."""
    rules, entry = resolve_roles(source.family), source.entry
    drop = [name for name in entry.drop if name in part.classes]
    kept = drop_classes(rules, part, drop) if drop else part
    if kept is None:
        return None
    alias = {old: new for old, new in entry.alias.items() if old in kept.classes}
    kept = rename_classes(kept, alias) if alias else kept
    whole = source.kind in ("detector", FOREIGN)  # several parts have names of their own
    return kept if whole else replace(kept, increment=source.name)


def _edited(source: Source, entry: Entry) -> tuple[tuple[str, ...], ...]:
    """Return the class names that are left of each part; parts without any are gone."""
    classes = (*source.classes, *source.refines)
    for word in (*entry.alias, *entry.drop):
        if word not in classes:
            raise ConfigError(
                f"no class '{word}'{did_you_mean(word, classes)}",
                where=entry.path,
                remedy=f"its classes: {', '.join(classes)}",
            )
    edited = (
        tuple(entry.alias.get(name, name) for name in part if name not in entry.drop)
        for part in source.parts
    )
    return tuple(part for part in edited if part)


def is_source(path: Path) -> bool:
    """Tell whether a path looks like something that can be merged."""
    return (path / MANIFEST).is_file() or is_foreign(path)
