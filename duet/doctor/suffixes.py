"""Images whose name says another format than their content."""

from __future__ import annotations

from collections.abc import Iterator

from duet.series.model import DomainData
from duet.series.problems import Problem, note

_KINDS = (
    (b"\xff\xd8\xff", 0, "JPEG", (".jpg", ".jpeg", ".mpo")),
    (b"\x89PNG\r\n", 0, "PNG", (".png",)),
    (b"GIF8", 0, "GIF", (".gif",)),
    (b"WEBP", 8, "WebP", (".webp",)),
    (b"BM", 0, "BMP", (".bmp",)),
    (b"II*\x00", 0, "TIFF", (".tif", ".tiff", ".dng")),
    (b"MM\x00*", 0, "TIFF", (".tif", ".tiff", ".dng")),
)
"""First bytes of a format, where they stand, its name and its suffixes."""


def suffix_problems(data: DomainData) -> Iterator[Problem]:
    """Yield readable images with the suffix of another format.

    duet goes by the content; other programs may go by the name.
    """
    for image in dict.fromkeys(path for split in data.splits.values() for path in split.images):
        with image.open("rb") as stream:
            head = stream.read(12)
        for magic, start, kind, suffixes in _KINDS:
            if head.startswith(magic, start) and image.suffix.lower() not in suffixes:
                what = f"the content is {kind}, but the name ends in '{image.suffix}'"
                yield note("image.suffix", image, what, f"rename it to '{suffixes[0]}'")
