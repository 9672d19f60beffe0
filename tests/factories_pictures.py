"""Pictures as cameras, drones and damage leave them: EXIF of every kind, XMP, deep pixels."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (64, 48)
"""Width and height of the pixels as they lie in the files."""

ORIENTATION = 0x0112
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def pixels() -> np.ndarray:
    """Return ``(48, 64, 3) uint8`` that looks different in each of the eight orientations."""
    picture = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    picture[:, :20] = (200, 30, 30)
    picture[:10] = (20, 220, 30)
    picture[30:, 40:] = (30, 30, 220)
    return picture


def encoded(form: str, picture: np.ndarray | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels() if picture is None else picture).save(stream, form, **options)
    return stream.getvalue()


def exif(
    *entries: tuple[int, int, int, int],
    order: str = "II",
    bytes_as: str = "",
    mark: int = 42,
    count: int | None = None,
) -> bytes:
    """Return an EXIF block whose entries are tag, type, count and value, right or wrong."""
    sign = bytes_as or {"II": "<", "MM": ">"}[order]
    block = order.encode() + struct.pack(f"{sign}HI", mark, 8)
    block += struct.pack(f"{sign}H", len(entries) if count is None else count)
    for tag, kind, number, value in entries:
        short = kind in (3, 8)
        packed = struct.pack(f"{sign}HH", value, 0) if short else struct.pack(f"{sign}I", value)
        block += struct.pack(f"{sign}HHI", tag, kind, number) + packed
    return block + bytes(4)


SIX = exif((ORIENTATION, 3, 1, 6))
BLOCKS = {
    **{f"short-{turn}": exif((ORIENTATION, 3, 1, turn)) for turn in range(10)},
    "big-endian": exif((ORIENTATION, 3, 1, 8), order="MM"),
    "long": exif((ORIENTATION, 4, 1, 6)),
    "long-big-endian": exif((ORIENTATION, 4, 1, 6), order="MM"),
    "signed": exif((ORIENTATION, 9, 1, 6)),
    "count-0": exif((ORIENTATION, 3, 0, 6)),
    "unknown-type": exif((ORIENTATION, 99, 1, 6)),
    "twice": exif((ORIENTATION, 3, 1, 6), (ORIENTATION, 3, 1, 1)),
    "bad-byte-order": exif((ORIENTATION, 3, 1, 6), order="XX", bytes_as="<"),
    "bad-byte-order-big": exif((ORIENTATION, 3, 1, 6), order="XX", bytes_as=">"),
    "bad-mark": exif((ORIENTATION, 3, 1, 6), mark=43),
    "more-announced": exif((ORIENTATION, 3, 1, 6), count=3000),
    "none-announced": exif((ORIENTATION, 3, 1, 6), count=0),
    "lost-text-before": exif((0x010E, 2, 100, 9999), (ORIENTATION, 3, 1, 6)),
    "lost-text-after": exif((ORIENTATION, 3, 1, 6), (0x010F, 2, 100, 9999)),
    "lost-fraction-before": exif((0x011A, 5, 1, 9999), (ORIENTATION, 3, 1, 6)),
    "cut": SIX[:20],
    "cut-before-value": SIX[:18],
    "outside": b"II*\0" + struct.pack("<I", 2**32 - 1),
    "empty": b"",
}


def jpeg(*segments: bytes) -> bytes:
    """Return a JPEG with APP1 segments of these contents."""
    content = encoded("JPEG", quality=95)
    start = 4 + struct.unpack(">H", content[4:6])[0]
    marked = [b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in segments]
    return content[:start] + b"".join(marked) + content[start:]


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(before: bytes = b"", after: bytes = b"") -> bytes:
    """Return a PNG with chunks in front of and behind its pixels."""
    content = encoded("PNG")
    start, end = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    return content[:start] + before + content[start:end] + after + content[end:]


def webp(*chunks: tuple[bytes, bytes], flags: int = 0x0C) -> bytes:
    """Return an extended WebP with chunks behind its pixels."""
    size = b"".join((side - 1).to_bytes(3, "little") for side in SIZE)
    parts = [(b"VP8X", bytes([flags, 0, 0, 0]) + size), (None, encoded("WEBP", quality=95)[12:])]
    body = b"WEBP"
    for kind, data in [*parts, *chunks]:
        body += data if kind is None else kind + struct.pack("<I", len(data)) + data
        body += bytes(len(data) % 2) if kind is not None else b""
    return b"RIFF" + struct.pack("<I", len(body)) + body


def turned_files() -> dict[str, bytes]:
    """Return file name -> content: EXIF and XMP of every kind in three formats."""
    head = b"Exif\0\0"
    files: dict[str, bytes] = {}
    for name, block in BLOCKS.items():
        files[f"{name}.jpg"] = jpeg(head + block)
        files[f"{name}.png"] = png(chunk(b"eXIf", block))
        files[f"{name}.webp"] = webp((b"EXIF", block))
    eight, wrong = BLOCKS["short-8"], bytearray(chunk(b"eXIf", SIX))
    wrong[-1] ^= 1
    packet = b"http://ns.adobe.com/xap/1.0/\0" + XMP
    profile = (head + SIX).hex().encode()
    return files | {
        "xmp.jpg": jpeg(packet),
        "xmp.png": png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        "xmp.webp": webp((b"XMP ", XMP)),
        "xmp-and-exif.jpg": jpeg(packet, head + eight),
        "two-blocks.jpg": jpeg(head + SIX, head + eight),
        "second-block-good.jpg": jpeg(head + b"garbage", head + SIX),
        "other-head.jpg": jpeg(b"EXIF\0\0" + SIX),
        "behind-the-picture.jpg": jpeg() + jpeg(head + SIX)[2:],
        "behind-the-pixels.png": png(after=chunk(b"eXIf", SIX)),
        "two-blocks.png": png(chunk(b"eXIf", SIX) + chunk(b"eXIf", eight)),
        "with-head.png": png(chunk(b"eXIf", head + SIX)),
        "old-profile.png": png(
            chunk(b"tEXt", b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(SIX) + 6, profile))
        ),
        "with-head.webp": webp((b"EXIF", head + SIX)),
        "not-announced.webp": webp((b"EXIF", SIX), flags=0),
    }


def write_png_header(path: Path, width: int, height: int) -> Path:
    """Write a PNG that says its size and holds almost nothing."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(100)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))
    return path
