"""Whether images are still those that the labels were read for.

A run reads all labels when it starts and the images hours later, when their stage trains. Images
that were exchanged in between would be trained with the labels of others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from duet.errors import DataError
from duet.series import Series
from duet.series.images import image_sha256


@dataclass(frozen=True)
class FirstLook:
    """What images were when a run began.

    Attributes:
        seen: Image -> size in bytes and time of the last change in nanoseconds; None if missing.
        read: Image -> SHA-256, of those that were read since.
    """

    seen: Mapping[Path, tuple[int, int] | None] = field(default_factory=dict)
    read: dict[Path, str] = field(default_factory=dict)

    @classmethod
    def at(cls, series: Series) -> FirstLook:
        """Look at every image of a series."""
        splits = [split for item in series.increments for split in item.data.splits.values()]
        images = dict.fromkeys(image for split in splits for image in split.images)
        return cls({image: _facts(image) for image in images})

    @property
    def there(self) -> list[Path]:
        """The images that were there."""
        return [image for image, facts in self.seen.items() if facts is not None]

    def require_unchanged(self, images: Iterable[Path]) -> None:
        """Refuse images that are no longer what they were; others are not looked at.

        Size and time must be those of the first look. A copy can keep both, so the content must
        also be the one that an earlier call found.

        Raises:
            DataError: With the number of changed images and the first of them.
        """
        changed = [one for one in images if one in self.seen and not self._same(one)]
        if changed:
            raise DataError(
                f"{len(changed)} images changed since their labels were read",
                where=str(changed[0]),
                remedy="leave the data alone while a run works; the same command reads images and "
                "labels again and keeps the trainings that still fit",
            )

    def _same(self, image: Path) -> bool:
        if self.seen[image] is None or _facts(image) != self.seen[image]:
            return _facts(image) == self.seen[image]
        content = image_sha256(image)  # read once: the key of the job wants it, too
        return self.read.setdefault(image, content) == content


def _facts(image: Path) -> tuple[int, int] | None:
    try:
        status = image.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
