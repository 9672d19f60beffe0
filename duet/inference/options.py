"""How to look: the values that every way of detecting shares."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from duet.defaults import AGNOSTIC, IOU, Agnostic
from duet.detections import Detections
from duet.errors import ConfigError, did_you_mean

Look = Callable[..., list[Detections]]
"""``look(images, confidence=, iou=, agnostic=)``: BGR uint8 images in, one result each."""

Notify = Callable[[str], None]
"""Called with one line for people."""


@dataclass(frozen=True)
class Retry:
    """How to come back to a live source that was lost.

    Attributes:
        first: Seconds before the first try.
        longest: Seconds between two tries at most; each wait doubles until there.
        attempts: Tries in a row before giving up; None for no limit.
        give_up_after: Seconds without a frame before giving up; None for no limit.
    """

    first: float = 0.5
    longest: float = 10.0
    attempts: int | None = None
    give_up_after: float | None = None

    def __post_init__(self) -> None:
        for name in ("first", "longest", "attempts", "give_up_after"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"{name} must not be negative, but got {value}", where=name)

    def wait(self, attempt: int) -> float:
        """Return the seconds before try ``attempt`` (from 0), with jitter.

        The jitter of up to a half keeps a hundred clients from returning in the same instant.
        """
        return float(
            min(self.longest, self.first * 2.0 ** min(attempt, 30)) * random.uniform(0.5, 1)
        )

    def over(self, attempt: int, lost: float) -> bool:
        """Return whether to stop trying, ``lost`` seconds after the last frame."""
        tries = self.attempts is not None and attempt >= self.attempts
        return tries or (self.give_up_after is not None and lost >= self.give_up_after)


@dataclass(frozen=True)
class Options:
    """How to look at a video, webcam or network stream.

    Attributes:
        confidence: Lowest score that counts, ``[0, 1]``; None: the detector's own of each class,
            else `duet.defaults.CONFIDENCE`.
        iou: Boxes of one class that overlap more are one object, ``[0, 1]``.
        agnostic: Which classes suppress each other's boxes, see `duet.defaults.Agnostic`.
        track: Give objects track ids (needs the extra ``track``).
        newest: Skip frames that came while the detector was busy. None: for live sources, not for
            recordings. A recording with ``newest=True`` plays at its own speed.
        frames: Stop after so many frames.
        seconds: Stop after so many seconds, of the recording or of real time if live.
        timeout: Seconds of silence after which a network source is lost [5].
        retry: How to come back to a lost live source.
        notify: Called with one line when a source is lost or back.
    """

    confidence: float | None = None
    iou: float = IOU
    agnostic: Agnostic = AGNOSTIC
    track: bool = False
    newest: bool | None = None
    frames: int | None = None
    seconds: float | None = None
    timeout: float | None = None
    retry: Retry | None = None
    notify: Notify | None = None

    def __post_init__(self) -> None:
        check_looking(self.confidence, self.iou, self.agnostic)
        for key, value in (("frames", self.frames), ("seconds", self.seconds)):
            if value is not None and value <= 0:
                raise ConfigError(f"{key} must be above 0, but got {value}", where=key)


def check_looking(confidence: float | None, iou: float, agnostic: str) -> None:
    """Check that both numbers are in ``[0, 1]``, and that there is such a suppression.

    Raises:
        ConfigError: One is not.
    """
    for key, value in (("confidence", confidence), ("iou", iou)):
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"{key} must be in [0, 1], but got {value}", where=key)
    known = get_args(Agnostic)
    if agnostic not in known:
        raise ConfigError(
            f"agnostic must be one of {', '.join(known)}, but got {agnostic!r}"
            f"{did_you_mean(str(agnostic), known)}",
            where="agnostic",
        )
