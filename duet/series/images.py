"""Looking at image files without changing them: size, readability, thumbnail, content hash."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from duet.errors import DataError
from duet.files import sha256_file
from duet.images import read_image
from duet.series.problems import Problem, error

if TYPE_CHECKING:
    from PIL import Image

Verify = Literal["full", "header"]

FULL_VERIFY_LIMIT = 20_000
"""Images of one data set up to which each is decoded in full by default.

Measured: 0.8 ms of one core for a JPEG of 500 x 375 pixels, so 16 s at the limit; headers alone
take 1 s.
"""

THUMBNAIL_SIDE = 32
"""Side of a thumbnail in pixels: 1 KB per image, and all that a perceptual hash looks at."""

Thumbnail: TypeAlias = NDArray[np.uint8]
"""``(32, 32) uint8`` grey, upright, both sides scaled to fit (the aspect ratio is not kept)."""

_collector: ContextVar[dict[Path, Thumbnail] | None] = ContextVar("thumbnails", default=None)

_READ_ALIKE = ("JPEG", "MPO", "PNG", "WEBP", "BMP")
"""Formats in which Pillow, which looks at files here, and OpenCV agree on every kind of file."""

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


@contextlib.contextmanager
def thumbnails() -> Iterator[dict[Path, Thumbnail]]:
    """Yield a dictionary that receives a thumbnail of every image decoded within the block.

    Decoding is what looking at images costs. Whoever wants thumbnails of a series reads it inside
    this block, in full, and each file is opened and decoded once for all purposes.
    """
    found: dict[Path, Thumbnail] = {}
    token = _collector.set(found)
    try:
        yield found
    finally:
        _collector.reset(token)


def inspect_images(paths: Sequence[Path], *, verify: Verify) -> dict[Path, ImageFacts]:
    """Look at each distinct image once.

    Args:
        paths: Image files; repeated paths are looked at once.
        verify: ``"full"`` decodes every image to its end and so finds truncated files;
            ``"header"`` reads the format's own checks only (PNG checksums, headers).
    """
    distinct = list(dict.fromkeys(paths))
    collector = _collector.get()
    small = collector is not None
    # Pillow decodes without the GIL, so threads scale; more than 8 only fight for the disk.
    workers = min(8, os.cpu_count() or 1)
    facts: dict[Path, ImageFacts] = {}
    with _strict_decoding(), ThreadPoolExecutor(workers) as pool:
        seen = pool.map(lambda path: _inspect(path, verify, small=small), distinct)
        for path, (fact, thumbnail) in zip(distinct, seen, strict=True):
            facts[path] = fact
            if collector is not None and thumbnail is not None:
                collector[path] = thumbnail
    return facts


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


def _inspect(path: Path, verify: Verify, *, small: bool) -> tuple[ImageFacts, Thumbnail | None]:
    """Return the facts of one image; every failure becomes a problem of that file."""
    if not os.path.isfile(path):  # unlike Path.is_file, it takes a name that is too long as absent
        remedy = "restore the file, or take it out of the list; duet never downloads"
        return ImageFacts(0, 0, error("image.missing", path, "no such image", remedy)), None
    try:
        if verify == "full":
            return _decode(path, small=small)
        with _open(path) as image:
            facts = _facts(image, path)
            image.verify()
            return facts, None
    except Exception as failure:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        remedy = "copy it again from its source, or remove it together with its label file"
        return _unreadable(path, _reason(failure, path), remedy), None


def _unreadable(path: Path, reason: str, remedy: str) -> ImageFacts:
    what = f"not a readable image: {reason}"
    return ImageFacts(0, 0, error("image.unreadable", path, what, remedy))


def _decode(path: Path, *, small: bool) -> tuple[ImageFacts, Thumbnail | None]:
    """Decode an image to its last byte; any failure is raised as the decoder raises it."""
    from PIL import Image

    content = path.read_bytes()
    with _open(io.BytesIO(content)) as image:
        facts = _facts(image, path)
        if image.format not in ("JPEG", "MPO"):
            image.verify()  # PNG checksums, which load() does not look at
    with _open(io.BytesIO(content)) as image:  # verify() spoils the open image
        full = image.size
        # A JPEG decoder asked for an eighth of the size still reads every byte of the entropy code,
        # so truncation is found all the same (tests/test_doctor_images.py); only the inverse
        # transform and the colours are saved: half the time. For other formats it does nothing.
        image.draft("L", (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        image.load()
        if not small:
            return facts, None
        return facts, _grey_square(image, full, THUMBNAIL_SIDE, Image.Resampling.BOX)


def read_grey(path: Path, side: int) -> NDArray[np.uint8]:
    """Return an image file as ``(side, side) uint8`` grey, upright, the aspect ratio not kept.

    Raises:
        OSError: The file is gone or is no longer a readable image.
    """
    from PIL import Image

    with _open(path) as image:
        full = image.size
        image.draft("L", (side, side))
        image.load()
        # A box would alias small images: a copy of half the size would look like another picture.
        return _grey_square(image, full, side, Image.Resampling.BICUBIC)


def _grey_square(
    image: Any, full: tuple[int, int], side: int, resampling: Image.Resampling
) -> NDArray[np.uint8]:
    """Return ``(side, side) uint8`` grey, upright, of a decoded Pillow image.

    Args:
        image: Perhaps reduced while it was decoded.
        full: Width and height of the file's own pixels. A reduced JPEG ends in a column and a row
            that reach beyond the image, which must not shift the rest.
        side: In pixels.
        resampling: Of Pillow.
    """
    from PIL import Image, ImageOps

    reduction = max(1, round(full[0] / image.width), round(full[1] / image.height))
    box = (0, 0, min(full[0] / reduction, image.width), min(full[1] / reduction, image.height))
    if image.mode[0] in "IF":  # 16 bits and more: Pillow would clip them at 255
        values = np.asarray(image, np.float64)
        values = values * (255 / max(values.max(), 255))
        grey = Image.fromarray(values.clip(0).astype(np.uint8))
    else:
        grey = image.convert("L")
    square = grey.resize((side, side), resampling, box=box)
    turn = _turn(image)
    if turn > 1:
        exif = square.getexif()
        exif[_EXIF_ORIENTATION] = turn
        square = ImageOps.exif_transpose(square)
    return np.asarray(square, np.uint8)


def _open(source: Any) -> Any:
    """Open an image with Pillow."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(source)
    except ModuleNotFoundError as failure:
        # Ultralytics, once imported, replaces Image.open: it then takes all that Pillow does not
        # know for HEIF and asks for a package.
        raise UnidentifiedImageError("its content is no image format") from failure


def _turn(image: Any) -> int:
    """Return the EXIF orientation, 1 to 8."""
    from PIL import Image

    # PNG's own getexif() decodes all pixels first; the base class reads what is known now.
    turn = Image.Image.getexif(image).get(_EXIF_ORIENTATION)
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _facts(image: Any, path: Path) -> ImageFacts:
    """Return the facts of an open image; a problem where OpenCV sees another image or none."""
    size = _upright_size(image)
    if image.format not in _READ_ALIKE:
        try:
            height, width = read_image(path).shape[:2]
        except DataError:
            reason = f"OpenCV, which loads images for detectors, cannot read this {image.format}"
            return _unreadable(path, reason, "save it as PNG")
        if (width, height) != size:
            reason = f"OpenCV does not turn this {image.format} upright, other programs do"
            return _unreadable(path, reason, "save it upright, as PNG")
    return ImageFacts(*size)


def _upright_size(image: Any) -> tuple[int, int]:
    """Return width and height as displayed.

    Detectors load images upright (OpenCV honours EXIF), and labels are drawn on upright images.
    """
    width, height = image.size
    return (height, width) if _turn(image) in _QUARTER_TURNS else (width, height)


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
