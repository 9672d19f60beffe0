"""`LoadedDetector`: a detector and the facts about it, whatever file it came from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from duet.defaults import AGNOSTIC, CONFIDENCE, IOU, Agnostic, Confidence
from duet.detections import Detections
from duet.errors import DataError, ModelError
from duet.images import Image
from duet.inference.options import Look, Options, check_looking
from duet.labels import LabelSpace
from duet.series.images import read_sound

if TYPE_CHECKING:
    from duet.inference.stream import Stream


@dataclass(frozen=True)
class DetectorFacts:
    """What is known of a detector beside its weights.

    Attributes:
        fingerprint: SHA-256 of its state, hexadecimal.
        licence: SPDX identifier of the engine.
        image_size: Side of the network's input in pixels.
        increments: ``(name, classes)`` of each increment, oldest first; the classes in order are
            those of the detector's output.
        thresholds: Class name -> lowest score that counts, ``[0, 1]``, of those classes that have
            one of their own.
    """

    fingerprint: str
    licence: str
    image_size: int
    increments: tuple[tuple[str, tuple[str, ...]], ...]
    thresholds: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.classes:
            raise ModelError("the detector knows no classes")
        if self.image_size < 1:
            raise ModelError(f"image_size must be positive, but got {self.image_size}")
        LabelSpace(self.classes)
        known = self.classes
        wrong = [
            f"{value} for '{name}'"
            for name, value in self.thresholds.items()
            if name not in known or not 0 <= value <= 1
        ]
        if wrong:
            raise ModelError(
                "thresholds must be in [0, 1] and of classes that the detector knows, but got "
                f"{', '.join(wrong)}"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the detector's outputs."""
        return tuple(name for _, classes in self.increments for name in classes)


@dataclass(frozen=True)
class LoadedDetector:
    """A detector, ready to look at images.

    Attributes:
        detector: Looks at images, see `Look`.
        facts: What is known of it.
        runtime: Program that runs it: torch, or a key of `duet.families.runtimes.RUNTIMES`.
    """

    detector: Look = field(repr=False)
    facts: DetectorFacts
    runtime: str = "torch"

    @functools.cached_property
    def labels(self) -> LabelSpace:
        """The classes it knows."""
        return LabelSpace(self.facts.classes)

    @functools.cached_property
    def increments(self) -> tuple[str, ...]:
        """Increment that each class came with, in the order of ``labels``."""
        return tuple(name for name, classes in self.facts.increments for _ in classes)

    def thresholds(self, confidence: float | None = None) -> dict[str, float]:
        """Return the lowest score that counts of every class, in the order of ``labels``.

        Args:
            confidence: What was asked for: a value for all classes, or None for the detector's
                own, and `duet.defaults.CONFIDENCE` where it has none.
        """
        own = self.facts.thresholds if confidence is None else {}
        other = CONFIDENCE if confidence is None else confidence
        return {name: own.get(name, other) for name in self.labels}

    def least(self, confidence: float | None = None) -> Confidence:
        """Return `thresholds` as ``detector`` takes them."""
        values = tuple(self.thresholds(confidence).values())
        return values if len(set(values)) > 1 else values[0]

    def __call__(
        self,
        image: Image | str | Path,
        *,
        confidence: float | None = None,
        iou: float = IOU,
        agnostic: Agnostic = AGNOSTIC,
    ) -> Detections:
        """Detect objects in one image.

        Args:
            image: ``(H, W, 3)`` uint8 BGR, or the path of an image file.
            confidence: Lowest score that counts, ``[0, 1]``; by default see `thresholds`.
            iou: Boxes of one class that overlap more are one object, ``[0, 1]``.
            agnostic: Which classes suppress each other's boxes, see `duet.defaults.Agnostic`: a box
                goes if it overlaps a better one of theirs by more than `duet.defaults.DOUBLE_IOU`;
                between increments only a clearly better one (`duet.defaults.CLEAR`).

        Returns:
            Boxes in pixels of the image.

        Raises:
            ConfigError: A threshold is out of range, or there is no such ``agnostic``.
            DataError: Not an image, or one that is cut off or damaged.
        """
        check_looking(confidence, iou, agnostic)
        if isinstance(image, (str, Path)):
            image = read_sound(Path(image))
        fits = isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3
        if not fits or image.dtype != np.uint8 or not image.size:
            raise DataError(
                "expected an image of shape (H, W, 3) and dtype uint8, but got "
                f"{getattr(image, 'shape', type(image).__name__)} {getattr(image, 'dtype', '')}",
                remedy="BGR order, as cv2.imread gives it; a grey image needs cv2.cvtColor",
            )
        return self.many([image], confidence=confidence, iou=iou, agnostic=agnostic)[0]

    def many(
        self,
        images: Sequence[Image],
        *,
        confidence: float | None = None,
        iou: float = IOU,
        agnostic: Agnostic = AGNOSTIC,
    ) -> list[Detections]:
        """Detect objects in several BGR uint8 images at once, as in one."""
        return self.detector(images, confidence=self.least(confidence), iou=iou, agnostic=agnostic)

    def stream(self, source: str | Path | int, **options: Any) -> Stream:
        """Detect objects in a video, webcam or network stream, frame by frame.

        Args:
            source: Path of a video, number of a webcam, or URL.
            options: Fields of `Options`.

        Returns:
            An iterable of ``(frame, detections)``, which ends by itself with a recording.

        Raises:
            ConfigError: An option is out of range or does not fit the source.
            DataError: The source cannot be opened.
            MissingExtraError: ``track`` without its package.
        """
        from duet.inference.stream import open_stream

        chosen = Options(**options)
        least, side = self.least(chosen.confidence), self.facts.image_size
        return open_stream(self.detector, side, source, chosen, least)


Model = LoadedDetector | Callable[[], LoadedDetector]
"""A detector, or what opens it: long work is checked in full before weights are read."""


def opened(model: Model) -> LoadedDetector:
    """Return the detector, opened if it is not yet."""
    return model if isinstance(model, LoadedDetector) else model()
