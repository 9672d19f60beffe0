"""Open a detector, by what its path is: a detector folder, or a file that `duet export` wrote."""

from __future__ import annotations

import importlib
from pathlib import Path

from duet.devices import parse_device, require_device
from duet.errors import ModelError
from duet.inference.detector import DetectorFacts, LoadedDetector

EXPORTED_SUFFIXES = (".onnx", ".torchscript")
EXPORTED_FOLDER = "_openvino_model"
"""How names of exported files and folders end."""

ALONE = "a detector runs"

_EXPORTED = "duet.inference.exported"


def load(model: str | Path, device: str = "cpu", *, trust: bool = False) -> LoadedDetector:
    """Open a detector.

    Args:
        model: A detector folder or a file in it; or an exported ``.onnx`` or ``.torchscript`` file
            or ``*_openvino_model`` folder.
        device: ``"cpu"``, ``"mps"``, ``"cuda"``, or a GPU: ``"1"`` or ``"cuda:1"``.
        trust: **Dangerous**: also run a ``.torchscript`` file that duet did not export for this
            user. It is a program, and could do anything that you can.

    Raises:
        ModelError: It is missing, incomplete or damaged, or a program that duet did not write.
        ConfigError: There is no such device.
        MissingExtraError: The packages that an exported file needs are not installed.
    """
    path = Path(model)
    if is_exported(path):
        return _load_exported(path, device, trust=trust)
    return _load_folder(path, device)


def is_exported(path: Path) -> bool:
    """Return whether a name is that of an exported file or folder."""
    return path.suffix.lower() in EXPORTED_SUFFIXES or path.name.endswith(EXPORTED_FOLDER)


def detector_folder(model: Path) -> Path:
    """Return the detector folder that ``model`` names: itself, or the folder of a file of it."""
    inside = model.is_file() and (model.parent / "manifest.json").is_file()
    return model.parent if inside else model


def _load_folder(path: Path, device: str) -> LoadedDetector:
    from duet.families.table import resolve_family
    from duet.increments import store

    file = store.load_detector(detector_folder(path))
    place = require_device(parse_device(device).single(ALONE)).torch_name
    size = file.manifest.image_size
    family = resolve_family(file.state.family)
    detector = family.detector(file.state, image_size=size, device=place)
    increments = tuple((part.increment, part.classes) for part in file.state.parts)
    facts = DetectorFacts(file.manifest.fingerprint, file.manifest.licence, size, increments)
    return LoadedDetector(detector, facts)


def _load_exported(path: Path, device: str, *, trust: bool) -> LoadedDetector:
    if not path.exists():
        raise ModelError("no such file or folder", where=str(path), remedy="check the path with ls")
    try:
        module = importlib.import_module(_EXPORTED)
    except ModuleNotFoundError as error:
        if error.name != _EXPORTED:
            raise
        raise ModelError(
            "this version of duet cannot open exported files",
            where=str(path),
            remedy="give the detector folder that the file was exported from",
        ) from None
    loaded: LoadedDetector = module.load_exported(path, device, trust=trust)
    return loaded
