"""Track ids: the same object in frame after frame (ByteTrack, from the package `trackers`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from duet.defaults import Confidence
from duet.detections import Detections, frozen_array
from duet.errors import DataError, MissingExtraError

LOW = 0.1
"""Score down to which a detection may continue a track (ByteTrack's second association)."""

NO_TRACK = -1


@dataclass(frozen=True, eq=False)
class TrackedDetections(Detections):
    """Detections that know which object they belong to.

    Attributes:
        track_ids: ``(n,)`` int64, from 1; -1 for a detection without a track (a track begins with
            an object's second frame).
    """

    track_ids: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        super().__post_init__()
        ids = frozen_array("track_ids", self.track_ids, np.int64)
        if len(ids) != len(self.scores):
            raise DataError(f"track_ids must have shape ({len(self.scores)},), but got {ids.shape}")
        object.__setattr__(self, "track_ids", ids)

    def above(self, conf: float) -> TrackedDetections:
        """Return the detections with a score of at least ``conf`` (``[0, 1]``)."""
        keep = self.scores >= np.float32(conf)
        return TrackedDetections(
            self.xyxy[keep], self.scores[keep], self.class_ids[keep], self.labels,
            self.track_ids[keep],
        )  # fmt: skip

    def as_records(self) -> list[dict[str, object]]:
        """Return JSON-ready records ``{name, score, xyxy, track}``; ``track`` may be None."""
        return [
            {**record, "track": None if track == NO_TRACK else int(track)}
            for record, track in zip(super().as_records(), self.track_ids, strict=True)
        ]

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections`` with ``tracker_id``."""
        found = super().to_supervision()
        found.tracker_id = self.track_ids.copy()
        return found


def low(confidence: Confidence) -> Confidence:
    """Return what scores must reach to be of use for a `Tracker` of that confidence."""
    if isinstance(confidence, tuple):
        return tuple(min(one, LOW) for one in confidence)
    return min(confidence, LOW)


class Tracker:
    """Gives detections track ids.

    Each class has a tracker of its own, and ids count through all classes: an id never changes its
    class. Where the detector wavers between two classes, two tracks appear, and the wavering shows.

    Args:
        confidence: Score from which a detection may begin a track, of all classes or of each.
        fps: Frames per second that the motion model thinks in.

    Raises:
        MissingExtraError: The package `trackers` is not installed.
    """

    def __init__(self, *, confidence: Confidence, fps: float | None) -> None:
        try:
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise MissingExtraError(
                "tracking needs the package trackers",
                where="--track",
                remedy='pip install "duet-detect[track]"',
            ) from error
        self._new: Callable[..., Any] = functools.partial(ByteTrackTracker, frame_rate=fps or 30.0)
        self._confidence = np.asarray(confidence, np.float32)
        self._trackers: dict[int, Any] = {}
        self._ids: dict[tuple[int, int], int] = {}
        self._time: float | None = None

    def update(self, detections: Detections, seconds: float) -> TrackedDetections:
        """Return the detections with track ids.

        Args:
            detections: Of one frame, down to a score of `LOW`.
            seconds: Time of the frame; later than that of the frame before.

        Returns:
            Detections that score at least ``confidence`` or continue a track, in their order.
        """
        if self._time is not None and seconds <= self._time:  # two frames of one instant
            seconds = float(np.nextafter(self._time, np.inf)) + 1e-4
        self._time = seconds
        ids = np.full(len(detections), NO_TRACK, np.int64)
        for class_id in {*self._trackers, *map(int, detections.class_ids)}:
            rows = np.flatnonzero(detections.class_ids == class_id)
            ids[rows] = self._of_class(class_id, detections, rows, seconds)
        keep = (detections.scores >= self._least(detections.class_ids)) | (ids != NO_TRACK)
        return TrackedDetections(
            detections.xyxy[keep], detections.scores[keep], detections.class_ids[keep],
            detections.labels, ids[keep],
        )  # fmt: skip

    def _least(self, class_ids: Any) -> Any:
        return self._confidence[class_ids] if self._confidence.ndim else self._confidence

    def _of_class(
        self, class_id: int, detections: Detections, rows: npt.NDArray[np.int64], seconds: float
    ) -> npt.NDArray[np.int64]:
        import supervision

        tracker = self._trackers.get(class_id)
        if tracker is None:
            least = float(self._least(class_id))
            tracker = self._trackers[class_id] = self._new(
                track_activation_threshold=least, high_conf_det_threshold=least
            )
        found = supervision.Detections(
            xyxy=detections.xyxy[rows].copy(),
            confidence=detections.scores[rows].copy(),
            class_id=detections.class_ids[rows].copy(),
            data={"row": np.arange(len(rows))},
        )
        tracked = tracker.update(found, timestamp=seconds)
        ids = np.full(len(rows), NO_TRACK, np.int64)
        for row, own in zip(tracked.data.get("row", ()), tracked.tracker_id, strict=True):
            if own != NO_TRACK:
                key = (class_id, int(own))
                ids[row] = self._ids.setdefault(key, len(self._ids) + 1)
        return ids
