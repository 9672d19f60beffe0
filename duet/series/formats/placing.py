"""Putting the images of a data set into a new folder, under names that cannot clash."""

from __future__ import annotations

import shutil
from pathlib import Path

from duet.errors import DataError
from duet.series.formats.base import Transfer
from duet.series.suffixes import IMAGE_SUFFIXES
from duet.trees import resolved


class Placer:
    """Copies or links images; remembers the names that are taken.

    Args:
        transfer: ``"copy"``, or ``"link"`` for symbolic links to the originals.
    """

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self.renamed = 0
        self._taken: set[tuple[str, str]] = set()

    def place(self, image: Path, folder: Path, *, scope: str, prefix: str = "") -> Path:
        """Put an image into ``folder`` and return its new path.

        Args:
            image: An existing image.
            folder: An existing folder.
            scope: No two images of a scope get the same name without suffix, in capitals or not:
                labels are found by that name.
            prefix: Set before a name that is taken, for example the split.

        Raises:
            DataError: The image is gone.
        """
        wanted = _safe(image.stem)
        stem, number = wanted, 1
        while (scope, stem.casefold()) in self._taken:
            stem = f"{prefix}-{wanted}" if prefix and number == 1 else f"{wanted}-{number}"
            number += 1
        self._taken.add((scope, stem.casefold()))
        target = folder / f"{stem}{image.suffix}"
        self.renamed += target.name != image.name
        if not image.is_file():
            raise DataError("the image is gone", where=str(image), remedy="read the data again")
        if self.transfer == "link":
            target.symlink_to(resolved(image))
        else:
            shutil.copyfile(image, target)
        return target


def _safe(stem: str) -> str:
    """Return a name that survives lists of one name per line and listings of folders."""
    # `a.jpg.png`: in a list, `a.jpg` would be read as a file name with its suffix.
    if Path(stem).suffix.lower() in IMAGE_SUFFIXES:
        stem = f"{Path(stem).stem}_{Path(stem).suffix[1:]}"
    printable = "".join(letter if letter.isprintable() else "_" for letter in stem).strip()
    return f"_{printable[1:]}" if printable.startswith(".") else printable or "image"
