"""Looking at image files without changing them: size, readability, thumbnail, content hash."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from duet.errors import DataError
from duet.files import sha256_file
from duet.images import MOST_PIXELS, MOST_SIDE, Image, decode_image, read_content
from duet.orientation import Content, orientation
from duet.series.decoding import (
    DAMAGED,
    grey_square,
    is_whole_jpeg,
    load_reduced,
    open_image,
    strict_decoding,
)
from duet.series.names import other_spelling
from duet.series.problems import Problem, error, note, warning
from duet.trees import lost_link

Verify = Literal["full", "header", "kind"]

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

_QUARTER_TURNS = (5, 6, 7, 8)
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _ORIENTATION = 256, 257, 258, 274
_PNG_BITS = 24
"""Where a PNG says how many bits a sample has."""

_DARK = 32
"""Brightest of 255 levels below which an image of more than 8 bits is all but lost."""

_LARGE = threading.Lock()
_LARGE_PIXELS = 2**25
"""Images above are decoded one at a time: eight of 200 megapixels would take 6 GB."""


@dataclass(frozen=True)
class ImageFacts:
    """What is known of one image file.

    Attributes:
        width: Pixels, as `duet.images.read_image` gives them; 0 when unreadable.
        height: Pixels, as `duet.images.read_image` gives them; 0 when unreadable.
        problem: Why the image cannot be used.
        remark: What is worth knowing of an image that can be used.
        thumbnail: Of an image that was decoded within `thumbnails`.
    """

    width: int
    height: int
    problem: Problem | None = None
    remark: Problem | None = None
    thumbnail: Thumbnail | None = field(default=None, repr=False, compare=False)


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
            ``"header"`` reads the format's own checks only (PNG checksums, headers); ``"kind"``
            reads the first bytes, for whoever reads the image later by `read_sound`.
    """
    distinct = list(dict.fromkeys(paths))
    collector = _collector.get()
    # Pillow decodes without the GIL, so threads scale; more than 8 only fight for the disk.
    workers = min(8, os.cpu_count() or 1)
    with strict_decoding(), ThreadPoolExecutor(workers) as pool:
        seen = pool.map(lambda path: _inspect(path, verify, small=collector is not None), distinct)
        facts = dict(zip(distinct, seen, strict=True))
    if collector is not None:
        collector |= {
            path: one.thumbnail for path, one in facts.items() if one.thumbnail is not None
        }
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


def _inspect(path: Path, verify: Verify, *, small: bool) -> ImageFacts:
    """Return the facts of one image; every failure becomes a problem of that file."""
    if not os.path.isfile(path):  # unlike Path.is_file, it takes a name that is too long as absent
        remedy = "restore the file, or take it out of the list; duet never downloads"
        other = other_spelling(path)
        what = f"no such image; the folder has '{other}'" if other else "no such image"
        what = lost_link(path) or what
        if os.path.exists(path):
            what = "this is a folder or a device, expected an image file"
        return ImageFacts(0, 0, error("image.missing", path, what, remedy))
    return _judged(path, lambda: _looked_at(path, verify, small=small))


def _looked_at(path: Path, verify: Verify, *, small: bool) -> ImageFacts:
    if not path.stat().st_size:
        raise DataError("the file is empty")
    if verify == "full":
        return _decode(path.read_bytes(), path, small=small)
    if verify == "kind":
        with path.open("rb") as file, open_image(file) as image:
            _refuse_size(*image.size)
            return ImageFacts(*image.size)
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        open_image(file) as image,
    ):
        facts = _facts(image, content, path)
        image.verify()
        return facts


def _judged(path: Path, look: Callable[[], ImageFacts]) -> ImageFacts:
    """Return what a look at a file returns, or the problem of the file that it raises."""
    try:
        return look()
    except DataError as failure:
        return _unreadable(path, failure.what, failure.remedy or DAMAGED)
    except Exception as failure:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        reason = " ".join(str(failure).split()) or type(failure).__name__
        return _unreadable(path, reason, DAMAGED)


def _unreadable(path: Path, reason: str, remedy: str) -> ImageFacts:
    what = f"not a readable image: {reason}"
    return ImageFacts(0, 0, error("image.unreadable", path, what, remedy))


def read_sound(path: Path) -> Image:
    """Return an image as `duet.images.read_image` does, but not one that is cut off or damaged.

    OpenCV fills what is missing of an image with grey. Of a JPEG or PNG the file itself tells that
    it is whole, so that it is decoded once; any other is looked at in full first.

    Raises:
        DataError: The file is gone, no readable image, damaged, or too large.
    """
    content = read_content(path)
    facts = _judged(path, lambda: _sound(content, path))
    if facts.problem is not None:
        raise DataError(facts.problem.what, where=str(path), remedy=facts.problem.remedy)
    return decode_image(content, where=str(path))


def _sound(content: bytes, path: Path) -> ImageFacts:
    """Look at an image only as closely as tells that nothing is missing; raises as `_decode`."""
    if content.startswith(b"\xff\xd8"):
        if not is_whole_jpeg(content):
            raise DataError("it is cut off")
        return ImageFacts(0, 0)  # the decoder tells its size
    if content.startswith(b"\x89PNG"):
        with open_image(io.BytesIO(content)) as image:
            image.verify()  # the checksums of all its parts
        return ImageFacts(*image.size)
    with strict_decoding():
        return _decode(content, path, small=False)


def _decode(content: bytes, path: Path, *, small: bool) -> ImageFacts:
    """Decode an image to its last byte; any failure is raised as the decoder raises it."""
    from PIL import Image

    with open_image(io.BytesIO(content)) as image:
        facts = _facts(image, content, path)
        deep = _is_deep(image, content)
        if image.format not in ("JPEG", "MPO"):
            image.verify()  # PNG checksums, which load() does not look at
    large = facts.width * facts.height > _LARGE_PIXELS
    with _LARGE if large else contextlib.nullcontext():
        image, full = load_reduced(io.BytesIO(content), THUMBNAIL_SIDE)  # verify() spoils the other
        if deep and facts.problem is None:
            facts = replace(facts, remark=_depth(content, path))
        if not small:
            return facts
        turn = orientation(content) or 1
        thumbnail = grey_square(image, full, THUMBNAIL_SIDE, Image.Resampling.BOX, turn)
        return replace(facts, thumbnail=thumbnail)


def read_grey(path: Path, side: int) -> NDArray[np.uint8]:
    """Return an image file as ``(side, side) uint8`` grey, upright, the aspect ratio not kept.

    Raises:
        OSError: The file is gone or is no longer a readable image.
    """
    from PIL import Image

    content = path.read_bytes()
    image, full = load_reduced(io.BytesIO(content), side)
    # A box would alias small images: a copy of half the size would look like another picture.
    return grey_square(image, full, side, Image.Resampling.BICUBIC, orientation(content) or 1)


def _facts(image: Any, content: Content, path: Path) -> ImageFacts:
    """Return the facts of an open image; a problem where OpenCV sees another image or none."""
    width, height = image.size
    _refuse_size(width, height)
    if image.format in _READ_ALIKE:
        return ImageFacts(*upright_size((width, height), content))
    try:
        height, width = decode_image(bytes(content), where=str(path)).shape[:2]
    except DataError:
        reason = f"OpenCV, which loads images for detectors, cannot read this {image.format}"
        return _unreadable(path, reason, "save it as an 8-bit PNG")
    if (width, height) != _displayed_size(image) or _is_turned(image):
        reason = f"OpenCV does not turn this {image.format} upright, other programs do"
        return _unreadable(path, reason, "save it upright, as PNG")
    return ImageFacts(width, height)


def upright_size(size: tuple[int, int], content: Content) -> tuple[int, int]:
    """Return width and height in pixels, as detectors see them, of pixels that may lie."""
    return size[::-1] if orientation(content) in _QUARTER_TURNS else size


def _refuse_size(width: int, height: int) -> None:
    """Refuse what OpenCV does not load, or what this machine has no memory for."""
    pixels = width * height
    if pixels > MOST_PIXELS or max(width, height) > MOST_SIDE:
        raise DataError(
            f"{width} x {height} pixels: OpenCV, which loads images for detectors, takes at most "
            f"{MOST_PIXELS} in all and {MOST_SIDE} a side",
            remedy="cut it into smaller images",
        )
    needed, memory = 8 * pixels, _memory()  # decoded twice: here (4 bytes a pixel), and in BGR
    if memory is not None and needed > memory:
        raise DataError(
            f"{width} x {height} pixels need {needed / 1e9:.1f} GB to be looked at, and this "
            f"machine has {memory / 1e9:.1f} GB",
            remedy="cut it into smaller images",
        )


def _memory() -> int | None:
    """Return the machine's memory in bytes; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # AttributeError: Windows
        return None


def _displayed_size(image: Any) -> tuple[int, int]:
    """Return width and height as other programs display an image that `orientation` leaves alone.

    Pillow's own size of a TIFF is before or after turning, as its version goes.
    """
    width, height = image.size
    tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else image.getexif()
    tags = tags or {}
    if image.format == "TIFF":
        width, height = tags.get(_TIFF_WIDTH, width), tags.get(_TIFF_HEIGHT, height)
    return (height, width) if tags.get(_ORIENTATION) in _QUARTER_TURNS else (width, height)


def _is_turned(image: Any) -> bool:
    """Tell whether other programs turn or mirror an image that OpenCV loads as it lies.

    Half a turn and mirroring keep the size. Of AVIF, Pillow reports what the container says (its
    ``irot`` and ``imir``). A TIFF is turned by both.
    """
    return image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) in range(2, 9)


def _is_deep(image: Any, content: Content) -> bool:
    """Tell whether the samples of an image have more than 8 bits."""
    if image.format == "PNG":
        return bool(content[_PNG_BITS] == 16)
    if image.format == "TIFF":
        return bool(max(image.tag_v2.get(_TIFF_BITS, (1,))) > 8)
    return str(image.mode)[0] in "IF"


def _depth(content: bytes, path: Path) -> Problem | None:
    """Return what detectors see of an image of more than 8 bits; dark ones get a warning."""
    import cv2

    raw: Any = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype == np.uint8:
        return None
    values = raw[..., :3] if raw.ndim == 3 else raw  # the rest is transparency
    seen = int(decode_image(content, where=str(path)).max())
    what = f"{8 * raw.itemsize} bits, brightest value {values.max():g}: a detector sees {seen} "
    what += "of 255"
    if seen >= _DARK:
        remedy = "nothing to do if the upper 8 bits show what matters; else save 8-bit images"
        return note("image.depth", path, what, remedy)
    remedy = "spread the values over all bits, or save 8-bit images: these are all but black"
    return warning("image.depth", path, what, remedy)
