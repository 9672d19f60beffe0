"""duet: teach a real-time detector new classes in new domains without the old images.

    import duet
    run = duet.learn("shop.yaml", ["duet-plus", "seq-ft"], start="yolo11n.pt", out="runs/shop")
    detector = run.detector
    found = detector("photo.jpg")

`duet.api` has the functions. Names load on first use, so that importing this package imports no
torch.
"""

# Nothing of Python's library: this runs before `__main__` can take the working folder off the path.
from duet import imports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from duet.api import (
        compare,
        evaluate,
        learn,
        learn_increment,
        load,
        load_increment,
        merge,
        read_series,
    )
    from duet.detections import Detections
    from duet.errors import DuetError
    from duet.evaluation.gate import Gate
    from duet.inference.frames import Frame
    from duet.inference.options import Retry
    from duet.objects.detector import Detector
    from duet.objects.increment import Increment
    from duet.objects.run import Run

__version__ = "0.1.0"

_HOME = {
    "Detections": "duet.detections",
    "Detector": "duet.objects.detector",
    "DuetError": "duet.errors",
    "Frame": "duet.inference.frames",
    "Gate": "duet.evaluation.gate",
    "Increment": "duet.objects.increment",
    "Retry": "duet.inference.options",
    "Run": "duet.objects.run",
    "compare": "duet.api",
    "evaluate": "duet.api",
    "learn": "duet.api",
    "learn_increment": "duet.api",
    "load": "duet.objects.opening",
    "load_increment": "duet.api",
    "merge": "duet.api",
    "read_series": "duet.api",
}

__all__ = [
    "Detections",
    "Detector",
    "DuetError",
    "Frame",
    "Gate",
    "Increment",
    "Retry",
    "Run",
    "compare",
    "evaluate",
    "learn",
    "learn_increment",
    "load",
    "load_increment",
    "merge",
    "read_series",
]

imports.install()


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'duet' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
