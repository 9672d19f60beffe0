"""Looking at image files without changing them: size, readability, content hash."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from duet.files import sha256_file
from duet.series.problems import Problem, error

Verify = Literal["full", "header"]

FULL_VERIFY_LIMIT = 20_000
"""Images of one data set up to which each is decoded in full by default (6 s at 160 px)."""

_EXIF_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageFacts:
    """What is known of one image file.

    Attributes:
        width: Pixels, as displayed (after EXIF rotation); 0 when unreadable.
        height: Pixels, as displayed (after EXIF rotation); 0 when unreadable.
        problem: Why the image cannot be used.
    """

    width: int
    height: int
    problem: Problem | None = None


def inspect_images(paths: Sequence[Path], *, verify: Verify) -> dict[Path, ImageFacts]:
    """Look at each distinct image once.

    Args:
        paths: Image files; repeated paths are looked at once.
        verify: ``"full"`` decodes every pixel and so finds truncated files; ``"header"`` reads
            the format's own checks only (PNG checksums, headers).
    """
    distinct = list(dict.fromkeys(paths))
    # Pillow decodes without the GIL, so threads scale; more than 8 only fight for the disk.
    workers = min(8, os.cpu_count() or 1)
    with _strict_decoding(), ThreadPoolExecutor(workers) as pool:
        facts = pool.map(lambda path: _inspect(path, verify), distinct)
        return dict(zip(distinct, facts, strict=True))


def image_sha256(path: Path) -> str:
    """Return the SHA-256 of the file's bytes; a file that did not change is read once.

    Raises:
        OSError: The file cannot be read.
    """
    status = path.stat()
    return _sha256_of(str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=200_000)
def _sha256_of(path: str, _size: int, _mtime_ns: int, _ctime_ns: int) -> str:
    return sha256_file(Path(path))


def _inspect(path: Path, verify: Verify) -> ImageFacts:
    """Return the facts of one image; every failure becomes a problem of that file."""
    from PIL import Image

    if not path.is_file():
        remedy = "restore the file, or take it out of the list; duet never downloads"
        return ImageFacts(0, 0, error("image.missing", path, "no such image", remedy))
    try:
        content = path.read_bytes() if verify == "full" else None
        with Image.open(io.BytesIO(content) if content is not None else path) as image:
            width, height = image.size
            # PNG's own getexif() decodes all pixels first; the base class reads what is known now.
            turned = Image.Image.getexif(image).get(_EXIF_ORIENTATION) in _QUARTER_TURNS
            image.verify()
        if content is not None:
            with Image.open(io.BytesIO(content)) as image:  # verify() spoils the open image
                image.load()
    except Exception as failure:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        what = f"not a readable image: {_reason(failure, path)}"
        remedy = "copy it again from its source, or remove it together with its label file"
        return ImageFacts(0, 0, error("image.unreadable", path, what, remedy))
    # Detectors load images upright (OpenCV honours EXIF), and labels are drawn on upright images.
    return ImageFacts(height, width) if turned else ImageFacts(width, height)


def _reason(failure: Exception, path: Path) -> str:
    """Return why an image cannot be read, without Pillow's addresses of objects in memory."""
    from PIL import UnidentifiedImageError

    if isinstance(failure, UnidentifiedImageError):
        return "its content is no image format" if path.stat().st_size else "the file is empty"
    return " ".join(str(failure).split()) or type(failure).__name__


@contextlib.contextmanager
def _strict_decoding() -> Iterator[None]:
    """Have Pillow refuse truncated images even where another library has asked it not to."""
    from PIL import ImageFile

    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
