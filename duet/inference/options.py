"""How to look: the values that every way of detecting shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from duet.detections import Detections
from duet.errors import ConfigError

Look = Callable[..., list[Detections]]
"""``look(images, confidence=, iou=)``: BGR uint8 images of any size in, one result each."""

Notify = Callable[[str], None]
"""Called with one line for people."""


@dataclass(frozen=True)
class Options:
    """How to look at a stream; see `LoadedDetector.stream`."""

    confidence: float = 0.25
    iou: float = 0.7
    track: bool = False
    newest: bool | None = None
    frames: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        check_thresholds(self.confidence, self.iou)
        for key, value in (("frames", self.frames), ("seconds", self.seconds)):
            if value is not None and value <= 0:
                raise ConfigError(f"{key} must be above 0, but got {value}", where=key)


def check_thresholds(confidence: float, iou: float) -> None:
    """Check that both are in ``[0, 1]``.

    Raises:
        ConfigError: One is not.
    """
    for key, value in (("confidence", confidence), ("iou", iou)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{key} must be in [0, 1], but got {value}", where=key)
