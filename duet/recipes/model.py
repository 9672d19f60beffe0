"""A detector as data: what can be edited, compared, measured, exported and saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from duet.increments.manifest import DetectorManifest, read_manifest
from duet.increments.state import DetectorState
from duet.increments.store import DetectorFile
from duet.merging.trace import MergeTrace


@dataclass(frozen=True)
class Model:
    """A detector with its history, in a folder or in memory alone.

    Attributes:
        file: Its tensors and its manifest; paths of the recipe are relative to ``folder``.
        folder: Its folder; of one in memory the one that it was made from.
        saved: Whether it is what lies in ``folder``.
        traces: What its merges did.
        remarks: What a user should know before relying on it.
    """

    file: DetectorFile
    folder: Path
    saved: bool
    traces: tuple[MergeTrace, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def state(self) -> DetectorState:
        """Its tensors."""
        return self.file.state

    @property
    def manifest(self) -> DetectorManifest:
        """Facts, and how it was merged."""
        return self.file.manifest

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return str(self.folder) if self.saved else "in memory"


def manifest_and_folder(detector: Path | Model) -> tuple[DetectorManifest, Path]:
    """Return the manifest of a detector, and the folder that its recipe's paths are relative to.

    Raises:
        ModelError: It is no detector folder, or its manifest is damaged.
    """
    if isinstance(detector, Model):
        return detector.manifest, detector.folder
    return read_manifest(detector, DetectorManifest), detector
