"""Open a detector, by what its path is: a folder of duet, an exported file, a foreign model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from duet.devices import one_place
from duet.families.foreign import is_foreign, open_model
from duet.families.table import resolve_family
from duet.increments.scores import thresholds
from duet.inference.detector import DetectorFacts, LoadedDetector

if TYPE_CHECKING:
    from duet.increments.store import DetectorFile

EXPORTED_SUFFIXES = (".onnx", ".torchscript")
EXPORTED_FOLDER = "_openvino_model"
"""How names of exported files and folders end."""


def load(
    model: str | Path,
    device: str = "cpu",
    *,
    trust: bool = False,
    notify: Callable[[str], None] | None = None,
) -> LoadedDetector:
    """Open a detector as what looks at images; arguments and errors are those of `duet.load`."""
    path = Path(model)
    if is_exported(path):
        from duet.inference.exported import load_exported

        return load_exported(path, device, trust=trust)
    return running(open_model(detector_folder(path), trust=trust, notify=notify), device)


def running(file: DetectorFile, device: str) -> LoadedDetector:
    """Return what looks at images with a detector; ``device`` as in `duet.devices.parse_device`.

    Raises:
        ConfigError: There is no such device.
    """
    size, place = file.manifest.image_size, one_place(device)
    detector = resolve_family(file.state.family).detector(file.state, image_size=size, device=place)
    return LoadedDetector(detector, facts_of(file))


def facts_of(file: DetectorFile) -> DetectorFacts:
    """Return what a detector's manifest says of it."""
    parts = tuple((part.increment, part.classes) for part in file.state.parts)
    own = file.manifest
    limits = thresholds(file.state.scores)
    return DetectorFacts(own.fingerprint, own.licence, own.image_size, parts, limits)


def is_exported(path: Path) -> bool:
    """Return whether a name is that of an exported file or folder."""
    return path.suffix.lower() in EXPORTED_SUFFIXES or path.name.endswith(EXPORTED_FOLDER)


def detector_folder(model: Path) -> Path:
    """Return the detector folder that ``model`` names: itself, or the folder of a file of it."""
    inside = model.is_file() and (model.parent / "manifest.json").is_file()
    return model.parent if inside and not is_foreign(model) else model
