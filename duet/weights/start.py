"""θ_0, opened: what ``--weights`` names, read the way it is stored, known by its fingerprint."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path

from duet.errors import ConfigError, MissingExtraError, ModelError
from duet.families.table import families, family_of, resolve_family, resolve_roles
from duet.increments.base import StartWeights, open_base, read_sidecar
from duet.increments.manifest import MANIFEST, DetectorManifest, read_manifest
from duet.increments.state import DetectorState
from duet.increments.store import load_detector
from duet.text import shown
from duet.trees import stamp
from duet.vectors.tensors import Tensors, fingerprint
from duet.weights.facts import architecture_said
from duet.weights.store import find

BASE = ".safetensors"
"""Suffix of duet's own files of start weights."""

_FINGERPRINTS: dict[tuple[Path, str, str, tuple[int, ...]], str] = {}


@dataclass(frozen=True)
class Start:
    """Start weights on this machine; no tensor is read before it is asked for.

    Attributes:
        path: A file, a folder of transformers, or a detector folder.
        family: Detector family that reads them.
        architecture: Within the family; empty where nobody asked.
    """

    path: Path
    family: str
    architecture: str = ""

    def __post_init__(self) -> None:
        _ = self._state  # before anything is read

    @functools.cached_property
    def _state(self) -> tuple[int, ...] | None:
        return stamp(self.path) if self.path.is_file() else None

    @functools.cached_property
    def weights(self) -> StartWeights:
        """Float32 tensors with the classes that they know, as training starts from them.

        Raises:
            ModelError: They are missing, damaged, refused, or of another family.
        """
        if not (self.path / MANIFEST).is_file():
            return resolve_family(self.family).weights(self.path)
        state = load_detector(self.path).state
        if state.family != self.family:
            raise ModelError(
                f"a detector of the family '{state.family}', expected '{self.family}'",
                where=str(self.path),
                remedy="give start weights of the increments' own family",
            )
        return start_weights_of(state)

    @functools.cached_property
    def tensors(self) -> Tensors:
        """All tensors, float16 or float32; base files are mapped, not read.

        Raises:
            ModelError: As `weights`.
        """
        return open_base(self.path)[0] if self.path.suffix == BASE else self.weights.tensors

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the class rows; empty if they are not known."""
        if self.path.suffix != BASE:
            return self.weights.classes
        told = read_sidecar(self.path)
        return (told.classes if told is not None else None) or ()

    def shared(self, head: str) -> Tensors:
        """Return what of the tensors is shared by detectors with this head form."""
        return resolve_roles(self.family).split_roles(self.tensors, head).shared

    def fingerprint(self, head: str) -> str:
        """Return what increments with this head form that were trained from these weights note.

        A file is hashed once for each of its states: a merge asks to find θ_0 and to check it.
        """
        if self._state is None:
            return start_fingerprint(self.shared(head))
        key = (self.path, self.family, head, self._state)
        if key not in _FINGERPRINTS:
            _FINGERPRINTS[key] = start_fingerprint(self.shared(head))
        return _FINGERPRINTS[key]


def open_start(
    name_or_path: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    default: str | None = None,
) -> Start:
    """Find start weights and tell what they are; never downloads.

    Args:
        name_or_path: A name of `duet weights ls`, a `.safetensors`, `.pt` or `.pth` file, a folder
            of transformers, or a detector folder.
        architecture: What the user says that it is; default: what its tensors show.
        default: Where nothing tells it.

    Raises:
        ConfigError: No such weights, or nothing tells their architecture.
        ModelError: They are damaged or refused.
    """
    path = find(name_or_path)
    files = (file for row in families().values() for file in row.files)
    known = {BASE, *(file for file in files if file.startswith("."))}
    if path.is_file() and path.suffix not in known:
        raise ConfigError(
            f"no file of weights: expected a name that ends in {', '.join(sorted(known))}",
            where=str(path),
            remedy="give start weights, or a name that `duet weights ls` shows",
        )
    found = architecture or _architecture_of(path, default)
    return Start(path, family_of(found), found)


def _architecture_of(path: Path, default: str | None) -> str:
    """Return the architecture of a file: what its tensors show, else what it says, or the default.

    A file beside base weights is believed: it is duet's own and names their hash.

    Raises:
        ConfigError: Nothing tells it.
        ModelError: The file is damaged or refused.
    """
    if (path / MANIFEST).is_file():
        return read_manifest(path, DetectorManifest).architecture
    said = architecture_said(path) if path.is_file() else None
    known = any(re.fullmatch(row.architectures, said or "") for row in families().values())
    if said is not None and path.suffix == BASE:
        if known:
            return said
        raise ConfigError(
            f"the file beside the start weights says the architecture {shown(said)}, which no "
            "family knows",
            where=str(path.with_suffix(".json")),
            remedy="correct it, or give --architecture, for example yolo11n.yaml",
        )
    found = recognise(path) or (said if known else default)
    if found is None:
        raise ConfigError(
            "the architecture of the start weights is not known",
            where=str(path),
            remedy="give --architecture, for example yolo11n.yaml",
        )
    return found


def recognise(path: Path, tensors: Tensors | None = None) -> str | None:
    """Return the architecture that start weights belong to, told by names and shapes of tensors.

    Args:
        path: The file.
        tensors: What it holds, where it has been read already.

    Raises:
        ModelError: The file is damaged or refused.
    """
    for name, row in families().items():
        own = path.suffix in row.files or any((path / file).is_file() for file in row.files)
        if not own and path.suffix != BASE:
            continue
        try:
            family = resolve_family(name)
            if tensors is None:
                tensors = Start(path, name).weights.tensors
        except MissingExtraError:
            continue
        if found := family.architecture_of(tensors):
            return found
    return None


def start_weights_of(state: DetectorState) -> StartWeights:
    """Return a detector as start weights: its shared tensors and its last head part."""
    whole = resolve_family(state.family).whole(state)
    return StartWeights(whole, state.parts[-1].classes)


def start_fingerprint(shared: Tensors) -> str:
    """Return the fingerprint of θ_0's shared tensors: that of their exact float32 upcast."""
    return fingerprint(shared, upcast=True)
