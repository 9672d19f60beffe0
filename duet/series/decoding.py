"""Decoding with Pillow, which tells a damaged file from a sound one, unlike OpenCV."""

from __future__ import annotations

import contextlib
import re
import struct
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from duet.errors import DataError
from duet.images import decode_image, upright

if TYPE_CHECKING:
    from PIL import Image


LOADABLE = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "JPEG2000", "AVIF", "PPM", "SUN")
"""Pillow's names of the formats that OpenCV loads. Others are not even opened: EPS is a program."""


_HEIC = (b"heic", b"heim", b"heis", b"heix", b"hevc", b"hevm", b"hevs", b"hevx", b"mif1", b"msf1")
"""Brands of the container in which phones store photographs (ISO/IEC 23008-12, annex B)."""


DAMAGED = "copy it again from its source, or remove it together with its label file"
"""What to do about an image that cannot be decoded."""


def open_image(source: Any) -> Any:
    """Open an image with Pillow, whatever its size.

    `Image.open` refuses images above a limit that belongs to the whole process, and warns long
    before it; what counts here is what OpenCV loads for detectors. Ultralytics, once imported, also
    replaces it with one that asks for packages.

    Args:
        source: An open binary file.

    Raises:
        DataError: Its content has none of these formats.
    """
    from PIL import Image

    prefix = source.read(16)
    for load_plugins in (Image.preinit, Image.init):  # the usual formats, all formats
        load_plugins()
        for name in LOADABLE:
            factory, accept = Image.OPEN.get(name, (None, None))
            try:
                if factory is not None and accept is not None and accept(prefix) is True:
                    source.seek(0)
                    return factory(source, "")
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue  # not this format after all
            except Image.DecompressionBombError:  # WebP's reader asks for the limit by itself
                return _without_pillow(source, name)
    for name, (_, accept) in list(Image.OPEN.items()):
        if name not in LOADABLE and accept is not None and accept(prefix) is True:
            raise _unloadable(name)
    if prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIC:
        raise _unloadable("HEIC")
    raise DataError("its content is no image format")


def _unloadable(name: str) -> DataError:
    reason = f"OpenCV, which loads images for detectors, cannot read {name}"
    return DataError(reason, remedy="save it as JPEG or PNG")


_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""What is no part of a JPEG's entropy code: there 0 follows each 255, or one of 8 restart marks."""


def is_whole_jpeg(content: bytes) -> bool:
    """Tell whether a JPEG reaches its own end, without decoding it.

    From segment to segment by the lengths they state, and through the entropy code by its marks
    (ITU-T T.81, annex B): where the mark of the end comes nowhere, the rest is missing. What
    follows it (a second image, other programs' data) does not count. Pillow's decoder comes to the
    same answer wherever a file is cut (tests/series/test_images.py).
    """
    place = 2
    while found := _MARKER.search(content, place):
        mark, place = content[found.start() + 1], found.end()
        if mark == 0xD9:
            return True
        if mark not in (0x01, 0xD8):  # these two have no length
            place += int.from_bytes(content[place : place + 2], "big")
    return False


def load_reduced(source: Any, side: int) -> tuple[Any, tuple[int, int]]:
    """Return a decoded Pillow image, ``side`` pixels wide or more, and the file's own size.

    A JPEG decoder asked for an eighth of the size still reads every byte of the entropy code, so
    truncation is found all the same (tests/doctor/test_doctor_images.py); only the inverse
    transform and the colours are saved: half the time. For other formats it does nothing.
    """
    from PIL import Image

    image = open_image(source)
    full = image.size
    image.draft("L", (side, side))
    try:
        image.load()
    except Image.DecompressionBombError:  # so does TIFF's, for its tiles
        image = _without_pillow(source, image.format)
    return image, full


def _without_pillow(source: Any, form: str) -> Any:
    """Return an image that Pillow refuses for its size, decoded by OpenCV."""
    from PIL import Image

    source.seek(0)
    image = Image.fromarray(decode_image(source.read(), where="", turned=False)[:, :, ::-1])
    image.format = form
    return image


def grey_square(
    image: Any, full: tuple[int, int], side: int, resampling: Image.Resampling, turn: int
) -> NDArray[np.uint8]:
    """Return ``(side, side) uint8`` grey, upright, of a decoded Pillow image.

    Args:
        image: Perhaps reduced while it was decoded.
        full: Width and height of the file's own pixels. A reduced JPEG ends in a column and a row
            that reach beyond the image, which must not shift the rest.
        side: In pixels.
        resampling: Of Pillow.
        turn: EXIF's orientation.
    """
    from PIL import Image

    reduction = max(1, round(full[0] / image.width), round(full[1] / image.height))
    box = (0, 0, min(full[0] / reduction, image.width), min(full[1] / reduction, image.height))
    if image.mode[0] in "IF":  # 16 bits and more: Pillow would clip them at 255
        values = np.asarray(image, np.float32)
        values = values * (255 / max(values.max(), 255))
        grey = Image.fromarray(values.clip(0).astype(np.uint8))
    else:
        grey = image.convert("L")
    return upright(np.asarray(grey.resize((side, side), resampling, box=box), np.uint8), turn)


_switching, _inside, _before = threading.Lock(), 0, False
"""Threads that decode strictly now, and what Pillow did before the first of them."""


@contextlib.contextmanager
def strict_decoding() -> Iterator[None]:
    """Have Pillow refuse truncated images even where another library has asked it not to."""
    from PIL import ImageFile

    global _inside, _before  # of the whole process, as Pillow's own switch is
    with _switching:
        if not _inside:
            _before = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _inside += 1
    try:
        yield
    finally:
        with _switching:
            _inside -= 1
            if not _inside:
                ImageFile.LOAD_TRUNCATED_IMAGES = _before
