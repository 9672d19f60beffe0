"""Export a detector: write, check against the detector in memory, then keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from duet.config import Config
from duet.errors import ConfigError, DuetError
from duet.export.formats import (
    FORMATS,
    Format,
    device_for,
    require_offered,
    require_packages,
    write,
)
from duet.export.parity import Parity, measure, require, sample_images
from duet.export.placing import new_export, user_lock
from duet.families.exportable import Exportable, ExportFacts
from duet.families.runtimes import PARITY
from duet.families.table import resolve_family
from duet.families.vouching import remember
from duet.files import read_json, sha256_file, sha256_json, sha256_path, write_json
from duet.images import Fit, Image, read_image, squared
from duet.increments.manifest import Lineage, Sha256
from duet.increments.state import DetectorState
from duet.increments.store import DetectorFile, load_detector

FORMAT = "duet-parity"
SCHEMA_VERSION = 1

Step = Callable[[int, int], None]
"""Called with steps done and steps in all."""


class ExportReport(Config):
    """What was exported and how well it was reproduced: an entry of `parity.json`."""

    file: str = Field(description="Name of the exported file or folder.")
    form: str = Field(description="Name of the format.")
    bytes: int
    sha256: Sha256 = Field(description="Of a folder, of the JSON that maps its files to theirs.")
    checked_on: Sha256 | None = Field(
        description="SHA-256 of the hashes of the images that it was compared on; None: synthetic."
    )
    model: Sha256 = Field(description="Fingerprint of the detector.")
    licence: str
    image_size: int = Field(description="Longer side of its input, pixels.")
    fit: Fit = Field(default="letterbox", description="How images become inputs.")
    classes: tuple[str, ...] = Field(description="In the order of its outputs.")
    dynamic: bool = Field(description="Whether it takes batches of any size.")
    needs_duet: bool = Field(
        description="Whether loading it needs duet installed (`pt` with `parallel` heads)."
    )
    parity: Parity | None = Field(
        description="Difference to the detector in memory; None where duet cannot run the format."
    )
    lineage: tuple[Lineage, ...]


def export_detector(
    model: Path | DetectorFile,
    target: Path,
    form: str,
    *,
    images: Sequence[Path] = (),
    dynamic: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    progress: Step | None = None,
) -> ExportReport:
    """Export a detector, and keep the file only if it computes the same.

    Args:
        model: Detector folder, or an open detector.
        target: File or folder to write; `parity.json` is written beside it.
        form: Name of a format, see `duet.export.formats`.
        images: Images to compare on; a few synthetic ones when left out.
        dynamic: Let the file take batches of any size.
        overwrite: Replace an older export.
        device: See `duet.export.formats.device_for`.
        progress: Called after each of three steps.

    Raises:
        ModelError: The folder is damaged, or the exported file computes something else.
        ConfigError: Unknown form, one that the family, the machine or the options do not fit, or
            ``target`` exists or has another suffix.
        DataError: An image cannot be read.
        MissingExtraError: Packages for the form are not installed.
        DuetError: The file system refuses the write.
    """
    step, row = progress or (lambda _done, _total: None), FORMATS.find(form)
    opened = check_export(model, target, form, dynamic=dynamic, overwrite=overwrite, device=device)
    exportable = _exportable(opened)
    facts = _facts(opened, exportable, row, dynamic=dynamic)
    pictures = [read_image(path) for path in images] or sample_images(facts.image_size)
    step(1, 3)
    with new_export(target, folder=row.folder, room=_room(opened.state)) as temporary:
        try:
            write(row, exportable, temporary, facts, device=device_for(row, device))
            step(2, 3)
            parity = _compare(row, exportable, facts, temporary, target, pictures)
        except DuetError as error:  # the temporary name means nothing to the user
            what = error.what.replace(str(temporary), str(target))
            raise type(error)(what, where=str(target), remedy=error.remedy) from error
        report = _report(opened, temporary, target, facts, row, parity, images)
        # Before the file: without an entry it could be somebody else's.
        _record(report, target.parent)
    step(3, 3)
    return report


def _facts(
    opened: DetectorFile, exportable: Exportable, row: Format, *, dynamic: bool
) -> ExportFacts:
    manifest = opened.manifest
    return ExportFacts.of(
        opened.state, exportable, image_size=manifest.image_size, licence=manifest.licence,
        lineage=manifest.lineage, dynamic=dynamic, open_sides=row.open_sides,
    )  # fmt: skip


def _room(state: DetectorState) -> int:
    """Return the bytes that a file of a detector needs, with a quarter more than its tensors."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.to_tensors().values())
    return size + size // 4


def _compare(
    row: Format, exportable: Exportable, facts: ExportFacts, file: Path, target: Path,
    images: Sequence[Image],
) -> Parity | None:  # fmt: skip
    """Return how a written file differs; None where duet cannot run it; errors as `require`."""
    if row.tolerance is None:
        return None
    parity = measure(exportable, facts, file, row.name, images)
    require(parity, str(target))
    return parity


def _record(report: ExportReport, folder: Path) -> None:
    """Put an entry into a folder's `parity.json`, in place of an older one of that name."""
    if report.form == "torchscript":  # else the user would be asked whether to trust it
        remember(report.sha256)
    document = {"format": FORMAT, "schema_version": SCHEMA_VERSION}
    with user_lock(folder / PARITY):  # two exports into one folder would each drop the other's
        others = [item for item in _kept(folder) or [] if item.get("file") != report.file]
        entry = report.model_dump(mode="json")
        write_json(folder / PARITY, document | {"exports": [*others, entry]})


def _report(
    detector: DetectorFile, written: Path, target: Path, facts: ExportFacts, row: Format,
    parity: Parity | None, images: Sequence[Path],
) -> ExportReport:  # fmt: skip
    state = detector.state
    files = [path for path in written.rglob("*") if path.is_file()] if row.folder else [written]
    return ExportReport(
        file=target.name,
        form=row.name,
        bytes=sum(path.stat().st_size for path in files),
        sha256=sha256_path(written),
        checked_on=_checked_on(images),
        model=detector.manifest.fingerprint,
        licence=detector.manifest.licence,
        image_size=facts.image_size,
        fit=facts.fit,
        classes=facts.classes,
        dynamic=facts.dynamic,
        needs_duet=row.name == "pt" and state.head == "parallel" and len(state.parts) > 1,
        parity=parity,
        lineage=detector.manifest.lineage,
    )


def _checked_on(images: Sequence[Path]) -> str | None:
    return sha256_json([sha256_file(path) for path in images]) if images else None


def whole_export(
    model: Path | DetectorFile,
    target: Path,
    form: str,
    *,
    images: Sequence[Path] = (),
    dynamic: bool = False,
) -> dict[str, Any] | None:
    """Return the entry of `parity.json` about an export that is there already, or None.

    It was made of this detector in this form, compared on these images, and not changed since.

    Raises:
        ModelError: The detector folder is damaged.
    """
    if not target.exists():
        return None
    opened, row = _opened(model), FORMATS.find(form)
    facts = _facts(opened, _exportable(opened), row, dynamic=dynamic)
    wanted = {
        "file": target.name, "form": form, "dynamic": facts.dynamic, "fit": facts.fit,
        "sha256": sha256_path(target), "model": opened.manifest.fingerprint,
        "checked_on": _checked_on(images),
    }  # fmt: skip
    unsaid = {"fit": squared(facts.fit)}  # by entries of before there were rectangles
    for one in _kept(target.parent) or []:
        if wanted.items() <= (unsaid | one).items() and _is_kept(one):
            return one
    return None


def _is_kept(entry: dict[str, Any]) -> bool:
    """Tell whether an entry, which anybody may have edited, is one of a file that duet keeps."""
    try:
        parity = ExportReport.model_validate(entry).parity
    except ValidationError:
        return False
    return parity is None or parity.ok


def check_export(
    model: Path | DetectorFile,
    target: Path,
    form: str,
    *,
    dynamic: bool = False,
    overwrite: bool = False,
    device: str | None = None,
) -> DetectorFile:
    """Open a detector and refuse an export that cannot work; errors as `export_detector`."""
    row = FORMATS.find(form)
    detector = _opened(model)
    family = resolve_family(detector.state.family)
    require_offered(family.exportable(detector.state), form, family.name)
    if dynamic and not row.dynamic:
        raise ConfigError(
            f"{form} files have no dynamic batch",
            where="--dynamic",
            remedy=f"{form} without it, or onnx, torchscript, openvino",
        )
    if detector.manifest.image_size % 32:
        raise ConfigError(
            f"image_size must be a multiple of 32, but got {detector.manifest.image_size}"
        )
    require_packages(row)
    if row.check is not None:
        row.check()
    device_for(row, device)
    _check_target(target, row, overwrite=overwrite)
    return detector


def _exportable(detector: DetectorFile) -> Exportable:
    return resolve_family(detector.state.family).exportable(detector.state)


def _opened(model: Path | DetectorFile) -> DetectorFile:
    return load_detector(model) if isinstance(model, Path) else model


def _check_target(target: Path, row: Format, *, overwrite: bool) -> None:
    if target.exists() and target.is_dir() != row.folder:
        kind = "this is a file" if row.folder else "this is a folder"
        raise ConfigError(
            kind, where=str(target), remedy=f"name one that ends in {row.suffix} for --out"
        )
    if not target.name.endswith(row.suffix) or target.name == row.suffix:
        raise ConfigError(
            f"names of form '{row.name}' must end in {row.suffix}, but got '{target.name}'",
            where=str(target),
            remedy=f"for example model{row.suffix}",
        )
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


def _kept(folder: Path) -> list[dict[str, Any]] | None:
    """Return the entries of a folder's `parity.json`; None when the file is somebody else's."""
    path = folder / PARITY
    if not path.exists():
        return []
    try:
        document = read_json(path)
        entries = document["exports"] if document["format"] == FORMAT else None
    except (DuetError, KeyError):
        return None
    if not isinstance(entries, list) or not all(isinstance(item, dict) for item in entries):
        return None
    return entries
