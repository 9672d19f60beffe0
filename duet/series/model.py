"""The data of a series: labelled images in splits, and the slices cut from them.

Shape legend: n boxes of one image; every box is `cxcywh`, normalised by the image's size to 0..1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from duet.errors import DataError, did_you_mean
from duet.labels import LabelSpace
from duet.series.images import image_sha256

Ids: TypeAlias = NDArray[np.int64]
Boxes: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]


COLUMNS = ("class_ids", "boxes", "ignored", "crowds")
"""What an `Annotation` says of each object."""


@lru_cache(maxsize=1024)
def none_of(count: int) -> Flags:
    """Return ``(count,) bool``, all false; shared by all images with as many objects."""
    flags: Flags = np.zeros(count, dtype=np.bool_)
    flags.setflags(write=False)
    return flags


@dataclass(frozen=True, eq=False)
class Annotation:
    """The labelled objects of one image.

    Attributes:
        class_ids: ``(n,) int64`` indices into the data set's label space.
        boxes: ``(n, 4) float64`` cxcywh, normalised to 0..1.
        width: Image width in pixels, upright.
        height: Image height in pixels, upright.
        ignored: ``(n,) bool``: objects that are neither learned from nor scored (VOC's difficult,
            COCO's crowds); none by default.
        crowds: ``(n,) bool``: those of them that are a region of many objects (COCO's iscrowd).
    """

    class_ids: Ids
    boxes: Boxes
    width: int
    height: int
    ignored: Flags = field(default_factory=lambda: none_of(0))
    crowds: Flags = field(default_factory=lambda: none_of(0))

    def __post_init__(self) -> None:
        ids, boxes = self.class_ids, self.boxes
        if ids.ndim != 1 or ids.dtype != np.int64:
            raise DataError(f"class_ids must be (n,) int64, got {ids.shape} {ids.dtype}")
        if boxes.shape != (len(ids), 4) or boxes.dtype != np.float64:
            raise DataError(
                f"boxes must be ({len(ids)}, 4) float64, got {boxes.shape} {boxes.dtype}"
            )
        # A NaN fails this comparison too.
        if ids.size and not (ids.min() >= 0 and boxes.min() >= 0 and boxes.max() <= 1):
            raise DataError("class_ids must be >= 0 and boxes cxcywh within 0..1")
        for name in ("ignored", "crowds"):
            flags = getattr(self, name)
            if not len(flags):
                object.__setattr__(self, name, none_of(len(ids)))
            elif flags.shape != ids.shape or flags.dtype != np.bool_:
                raise DataError(f"{name} must be {ids.shape} bool, got {flags.shape} {flags.dtype}")
        if (self.crowds & ~self.ignored).any():
            raise DataError(
                "a crowd is an ignored region: 'ignored' must be true where 'crowds' is"
            )
        if self.width < 0 or self.height < 0:
            raise DataError(f"image size must not be negative, got {self.width}x{self.height}")

    @property
    def object_ids(self) -> Ids:
        """``(m,) int64`` class ids of the objects that count: those that are not ignored."""
        return self.class_ids[~self.ignored]

    @property
    def xyxy(self) -> Boxes:
        """``(n, 4) float64`` left, top, right, bottom in pixels of the upright image."""
        centre, half = self.boxes[:, :2], self.boxes[:, 2:] / 2
        scale = np.array([self.width, self.height] * 2, np.float64)
        return np.concatenate([centre - half, centre + half], axis=1) * scale

    def take(self, rows: NDArray[np.int64] | Flags) -> Annotation:
        """Return some of the objects, by position or by a mask."""
        return replace(self, **{name: getattr(self, name)[rows] for name in COLUMNS})

    def renumbered(self, new_ids: Ids) -> Annotation:
        """Return the objects of the classes that are kept, under their new ids.

        Args:
            new_ids: ``(classes,) int64``: the new id of each class, -1 for one that is left out.
        """
        ids = new_ids[self.class_ids]
        columns: dict[str, Any] = {name: getattr(self, name)[ids >= 0] for name in COLUMNS}
        return replace(self, **{**columns, "class_ids": ids[ids >= 0]})


@dataclass(frozen=True)
class Split:
    """The images of one split and what is on them, in the same order."""

    name: str
    images: tuple[Path, ...]
    annotations: tuple[Annotation, ...]

    def __post_init__(self) -> None:
        _check_lengths(f"split '{self.name}'", images=self.images, annotations=self.annotations)


@dataclass(frozen=True)
class DomainData:
    """A labelled data set of one domain.

    Attributes:
        name: The domain.
        labels: All classes of the data set, in the order of its label files.
        splits: ``train``, ``val`` and perhaps ``test``.
        source: The file that describes the data set.
        form: Its format, one of `table.FORMATS`; empty where it cannot be told.
    """

    name: str
    labels: LabelSpace
    splits: Mapping[str, Split]
    source: Path
    form: str = ""

    @cached_property
    def objects(self) -> Mapping[str, frozenset[str]]:
        """Per split, the classes that an image shows, ignored objects aside."""
        return {name: self._shown(split, ignored=False) for name, split in self.splits.items()}

    @cached_property
    def labelled(self) -> frozenset[str]:
        """The classes that somebody labelled: those with an object in any split, ignored or not."""
        shown = (self._shown(split, ignored=True) for split in self.splits.values())
        return frozenset[str]().union(*shown)

    @property
    def images(self) -> tuple[Path, ...]:
        """The images of all splits."""
        return tuple(image for split in self.splits.values() for image in split.images)

    def _shown(self, split: Split, *, ignored: bool) -> frozenset[str]:
        rows = split.annotations
        ids = (row.class_ids if ignored else row.object_ids for row in rows)
        found = np.unique(np.concatenate([np.zeros(0, np.int64), *ids]))
        names = self.labels.names  # none of them if data.yaml itself is wrong
        return frozenset(names[index] for index in found.tolist() if index < len(names))

    def split(self, name: str) -> Split:
        """Return the split called ``name``.

        Raises:
            DataError: The data set has no such split.
        """
        if name not in self.splits:
            known = ", ".join(self.splits) or "none"
            raise DataError(
                f"no split '{name}'{did_you_mean(name, self.splits)}",
                where=str(self.source),
                remedy=f"splits of this data set: {known}",
            )
        return self.splits[name]


@dataclass(frozen=True, eq=False)
class Slice:
    """Images of one split with only the labels of some classes; every tuple has one item per image.

    Attributes:
        domain: The domain of the images.
        split: The split they come from.
        classes: The classes whose labels are kept.
        images: Image files.
        annotations: Their objects; ids count in ``classes`` (not in the data set's). A training
            slice has no ignored ones.
        labelled: Per image the classes that were labelled in its data set: for others it counts
            neither way. Empty: all of them on every image.
    """

    domain: str
    split: str
    classes: tuple[str, ...]
    images: tuple[Path, ...]
    annotations: tuple[Annotation, ...]
    labelled: tuple[frozenset[str], ...] = ()

    def __post_init__(self) -> None:
        _check_lengths(
            f"slice of '{self.domain}'",
            images=self.images,
            annotations=self.annotations,
            labelled=self.labelled or self.images,
        )
        LabelSpace(self.classes)
        highest = max((int(ids.max(initial=-1)) for ids in self.class_ids), default=-1)
        if highest >= len(self.classes):
            raise DataError(f"class_ids must be below {len(self.classes)}, got {highest}")

    @property
    def class_ids(self) -> tuple[Ids, ...]:
        """Per image ``(n,) int64`` indices into ``classes``."""
        return tuple(found.class_ids for found in self.annotations)

    @property
    def boxes(self) -> tuple[Boxes, ...]:
        """Per image ``(n, 4) float64`` cxcywh, normalised to 0..1."""
        return tuple(found.boxes for found in self.annotations)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def sha256(self) -> str:
        """Hash of the content: classes, image bytes and labels; not of paths or their order.

        Flags count only on images with an ignored object, so a slice without any has one hash,
        whichever format it was read from; `labelled` only where it says something.

        Raises:
            OSError: An image cannot be read any more.
        """
        items = sorted(
            hashlib.sha256(
                bytes.fromhex(image_sha256(image))
                + len(found.class_ids).to_bytes(8, "little")
                + found.class_ids.astype("<i8").tobytes()
                + found.boxes.astype("<f8").tobytes()
                + (found.ignored.tobytes() + found.crowds.tobytes() if found.ignored.any() else b"")
                + (b"" if labelled is None else "\0".join(["", *sorted(labelled)]).encode())
            ).digest()
            for image, found, labelled in zip(
                self.images, self.annotations, self.labelled or [None] * len(self), strict=True
            )
        )
        digest = hashlib.sha256("\0".join(self.classes).encode())
        digest.update(b"\0\0")
        for item in items:
            digest.update(item)
        return digest.hexdigest()


def _check_lengths(owner: str, **columns: tuple[object, ...]) -> None:
    """Raise unless all columns have one item per image."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"expected one item per image in each column, got {lengths}", where=owner)
