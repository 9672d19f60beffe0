"""Opening a detector, whatever its path is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from duet.families.foreign import is_foreign, open_model
from duet.inference.load import detector_folder, is_exported
from duet.inference.load import load as load_exported
from duet.objects.detector import Detector


def load(
    model: str | Path,
    device: str = "cpu",
    *,
    trust: bool = False,
    notify: Callable[[str], None] | None = None,
) -> Detector:
    """Open a detector.

    Args:
        model: A detector folder or a file in it; an exported ``.onnx`` or ``.torchscript`` file or
            ``*_openvino_model`` folder; or a model that Ultralytics (``.pt``) or transformers (a
            folder) saved, which is opened as `duet import` would keep it.
        device: ``cpu``, ``mps``, ``cuda``, or a GPU: ``1`` or ``cuda:1``.
        trust: **Dangerous**: also run a ``.torchscript`` file that duet did not export for this
            user, and unpickle a ``.pt`` file unchecked. They are programs, and could do anything
            that you can.
        notify: Called with one line when a foreign model was opened.

    Raises:
        ModelError: It is missing, incomplete or damaged, or a program that duet did not write.
        ConfigError: There is no such device.
        MissingExtraError: The packages that an exported file needs are not installed.

    Example:
        >>> detector = duet.load("runs/demo/models/duet-plus/2-comic")
        >>> found = detector("photo.jpg")
    """
    path = Path(model)
    if is_exported(path):
        return Detector(None, device, load_exported(path, device, trust=trust), path)
    from duet.increments.store import load_traces
    from duet.recipes.model import Model

    folder = detector_folder(path)
    file = open_model(folder, trust=trust, notify=notify)
    own = not is_foreign(folder)
    traces = load_traces(folder) if own else ()
    return Detector(Model(file, folder, own, traces), device)
