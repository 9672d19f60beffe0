"""duet: teach a real-time detector new classes in new domains without the old images.

``duet.load(MODEL)`` opens a detector: ``detector(image)``, ``detector.stream(source)``. Names load
on first use, so that importing this package does not import torch.
"""

# Nothing of Python's library: this runs before `__main__` can take the working folder off the path.
from duet import imports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from duet.detections import Detections
    from duet.errors import DuetError
    from duet.inference.detector import LoadedDetector
    from duet.inference.frames import Frame
    from duet.inference.load import load
    from duet.inference.reader import Retry

__version__ = "0.1.0"

__all__ = ["Detections", "DuetError", "Frame", "LoadedDetector", "Retry", "load"]

_HOME = {
    "Detections": "duet.detections",
    "DuetError": "duet.errors",
    "Frame": "duet.inference.frames",
    "LoadedDetector": "duet.inference.detector",
    "Retry": "duet.inference.reader",
    "load": "duet.inference.load",
}

imports.install()


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'duet' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
