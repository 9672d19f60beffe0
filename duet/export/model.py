"""From the path of a model to its exported file: where it goes, and whether it is there already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duet.errors import ConfigError
from duet.export.export import Step, check_export, export_detector, whole_export
from duet.export.formats import FORMATS
from duet.families.foreign import file_name, is_foreign, open_model
from duet.files import refuse_links
from duet.increments.store import DetectorFile
from duet.trees import resolved


@dataclass(frozen=True)
class Exported:
    """What an export did.

    Attributes:
        document: The entry of `parity.json`, or the plan, as JSON-ready data.
        held: Whether the file was there already, made of the same detector in the same way.
    """

    document: dict[str, Any]
    held: bool = False


def target_of(model: Path, form: str, out: Path | None = None) -> Path:
    """Return where an export goes: into the detector folder, but not beside a stranger's file.

    Args:
        model: Detector folder, or a model of another program.
        form: Name of a format.
        out: What the user chose instead.

    Raises:
        ConfigError: No such format, or the file would replace the model.
        DuetError: The folder for it is a link.
    """
    suffix = FORMATS.find(form).suffix
    folder, name = (Path(), file_name(model)) if is_foreign(model) else (model, "model")
    default = folder / "export" / f"{name}{suffix}"
    target = default if out is None else out
    if target == default:
        refuse_links(folder, ["export"])
    if resolved(target) == resolved(model):
        raise ConfigError(
            "this is the model itself, which is never replaced",
            where=str(target),
            remedy="choose another --out",
        )
    return target


def export_model(
    model: Path,
    target: Path,
    form: str,
    *,
    images: Sequence[Path] = (),
    dynamic: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    trust: bool = False,
    dry_run: bool = False,
    notify: Callable[[str], None] | None = None,
    progress: Step | None = None,
) -> Exported:
    """Open a model and export it, unless the very file is there already; see `export_detector`.

    Args:
        model: Detector folder, or a model of another program as `duet import` takes it.
        target: As `target_of` returns it.
        form: Name of a format.
        images: Images to compare on; a few synthetic ones when left out.
        dynamic: Let the file take batches of any size.
        overwrite: Replace an older export.
        device: See `duet.export.formats.device_for`.
        trust: **Dangerous**, see `duet.families.foreign.open_model`.
        dry_run: Check everything, write nothing.
        notify: Called with one line when a foreign model was opened.
        progress: Called after each of three steps.
    """
    opened = open_model(model, trust=trust, notify=notify)
    how: dict[str, Any] = {"dynamic": dynamic, "overwrite": overwrite, "device": device}
    if not overwrite:
        kept = whole_export(opened, target, form, images=images, dynamic=dynamic)
        if kept is not None:
            return Exported({"path": str(target), **kept}, held=True)
    if dry_run:
        check_export(opened, target, form, **how)
        return Exported(_plan(opened, target, form, dynamic, len(images)))
    report = export_detector(opened, target, form, images=images, progress=progress, **how)
    return Exported({"path": str(target), **report.model_dump(mode="json")})


def _plan(
    opened: DetectorFile, target: Path, form: str, dynamic: bool, images: int
) -> dict[str, Any]:
    return {
        "dry_run": True,
        "path": str(target),
        "form": form,
        "dynamic": dynamic,
        "model": opened.manifest.fingerprint,
        "image_size": opened.manifest.image_size,
        "classes": list(opened.state.labels),
        "check_images": images,
    }
