"""Open a detector, by what its path is: a folder of duet, an exported file, a foreign model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from duet.devices import one_place
from duet.families.foreign import is_foreign, open_model
from duet.inference.detector import DetectorFacts, LoadedDetector

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
    """Open a detector.

    Args:
        model: A detector folder or a file in it; an exported ``.onnx`` or ``.torchscript`` file or
            ``*_openvino_model`` folder; or a model that Ultralytics (``.pt``) or transformers (a
            folder) saved, which is opened as `duet import` would keep it.
        device: ``"cpu"``, ``"mps"``, ``"cuda"``, or a GPU: ``"1"`` or ``"cuda:1"``.
        trust: **Dangerous**: also run a ``.torchscript`` file that duet did not export for this
            user, and unpickle a ``.pt`` file unchecked. They are programs, and could do anything
            that you can.
        notify: Called with one line when a foreign model was opened.

    Raises:
        ModelError: It is missing, incomplete or damaged, or a program that duet did not write.
        ConfigError: There is no such device.
        MissingExtraError: The packages that an exported file needs are not installed.
    """
    path = Path(model)
    if is_exported(path):
        from duet.inference.exported import load_exported

        return load_exported(path, device, trust=trust)
    return _load_model(path, device, trust, notify)


def is_exported(path: Path) -> bool:
    """Return whether a name is that of an exported file or folder."""
    return path.suffix.lower() in EXPORTED_SUFFIXES or path.name.endswith(EXPORTED_FOLDER)


def detector_folder(model: Path) -> Path:
    """Return the detector folder that ``model`` names: itself, or the folder of a file of it."""
    inside = model.is_file() and (model.parent / "manifest.json").is_file()
    return model.parent if inside and not is_foreign(model) else model


def _load_model(
    path: Path, device: str, trust: bool, notify: Callable[[str], None] | None
) -> LoadedDetector:
    from duet.families.table import resolve_family

    file = open_model(detector_folder(path), trust=trust, notify=notify)
    place = one_place(device)
    size = file.manifest.image_size
    family = resolve_family(file.state.family)
    detector = family.detector(file.state, image_size=size, device=place)
    increments = tuple((part.increment, part.classes) for part in file.state.parts)
    facts = DetectorFacts(file.manifest.fingerprint, file.manifest.licence, size, increments)
    return LoadedDetector(detector, facts)
