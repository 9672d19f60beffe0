"""Export a detector folder: write, check against the detector in memory, then keep."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duet.errors import ConfigError, DuetError
from duet.export.parity import Parity, export_module, measure, require, sample_images
from duet.families.table import resolve_family
from duet.files import atomic_path, sha256_file, write_json
from duet.images import read_image
from duet.increments.manifest import DetectorManifest
from duet.increments.store import DetectorFile, load_detector

PARITY = "parity.json"
FORMAT = "duet-parity"
SCHEMA_VERSION = 1

Step = Callable[[int, int], None]
"""Called with steps done and steps in all."""


@dataclass(frozen=True)
class ExportReport:
    """What was exported and how well it was reproduced.

    Attributes:
        file: The exported file.
        form: ``"pt"`` or ``"onnx"``.
        bytes: Its size.
        sha256: Of its bytes.
        image_size: Side of its input, pixels.
        classes: Class names in the order of its outputs.
        needs_duet: Whether loading it needs duet installed (`pt` with `parallel` heads).
        parity: Difference to the detector in memory.
        manifest: Where the detector comes from.
    """

    file: Path
    form: str
    bytes: int
    sha256: str
    image_size: int
    classes: tuple[str, ...]
    needs_duet: bool
    parity: Parity
    manifest: DetectorManifest

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data: an entry of `parity.json`."""
        lineage = [item.model_dump(mode="json") for item in self.manifest.lineage]
        return {
            "file": self.file.name,
            "form": self.form,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "model": self.manifest.fingerprint,
            "licence": self.manifest.licence,
            "image_size": self.image_size,
            "classes": list(self.classes),
            "needs_duet": self.needs_duet,
            "parity": self.parity.as_dict(),
            "lineage": lineage,
        }


def export_detector(
    folder: Path,
    target: Path,
    form: str,
    *,
    images: Sequence[Path] = (),
    overwrite: bool = False,
    progress: Step | None = None,
) -> ExportReport:
    """Export a detector folder, and keep the file only if it computes the same.

    Args:
        folder: Detector folder.
        target: File to write; `parity.json` is written beside it.
        form: ``"pt"`` or ``"onnx"``.
        images: Images to compare on; a few synthetic ones when left out.
        overwrite: Replace an older export.
        progress: Called after each of three steps.

    Raises:
        ModelError: The folder is damaged, or the exported file computes something else.
        ConfigError: Unknown form, or ``target`` exists or has another suffix.
        DataError: An image cannot be read.
        MissingExtraError: Packages for the form are not installed.
        DuetError: The file system refuses the write.
    """
    step = progress if progress is not None else _silent
    detector = check_export(folder, target, form, overwrite=overwrite)
    state, size = detector.state, detector.manifest.image_size
    pictures = [read_image(path) for path in images] or sample_images(size)
    step(1, 3)
    with atomic_path(target) as temporary:
        try:
            resolve_family(state.family).export(state, temporary, image_size=size, form=form)
            step(2, 3)
            parity = measure(state, temporary, form, pictures, image_size=size)
            require(parity, str(target))
        except DuetError as error:  # the temporary name means nothing to the user
            what = error.what.replace(str(temporary), str(target))
            raise type(error)(what, where=str(target), remedy=error.remedy) from error
    report = _report(detector, target, form, parity)
    others = [item for item in _kept(target.parent) or [] if item.get("file") != target.name]
    document = {"format": FORMAT, "schema_version": SCHEMA_VERSION}
    write_json(target.parent / PARITY, document | {"exports": [*others, report.as_dict()]})
    step(3, 3)
    return report


def _report(detector: DetectorFile, target: Path, form: str, parity: Parity) -> ExportReport:
    state = detector.state
    return ExportReport(
        file=target,
        form=form,
        bytes=target.stat().st_size,
        sha256=sha256_file(target),
        image_size=detector.manifest.image_size,
        classes=tuple(state.labels),
        needs_duet=form == "pt" and state.head == "parallel" and len(state.parts) > 1,
        parity=parity,
        manifest=detector.manifest,
    )


def check_export(folder: Path, target: Path, form: str, *, overwrite: bool) -> DetectorFile:
    """Read a detector folder and refuse an export that cannot work; errors as `export_detector`."""
    detector = load_detector(folder)
    if target.is_dir():
        raise ConfigError(
            "this is a folder", where=str(target), remedy=f"name a file that ends in .{form}"
        )
    module = export_module(detector.state.family)
    module.check(target, image_size=detector.manifest.image_size, form=form)
    if target.exists() and not overwrite:
        raise ConfigError(
            "already exists",
            where=str(target),
            remedy="choose another --out, or replace it with --overwrite",
        )
    if _kept(target.parent) is None and not overwrite:
        raise ConfigError(
            f"{PARITY} here was not written by duet",
            where=str(target.parent),
            remedy="choose another folder for --out, or replace it with --overwrite",
        )
    return detector


def _kept(folder: Path) -> list[dict[str, Any]] | None:
    """Return the entries of a folder's `parity.json`; None when the file is somebody else's."""
    path = folder / PARITY
    if not path.exists():
        return []
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        entries = document["exports"] if document["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(entries, list) or not all(isinstance(item, dict) for item in entries):
        return None
    return entries


def _silent(_done: int, _total: int) -> None:
    """Show nothing."""
