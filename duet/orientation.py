"""How a picture must be turned to stand upright: one rule for pixels, sizes and labels.

The rule is OpenCV's, so it is that of the programs that labels and detectors were made with. It
reads EXIF only (not XMP, which Lightroom and drones write), takes the lower half of whatever number
the tag holds, and gives up at the first entry that leads out of the block. It stands here because
OpenCV itself differs from version to version, and because whoever wants to know the size of an
image must not have to decode it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, TypeAlias

Content: TypeAlias = Any
"""The bytes of a file: whatever gives bytes for a slice, such as bytes or a memory map."""

_ORIENTATION = 0x0112
_TEXTS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x8298)
_FRACTIONS = {0x011A: 1, 0x011B: 1, 0x013E: 2, 0x013F: 6, 0x0211: 3, 0x0214: 6}
"""Tags that OpenCV follows to their values: how many fractions of 8 bytes stand there."""

_PNG = b"\x89PNG\r\n\x1a\n"


def orientation(content: Content) -> int | None:
    """Return EXIF's orientation, 1 (upright) to 8; None for a format that this rule leaves alone.

    Args:
        content: A whole file. JPEG, PNG and WebP have a rule; others are as they are decoded.
    """
    if content[:3] == b"\xff\xd8\xff":
        blocks = _jpeg_blocks(content)
    elif content[:8] == _PNG:
        blocks = _png_blocks(content)
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        blocks = _webp_blocks(content)
    else:
        return None
    found = next((value for block in blocks if (value := _value(block)) is not None), 1)
    return found if 1 <= found <= 8 else 1


def _jpeg_blocks(content: Content) -> Iterator[bytes]:
    """Yield the EXIF blocks in front of the first scan."""
    place = 2
    while 0 <= (place := content.find(b"\xff", place)) < len(content) - 3:
        marker = content[place + 1]
        if marker in (0x00, 0xFF, 0x01, *range(0xD0, 0xD8)):  # fill bytes, marks without a length
            place += 1
            continue
        if marker in (0xD9, 0xDA):
            return
        (length,) = struct.unpack(">H", content[place + 2 : place + 4])
        if marker == 0xE1 and content[place + 4 : place + 10] == b"Exif\0\0":
            yield content[place + 10 : place + 2 + length]
        place += 2 + length


def _png_blocks(content: Content) -> Iterator[bytes]:
    """Yield the EXIF blocks of a PNG, before and after its pixels."""
    place = len(_PNG)
    while place + 12 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        kind, end = content[place + 4 : place + 8], place + 8 + length
        if kind == b"IEND":
            return
        if kind == b"eXIf" and content[place + 8 : place + 10] in (b"II", b"MM"):
            (checksum,) = struct.unpack(">I", content[end : end + 4].ljust(4, b"\0"))
            if zlib.crc32(content[place + 4 : end]) == checksum:
                yield content[place + 8 : end]
        place = end + 4


def _webp_blocks(content: Content) -> Iterator[bytes]:
    """Yield the EXIF block of an extended WebP whose header announces it."""
    if content[12:16] != b"VP8X" or not content[20:21] or not content[20] & 0x08:
        return
    place = 12
    while place + 8 <= len(content):
        (length,) = struct.unpack("<I", content[place + 4 : place + 8])
        if content[place : place + 4] == b"EXIF":
            yield content[place + 8 : place + 8 + length]
            return
        place += 8 + length + length % 2


def _value(block: bytes) -> int | None:
    """Return the number of the orientation in an EXIF block, or None."""
    order = "<" if block[:2] == b"II" else ">"
    try:
        mark, start = struct.unpack_from(f"{order}HI", block, 2)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count if mark == 42 else 0, 12):
            (tag,) = struct.unpack_from(f"{order}H", block, entry)
            if tag == _ORIENTATION:
                return int(struct.unpack_from(f"{order}H", block, entry + 8)[0])
            _follow(block, entry, tag, order)
    except (struct.error, IndexError):
        pass
    return None


def _follow(block: bytes, entry: int, tag: int, order: str) -> None:
    """Follow an entry to its values.

    Raises:
        IndexError: They stand outside of the block: OpenCV then reads no further.
    """
    size, place = struct.unpack_from(f"{order}II", block, entry + 4)
    if tag in _TEXTS:
        end = place + size if size > 4 else 0
    else:
        end = place + 8 * _FRACTIONS[tag] if tag in _FRACTIONS else 0
    if end > len(block):
        raise IndexError(end)
