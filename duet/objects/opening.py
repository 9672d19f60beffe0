"""Opening a detector, whatever its path is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from duet.defaults import Runtime
from duet.families.foreign import is_foreign, open_model
from duet.fastest.load import load as load_fastest
from duet.inference.load import detector_folder, is_exported
from duet.objects.detector import Detector


def load(
    model: str | Path,
    device: str = "cpu",
    *,
    runtime: Runtime | None = None,
    trust: bool = False,
    notify: Callable[[str], None] | None = None,
) -> Detector:
    """Open a detector.

    Args:
        model: A detector folder or a file in it; an exported ``.onnx`` or ``.torchscript`` file or
            ``*_openvino_model`` folder; or a model that Ultralytics (``.pt``) or transformers (a
            folder) saved, which is opened as `duet import` would keep it.
        device: ``cpu``, ``mps``, ``cuda``, or a GPU: ``1`` or ``cuda:1``.
        runtime: The program that looks at images; default the one of an exported file, else torch.
            ``"onnx"`` and ``"openvino"`` export the detector on first use, check that the file
            computes the same and keep it; ``"auto"`` takes what is the fastest on this CPU. All
            but looking at images is torch's in any case.
        trust: **Dangerous**: also run a ``.torchscript`` file that duet did not export for this
            user, and unpickle a ``.pt`` file unchecked. They are programs, and could do anything
            that you can.
        notify: Called with a line when a foreign model was opened, and with what ``runtime`` did.

    Raises:
        ModelError: It is missing, incomplete or damaged, or a program that duet did not write.
        ConfigError: There is no such device or runtime, or not for an exported file.
        MissingExtraError: The packages that an exported file or a runtime needs are not installed.

    Example:
        >>> detector = duet.load("runs/demo/models/duet-plus/2-comic")
        >>> found = detector("photo.jpg")
    """
    path = Path(model)
    if is_exported(path):
        return Detector(
            None, device, load_fastest(path, device, runtime=runtime, trust=trust), path
        )
    from duet.increments.store import load_traces
    from duet.recipes.model import Model

    folder = detector_folder(path)
    file = open_model(folder, trust=trust, notify=notify)
    own = not is_foreign(folder)
    traces = load_traces(folder) if own else ()
    loaded = None  # torch looks at images
    if runtime not in (None, "torch"):
        loaded = load_fastest(folder, device, runtime=runtime, trust=trust, notify=notify)
    return Detector(Model(file, folder, own, traces), device, loaded)
