"""From what the user names (an image, a folder, a glob) to image files that can all be read."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from duet.errors import DataError, together
from duet.series.images import Verify, inspect_images
from duet.series.suffixes import KNOWN, is_image, is_picture, named, readable_as, unread
from duet.text import is_address, masked, short_list


@dataclass(frozen=True)
class Source:
    """The images that a command works on.

    Attributes:
        root: Folder that names of results are relative to.
        paths: Image files in sorted order.
        left_out: Pictures of a folder that are of kinds that are not read.
    """

    root: Path
    paths: tuple[Path, ...]
    left_out: tuple[Path, ...] = ()

    def name_of(self, path: Path) -> Path:
        """Return the path of an image relative to ``root``."""
        return path.relative_to(self.root)

    def omission(self) -> str:
        """Return in words which pictures are left out; empty where none is."""
        if not self.left_out:
            return ""
        names = short_list(path.name for path in self.left_out)
        count = f"{len(self.left_out)} files were" if len(self.left_out) > 1 else "1 file was"
        return f"{count} left out: {names}: expected {KNOWN}"


def find_images(source: Path | str, *, verify: Verify = "full") -> Source:
    """Return the images that ``source`` names, every one of them looked at.

    Args:
        source: An image file, a folder (its own images, not those of its subfolders; other files
            do not count, see `Source.left_out`), or a glob pattern such as ``"shop/*.jpg"``.
        verify: How closely, see `duet.series.images.inspect_images`.

    Raises:
        DataError: Nothing is there, a file is no image, or images are damaged (all are named).
    """
    if is_address(str(source)) and not os.path.lexists(source):
        raise DataError(
            "an address, expected images",
            where=masked(str(source)),
            remedy="give an image, a folder of images, or a quoted glob such as 'photos/*.jpg'",
        )
    found = _resolve(str(source))
    images = [path for path in found.paths if is_image(path.name)]
    problems = [
        f"{path}: not an image (expected {KNOWN})"
        + (f": {readable_as([path])}" if is_picture(path.name) else "")
        for path in found.paths
        if not is_image(path.name)
    ]
    problems += unreadable(images, verify)
    if problems:
        raise DataError(
            together(problems, summary="some files cannot be used"),
            where=str(source),
            remedy="replace or remove them; nothing was detected or written",
        )
    return found


def _resolve(source: str) -> Source:
    if not source:
        raise DataError("expected an image, a folder or a glob, got an empty word", where="images")
    path = Path(source)
    if path.is_dir():
        # Whatever is no folder: a link whose image is gone must be told, not left out.
        pictures = sorted(e for e in path.iterdir() if is_picture(e.name) and not e.is_dir())
        images, left_out = [p for p in pictures if is_image(p.name)], unread(pictures)
        if images:
            return Source(path, tuple(images), tuple(left_out))
        passed_over = f": {named(left_out)} of a kind that is not read" if left_out else ""
        raise DataError(
            f"no images in this folder{passed_over}",
            where=source,
            remedy=f"{readable_as(left_out)}: expected files ending in {KNOWN}"
            if left_out
            else f"expected files ending in {KNOWN}; subfolders are not searched, "
            "name them with a glob such as 'FOLDER/*/*.jpg'",
        )
    if path.exists():  # before globs: file names may hold brackets
        return Source(path.parent, (path,))
    if glob.has_magic(source):
        root, pattern = _split(path)
        # Where nothing matches, brackets may be meant as what they are: `*/camera [1]/*.jpg`.
        for tried in (pattern, pattern.replace("[", "[[]")):
            found = glob.glob(os.path.join(glob.escape(str(root)), tried))
            if matches := tuple(sorted(Path(m) for m in found if not os.path.isdir(m))):
                return Source(root, matches)
        raise DataError(
            "no file matches this pattern",
            where=source,
            remedy="quote the pattern and check it with ls",
        )
    raise DataError(
        "no such image or folder",
        where=source,
        remedy="give an image, a folder of images, a quoted glob such as 'photos/*.jpg', a video, "
        "the number of a webcam, or a URL",
    )


def _split(pattern: Path) -> tuple[Path, str]:
    """Return the folder in front of the first wildcard, and the rest of a pattern.

    A folder that exists under the very name counts as a name: ``data [1]/*.jpg``.
    """
    fixed, *rest = [Path(), *pattern.parts]
    while len(rest) > 1 and (not glob.has_magic(rest[0]) or (fixed / rest[0]).is_dir()):
        fixed, rest = fixed / rest[0], rest[1:]
    return fixed, os.path.join(*rest)


def unreadable(paths: Sequence[Path], verify: Verify = "full") -> list[str]:
    """Look at every image and return the problems, one sentence each.

    Pillow refuses truncated files that OpenCV would fill with grey. OpenCV is not asked at all: it
    waits for ever at a FIFO, and a file name that is not UTF-8 ends the process.
    """
    facts = inspect_images(paths, verify=verify)
    return [f"{path}: {fact.problem.what}" for path, fact in facts.items() if fact.problem]
