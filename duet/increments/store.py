"""Increment folders and detector folders on disk: safetensors + manifest.json.

An increment can be moved and shared without its data; it is bound to its base by fingerprint and
to its own files by SHA-256.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from duet.errors import DuetError, ModelError
from duet.files import write_json
from duet.increments.folders import new_folder
from duet.increments.manifest import (
    MANIFEST,
    DetectorManifest,
    IncrementManifest,
    M,
    PartEntry,
    read_manifest,
)
from duet.increments.state import DetectorState, HeadPart, require_full_precision
from duet.increments.tensorfile import read_tensors, split, write_tensors
from duet.vectors import TaskVector, Tensors

INCREMENT = "increment.safetensors"
MODEL = "model.safetensors"


@dataclass(frozen=True)
class IncrementFile:
    """One stage as it is kept: all that later merges need, none of its images.

    Attributes:
        manifest: What it is and how it was made.
        vector: Task vector of the shared tensors, bound to theta_0.
        buffers: BatchNorm statistics (float32) and counters (int64) of the shared layers.
        part: The head part as trained.
        refit: The head part re-fit on merged shared tensors (`manifest.refit_on`), if it was.
    """

    manifest: IncrementManifest
    vector: TaskVector
    buffers: Tensors
    part: HeadPart
    refit: HeadPart | None = None

    def __post_init__(self) -> None:
        where = f"increment '{self.manifest.name}'"
        for part in (self.part, self.refit):
            if part is None:
                continue
            if (part.classes, part.increment) != (self.manifest.classes, self.manifest.name):
                raise ModelError(
                    f"the head part is of '{part.increment}' with classes {list(part.classes)}, "
                    f"the manifest says {list(self.manifest.classes)}",
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

    @property
    def bn_weight(self) -> float:
        """Weight of this stage's BatchNorm statistics."""
        return self.manifest.bn_weight

    @property
    def refit_on(self) -> str | None:
        """Fingerprint of the merged shared tensors that `refit` was made on."""
        return self.manifest.refit_on

    def with_refit(self, refit: HeadPart, refit_on: str) -> IncrementFile:
        """Return a copy with the part re-fit on the shared tensors with that fingerprint."""
        manifest = self.manifest.model_copy(update={"refit_on": refit_on})
        return dataclasses.replace(self, manifest=manifest, refit=refit)


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
        state, manifest = self.state, self.manifest
        parts = tuple(PartEntry(increment=p.increment, classes=p.classes) for p in state.parts)
        facts = {
            "family": (state.family, manifest.family),
            "architecture": (state.architecture, manifest.architecture),
            "head": (state.head, manifest.head),
            "parts": (parts, manifest.parts),
            "fingerprint": (state.fingerprint(), manifest.fingerprint),
        }
        for key, (got, expected) in facts.items():
            if got != expected:
                raise ModelError(
                    f"{key}: the detector has {got}, its manifest says {expected}",
                    where="detector",
                    remedy="build the manifest with DetectorManifest.for_state",
                )


def save_increment(
    folder: Path, increment: IncrementFile, *, overwrite: bool = False
) -> IncrementManifest:
    """Write ``folder`` with `increment.safetensors` and `manifest.json`; all of it or nothing.

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
    flat |= {f"part/{name}": tensor for name, tensor in increment.part.tensors.items()}
    if increment.refit is not None:
        flat |= {f"refit/{name}": tensor for name, tensor in increment.refit.tensors.items()}
    metadata = {"identity": increment.manifest.identity()}
    return _save(folder, INCREMENT, flat, increment.manifest, overwrite, metadata)


def load_increment(folder: Path) -> IncrementFile:
    """Read an increment folder.

    Raises:
        ModelError: The folder is missing, of another kind, from a newer duet, incomplete, renamed,
            edited or damaged.
    """
    manifest = read_manifest(folder, IncrementManifest)
    where = str(folder / INCREMENT)
    digest = _hash_of(manifest.files, INCREMENT, folder)
    flat, metadata = read_tensors(folder / INCREMENT, digest)
    if metadata.get("identity") != manifest.identity():
        edited = ModelError("name, classes, base, architecture or re-fit were edited since")
        raise _damaged(folder, edited)
    groups = split(flat, ("vector", "correction", "buffers", "part", "refit"), where)
    keys = [key for key in flat if key.startswith(("vector/", "correction/"))]
    try:
        return IncrementFile(
            manifest=manifest,
            vector=TaskVector.from_tensors({key: flat[key] for key in keys}, manifest.base),
            buffers=groups["buffers"],
            part=HeadPart(manifest.classes, groups["part"], manifest.name),
            refit=HeadPart(manifest.classes, groups["refit"], manifest.name)
            if groups["refit"]
            else None,
        )
    except DuetError as error:
        raise _damaged(folder, error) from None


def save_detector(
    folder: Path, state: DetectorState, manifest: DetectorManifest, *, overwrite: bool = False
) -> DetectorManifest:
    """Write ``folder`` with `model.safetensors` (float32) and `manifest.json`; all or nothing.

    Args and errors as in `save_increment`.

    Returns:
        The manifest as written.

    Raises:
        ModelError: The manifest does not describe ``state``, or tensors hold NaN or infinity.
        DuetError: The folder is in the way, or the file system refuses the write.
    """
    DetectorFile(state, manifest)
    return _save(folder, MODEL, state.to_tensors(), manifest, overwrite)


def load_detector(folder: Path) -> DetectorFile:
    """Read a detector folder.

    Raises:
        ModelError: The folder is missing, of another kind, from a newer duet, incomplete, renamed,
            edited or damaged.
    """
    manifest = read_manifest(folder, DetectorManifest)
    where = str(folder / MODEL)
    flat, _ = read_tensors(folder / MODEL, _hash_of(manifest.files, MODEL, folder))
    groups = split(flat, ("shared", "buffers", "part"), where)
    numbers = tuple(str(index) for index in range(len(manifest.parts)))
    parts = split(groups["part"], numbers, where)
    try:
        state = DetectorState(
            family=manifest.family,
            architecture=manifest.architecture,
            head=manifest.head,
            shared=groups["shared"],
            buffers=groups["buffers"],
            parts=tuple(
                HeadPart(entry.classes, parts[number], entry.increment)
                for entry, number in zip(manifest.parts, numbers, strict=True)
            ),
        )
        return DetectorFile(state, manifest)
    except DuetError as error:
        raise _damaged(folder, error) from None


def _save(
    folder: Path,
    name: str,
    flat: Tensors,
    manifest: M,
    overwrite: bool,
    metadata: Mapping[str, str] | None = None,
) -> M:
    with new_folder(folder, overwrite=overwrite) as temporary:
        try:
            digest = write_tensors(temporary / name, flat, metadata=metadata)
            saved = manifest.model_copy(update={"files": {name: digest}})
            write_json(temporary / MANIFEST, saved.model_dump(mode="json"))
        except DuetError as error:
            # The temporary name means nothing to the user.
            what = re.sub(re.escape(str(temporary)), str(folder), error.what)
            raise type(error)(what, where=str(folder), remedy=error.remedy) from error
    return saved


def _hash_of(files: dict[str, str], name: str, folder: Path) -> str:
    if set(files) != {name}:
        raise ModelError(
            f"the manifest lists the files {sorted(files)}, expected ['{name}']",
            where=str(folder / MANIFEST),
            remedy="the manifest was edited or damaged: take the folder from its source again",
        )
    return files[name]


def _damaged(folder: Path, error: DuetError) -> ModelError:
    inside = f" ({error.where})" if error.where else ""
    return ModelError(
        f"manifest and tensors do not fit together{inside}: {error.what}",
        where=str(folder),
        remedy="the folder was edited or mixed from two: take it from its source again",
    )
