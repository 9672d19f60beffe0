"""Increment folders and detector folders on disk: safetensors + manifest.json.

An increment can be moved and shared without its data; it is bound to its base by fingerprint and
to its own files by SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from duet.errors import DuetError, ModelError, named_in
from duet.files import parse_json, read_bytes, sha256_file, write_json
from duet.increments.colours import Colours
from duet.increments.fisher import FISHER, require_fisher, write_fisher
from duet.increments.folders import new_folder
from duet.increments.manifest import (
    MANIFEST,
    DetectorManifest,
    IncrementManifest,
    read_manifest,
)
from duet.increments.scores import ScoreMap, chosen
from duet.increments.state import DetectorState, HeadPart, require_full_precision
from duet.increments.tensorfile import (
    Layout,
    layout_of,
    mapped_output,
    read_tensors,
    split,
    write_tensors,
)
from duet.merging.trace import MergeTrace
from duet.sealed import write_sealed
from duet.vectors.task_vector import TaskVector
from duet.vectors.tensors import Tensors, require_finite

INCREMENT = "increment.safetensors"
MODEL = "model.safetensors"
TRACE = "trace.json"


@dataclass(frozen=True)
class IncrementFile:
    """One stage as it is kept: all that later merges need, none of its images.

    Attributes:
        manifest: What it is and how it was made.
        vector: Task vector of the shared tensors, bound to theta_0.
        buffers: BatchNorm statistics (float32) and counters (int64) of the shared layers.
        part: The head part as trained, or the class rows of a refinement; None if the increment
            neither adds classes nor refines any.
        refit: The head part re-fit on merged shared tensors (`manifest.refit_on`), if it was.
        fisher: Diagonal Fisher of the shared tensors (`manifest.fisher_images`), if kept.
    """

    manifest: IncrementManifest
    vector: TaskVector
    buffers: Tensors
    part: HeadPart | None
    refit: HeadPart | None = None
    fisher: Tensors | None = None

    def __post_init__(self) -> None:
        where = f"increment '{self.manifest.name}'"
        for part in (self.part, self.refit):
            if part is None:
                continue
            if (part.scores, part.colours) != (self.manifest.scores, self.manifest.colours):
                raise ModelError(
                    "its head part has other score maps or colours than its manifest", where=where
                )
            if (part.classes, part.increment) != (self.manifest.held, self.manifest.name):
                raise ModelError(
                    f"the head part is of '{part.increment}' with classes {list(part.classes)}, "
                    f"the manifest says {list(self.manifest.held)}",
                    where=where,
                )
        if (self.part is None) != (not self.manifest.held):
            raise ModelError(
                f"{'no' if self.part is None else 'a'} head part, but the manifest says that it "
                f"holds {len(self.manifest.held)} classes",
                where=where,
            )
        if self.vector.base != self.manifest.base:
            raise ModelError(
                f"the task vector has base {self.vector.base}, the manifest {self.manifest.base}",
                where=where,
            )
        if (self.refit is None) != (self.manifest.refit_on is None):
            raise ModelError(
                "a re-fit part and the fingerprint it was re-fit on go together", where=where
            )
        require_full_precision(self.buffers, f"{where}, buffers")
        if (self.fisher is None) != (self.manifest.fisher_images == 0):
            raise ModelError(
                "a Fisher and the number of its images go together: got "
                f"{'no' if self.fisher is None else 'a'} Fisher of {self.manifest.fisher_images} "
                "images",
                where=where,
            )
        if self.fisher is not None:
            require_fisher(self.fisher, self.vector.delta, where)

    def with_scores(
        self, scores: Mapping[str, ScoreMap], colours: Colours | None = None
    ) -> IncrementFile:
        """Return it with what calibrating the detector after its stage brought.

        Args:
            scores: Score maps by class name, of all its classes.
            colours: Of the increment's images.
        """
        own = chosen(scores, self.manifest.held)
        older = {name: one for name, one in scores.items() if name not in own}
        told = {
            "schema_version": 2 if scores or colours else 1,
            "scores": own, "rescored": older, "colours": colours,
        }  # fmt: skip
        part, refit = (
            one and replace(one, scores=own, colours=colours) for one in (self.part, self.refit)
        )
        manifest = self.manifest.model_copy(update=told)
        return replace(self, manifest=manifest, part=part, refit=refit)


@dataclass(frozen=True)
class DetectorFile:
    """A merged detector as it is kept.

    Attributes:
        state: Its tensors and classes.
        manifest: Where it comes from.
    """

    state: DetectorState
    manifest: DetectorManifest

    def __post_init__(self) -> None:
        told = self.manifest
        own = DetectorManifest.for_state(
            self.state, lineage=(), image_size=told.image_size, licence=told.licence
        )
        for key in ("family", "architecture", "head", "parts", "fingerprint"):
            got, expected = getattr(own, key), getattr(told, key)
            if got != expected:
                raise ModelError(
                    f"{key}: the detector has {got}, its manifest says {expected}",
                    where="detector",
                    remedy="build the manifest with DetectorManifest.for_state",
                )


Filled = tuple[DetectorFile, tuple[MergeTrace, ...]]
"""A detector whose tensors were filled into the file on offer, and what each merge did."""


def save_increment(
    folder: Path, increment: IncrementFile, *, overwrite: bool = False
) -> IncrementManifest:
    """Write ``folder``; all of it or nothing.

    It holds `increment.safetensors`, `fisher.safetensors` (bfloat16) if there is a Fisher, and
    `manifest.json` with the hashes of both.

    Args:
        folder: Must not exist or be empty, unless ``overwrite``.
        increment: What to write; `manifest.files` is filled here.
        overwrite: Replace an older folder.

    Returns:
        The manifest as written; its `fingerprint()` goes into the lineage of detectors.

    Raises:
        ModelError: Tensors hold NaN or infinity.
        DuetError: The folder is in the way, or the file system refuses the write.
    """
    flat = increment.vector.to_tensors()
    flat |= {f"buffers/{name}": tensor for name, tensor in increment.buffers.items()}
    for place, part in (("part", increment.part), ("refit", increment.refit)):
        if part is not None:
            flat |= {f"{place}/{name}": tensor for name, tensor in part.tensors.items()}
    metadata = {"identity": increment.manifest.identity()}
    with new_folder(folder, "duet-increment", overwrite=overwrite) as temporary:
        try:
            files = {INCREMENT: write_tensors(temporary / INCREMENT, flat, metadata=metadata)}
            if increment.fisher is not None:
                files[FISHER] = write_fisher(
                    temporary / FISHER, increment.fisher, metadata=metadata
                )
            saved = increment.manifest.model_copy(update={"files": files})
            write_sealed(temporary / MANIFEST, saved.model_dump(mode="json"))
        except DuetError as error:
            # The temporary name means nothing to the user.
            what = error.what.replace(str(temporary), str(folder))
            raise type(error)(what, where=str(folder), remedy=error.remedy) from error
    return saved


def load_increment(folder: Path) -> IncrementFile:
    """Map an increment folder.

    Raises:
        ModelError: The folder is missing, of another kind, from a newer duet, incomplete, renamed,
            edited or damaged.
    """
    manifest = read_manifest(folder, IncrementManifest)
    where = str(folder / INCREMENT)
    names = (INCREMENT, FISHER) if manifest.fisher_images else (INCREMENT,)
    digests = _hashes_of(manifest.files, names, folder)
    flat, metadata = read_tensors(folder / INCREMENT, digests[INCREMENT])
    identities, fisher = {metadata.get("identity")}, None
    if FISHER in digests:
        fisher, metadata = read_tensors(folder / FISHER, digests[FISHER])
        identities.add(metadata.get("identity"))
    if identities != {manifest.identity()}:
        raise _damaged(folder, ModelError("the manifest is not the one that they were saved with"))
    groups = split(flat, ("vector", "correction", "buffers", "part", "refit"), where)
    keys = [key for key in flat if key.startswith(("vector/", "correction/"))]
    try:
        return IncrementFile(
            manifest=manifest,
            vector=TaskVector.from_tensors({key: flat[key] for key in keys}, manifest.base),
            buffers=groups["buffers"],
            part=_part(manifest, groups["part"]),
            refit=_part(manifest, groups["refit"]) if groups["refit"] else None,
            fisher=fisher,
        )
    except DuetError as error:
        raise _damaged(folder, error) from None


def _part(manifest: IncrementManifest, tensors: Tensors) -> HeadPart | None:
    """Return the head part or refined rows; None if the increment holds no class and has none."""
    if not manifest.held and not tensors:
        return None
    return HeadPart(manifest.held, tensors, manifest.name, manifest.scores, manifest.colours)


def save_detector(
    folder: Path,
    state: DetectorState,
    manifest: DetectorManifest,
    *,
    traces: tuple[MergeTrace, ...] = (),
    overwrite: bool = False,
) -> DetectorManifest:
    """Write ``folder`` with `model.safetensors` (float32) and `manifest.json`; all or nothing.

    Args and errors as in `save_increment`; ``traces`` become `trace.json`.

    Returns:
        The manifest as written.

    Raises:
        ModelError: The manifest does not describe ``state``, or tensors hold NaN or infinity.
        DuetError: The folder is in the way, or the file system refuses the write.
    """
    file, tensors = DetectorFile(state, manifest), state.to_tensors()

    def fill(flat: dict[str, torch.Tensor]) -> Filled:
        for name, tensor in tensors.items():
            flat[name].copy_(tensor.detach())
        return file, traces

    again = holds(folder, "fingerprint", manifest.fingerprint)
    return build_detector(folder, layout_of(tensors), fill, overwrite=overwrite, again=again)


def holds(folder: Path, fact: str, value: object) -> bool:
    """Tell whether a detector lies there whose manifest says that of itself."""
    try:
        return bool(getattr(read_manifest(folder, DetectorManifest), fact) == value)
    except DuetError:
        return False


def build_detector(
    folder: Path,
    layout: Layout,
    fill: Callable[[dict[str, torch.Tensor]], Filled],
    *,
    overwrite: bool = False,
    again: bool = False,
) -> DetectorManifest:
    """Write a detector folder whose tensors are computed straight into its file.

    Args:
        folder: Must not exist or be empty, unless ``overwrite``.
        layout: Flat tensors as `DetectorState.to_tensors` names them.
        fill: Gets the file's tensors, fills every one, and says what they are.
        overwrite: Replace an older folder.
        again: See `duet.files.atomic_folder`.

    Returns and raises as `save_detector`.
    """
    with new_folder(folder, "duet-detector", overwrite=overwrite, again=again) as temporary:
        path = temporary / MODEL
        with mapped_output(path, layout) as flat:
            file, traces = fill(flat)
            require_finite(flat, str(folder))
        files = {MODEL: sha256_file(path)}
        if traces:
            write_json(temporary / TRACE, [trace.as_dict() for trace in traces])
            files[TRACE] = sha256_file(temporary / TRACE)
        saved = file.manifest.model_copy(update={"files": files})
        write_sealed(temporary / MANIFEST, saved.model_dump(mode="json"))
    return saved


def load_traces(folder: Path) -> tuple[MergeTrace, ...]:
    """Read what the merges of a detector did; empty if it was not kept.

    Raises:
        ModelError: The file is missing, edited or damaged.
    """
    manifest = read_manifest(folder, DetectorManifest)
    if TRACE not in manifest.files:
        return ()
    path = folder / TRACE
    try:
        content = read_bytes(path)
        rows = parse_json(content, expected=list)
    except (OSError, ValueError) as error:
        raise _damaged(folder, ModelError(f"{TRACE} cannot be read: {error}")) from None
    if hashlib.sha256(content).hexdigest() != manifest.files[TRACE]:
        raise _damaged(folder, ModelError(f"{TRACE} changed since it was written"))
    with named_in(path):
        return tuple(MergeTrace.from_dict(row) for row in rows)


def load_detector(folder: Path) -> DetectorFile:
    """Read a detector folder.

    Raises:
        ModelError: The folder is missing, of another kind, from a newer duet, incomplete, renamed,
            edited or damaged.
    """
    manifest = read_manifest(folder, DetectorManifest)
    where = str(folder / MODEL)
    names = (MODEL, TRACE) if TRACE in manifest.files else (MODEL,)
    flat, _ = read_tensors(folder / MODEL, _hashes_of(manifest.files, names, folder)[MODEL])
    groups = split(flat, ("shared", "buffers", "part"), where)
    split(groups["part"], tuple(str(index) for index in range(len(manifest.parts))), where)
    try:
        state = DetectorState.from_tensors(
            flat,
            [(one.increment, one.classes, one.scores, one.colours) for one in manifest.parts],
            family=manifest.family,
            architecture=manifest.architecture,
            head=manifest.head,
        )
        return DetectorFile(state, manifest)
    except DuetError as error:
        raise _damaged(folder, error) from None


def _hashes_of(files: dict[str, str], names: tuple[str, ...], folder: Path) -> dict[str, str]:
    if set(files) != set(names):
        raise ModelError(
            f"the manifest lists the files {sorted(files)}, expected {sorted(names)}",
            where=str(folder / MANIFEST),
            remedy="the manifest was edited or damaged: take the folder from its source again",
        )
    return files


def _damaged(folder: Path, error: DuetError) -> ModelError:
    inside = f" ({error.where})" if error.where else ""
    return ModelError(
        f"manifest and tensors do not fit together{inside}: {error.what}",
        where=str(folder),
        remedy="the folder was edited or mixed from two: take it from its source again; `duet run` "
        "writes the folders of its own run anew",
    )
