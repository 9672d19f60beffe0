"""`Detections`: what a detector found in one image; the only type that crosses family borders."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from duet.errors import DataError
from duet.labels import LabelSpace

_SHOWN = 12  # lines that a prompt shows


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The objects found in one image, in the order the detector gave them.

    Arrays are copied, converted to the dtypes below and made read-only. Boxes may reach outside the
    image and may be inverted (an untrained detector does that); evaluation counts such boxes as
    false positives.

    Attributes:
        xyxy: ``(n, 4)`` float32, left, top, right, bottom in absolute pixels of the original image.
        scores: ``(n,)`` float32, confidence in ``[0, 1]``.
        class_ids: ``(n,)`` int64, position of the class in ``labels``.
        labels: The classes that the detector knows.
    """

    xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    labels: LabelSpace

    def __post_init__(self) -> None:
        xyxy = frozen_array("xyxy", self.xyxy, np.float32, columns=4)
        scores = frozen_array("scores", self.scores, np.float32)
        class_ids = frozen_array("class_ids", self.class_ids, np.int64)
        for name, array in (("scores", scores), ("class_ids", class_ids)):
            if len(array) != len(xyxy):
                raise DataError(
                    f"{name} must have shape ({len(xyxy)},) like xyxy, but got {array.shape}"
                )
        if scores.size and (scores.min() < 0 or scores.max() > 1):
            raise DataError(
                f"scores must be in [0, 1], but got [{scores.min():g}, {scores.max():g}]"
            )
        check_class_ids(class_ids, self.labels)
        object.__setattr__(self, "xyxy", xyxy)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "class_ids", class_ids)

    @classmethod
    def empty(cls, labels: LabelSpace) -> Detections:
        """Return the result of an image in which nothing was found."""
        return cls(
            np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), labels
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        """Return a line for each of the first detections: a prompt shows them, not their arrays."""
        rows = zip(self.names[:_SHOWN], self.scores, self.xyxy, strict=False)
        lines = [
            f"  {name} {score:.2f} [{', '.join(f'{value:.1f}' for value in box)}]"
            for name, score, box in rows
        ]
        more = [f"  and {len(self) - _SHOWN} more"] if len(self) > _SHOWN else []
        return "\n".join([f"Detections: {len(self)} (name, score, xyxy)", *lines, *more])

    @property
    def names(self) -> tuple[str, ...]:
        """Class name of every detection, in order."""
        return tuple(self.labels.names[index] for index in self.class_ids)

    def above(self, conf: float) -> Detections:
        """Return the detections with a score of at least ``conf`` (``[0, 1]``)."""
        keep = self.scores >= np.float32(conf)
        return Detections(self.xyxy[keep], self.scores[keep], self.class_ids[keep], self.labels)

    def shown(self, thresholds: Mapping[str, float]) -> Detections:
        """Return the detections that score at least the threshold of their class, by its name."""
        least = np.array([thresholds[name] for name in self.labels], np.float32)
        keep = self.scores >= least[self.class_ids]
        return Detections(self.xyxy[keep], self.scores[keep], self.class_ids[keep], self.labels)

    def of(self, names: Collection[str]) -> Detections:
        """Return the detections whose class is among ``names``."""
        wanted = [self.labels.index(name) for name in names if name in self.labels]
        keep = np.isin(self.class_ids, wanted)
        return Detections(self.xyxy[keep], self.scores[keep], self.class_ids[keep], self.labels)

    def as_records(self) -> list[dict[str, object]]:
        """Return JSON-ready records ``{name, score, xyxy}``; pixels rounded to 0.001."""
        return [
            {
                "name": name,
                "score": round(float(score), 6),
                "xyxy": [round(float(value), 3) for value in box],
            }
            for name, score, box in zip(self.names, self.scores, self.xyxy, strict=True)
        ]

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections`` with the names in ``data["class_name"]``."""
        import supervision

        return supervision.Detections(
            xyxy=self.xyxy.copy(),
            confidence=self.scores.copy(),
            class_id=self.class_ids.copy(),
            data={"class_name": np.asarray(self.names, dtype=str)},
        )


def frozen_array(name: str, value: object, dtype: Any, *, columns: int | None = None) -> Any:
    """Return ``value`` as a read-only copy of the given dtype.

    Args:
        name: Shown in errors.
        value: Anything numpy reads as an array; an empty list stands for no rows.
        dtype: Target dtype; an integer dtype refuses fractional input.
        columns: ``(n, columns)`` is expected when given, else ``(n,)``.

    Raises:
        DataError: Wrong shape, not numeric, or not finite.
    """
    array = np.asarray(value)
    expected = "(n,)" if columns is None else f"(n, {columns})"
    if array.size == 0 and array.ndim == 1:
        array = np.zeros((0,) if columns is None else (0, columns), dtype)
    fits = array.ndim == 1 if columns is None else array.ndim == 2 and array.shape[1] == columns
    if not fits:
        raise DataError(f"{name} must have shape {expected}, but got {array.shape}")
    kinds = "iu" if np.issubdtype(dtype, np.integer) else "iuf"
    if array.dtype.kind not in kinds:
        wanted = "whole numbers" if kinds == "iu" else "numbers"
        raise DataError(f"{name} must hold {wanted} ({np.dtype(dtype)}), but got {array.dtype}")
    if not np.isfinite(array).all():
        raise DataError(
            f"{name} must be finite, but got {int((~np.isfinite(array)).sum())} NaN or infinite",
            remedy="the detector diverged; lower the learning rate or check its input",
        )
    array = array.astype(dtype, copy=True)
    array.flags.writeable = False
    return array


def check_class_ids(class_ids: npt.NDArray[np.int64], labels: LabelSpace) -> None:
    """Check that every id is a position in ``labels``.

    Raises:
        DataError: An id is negative or too large.
    """
    if class_ids.size and (class_ids.min() < 0 or class_ids.max() >= len(labels)):
        raise DataError(
            f"class_ids must be in 0..{len(labels) - 1} ({len(labels)} classes), "
            f"but got {int(class_ids.min())}..{int(class_ids.max())}"
        )


def remapped_ids(source: LabelSpace, target: LabelSpace) -> npt.NDArray[np.int64]:
    """Return ``(source,)``: the position in ``target`` of each class of ``source``, -1 of others.

    Classes are the same if their names are.
    """
    places = [target.index(name) if name in target else -1 for name in source]
    return np.array(places, np.int64)
