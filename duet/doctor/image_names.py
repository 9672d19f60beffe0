"""Images whose name is another on other systems, or says another format than their content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from duet.series.model import DomainData
from duet.series.names import composed
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


def same_but_for_capitals(data: DomainData) -> Iterator[Problem]:
    """Yield images that other systems cannot keep in one folder."""
    seen: dict[str, Path] = {}
    for image in dict.fromkeys(data.images):
        other = seen.setdefault(composed(str(image)).casefold(), image)
        if other != image:
            what = (
                f"the name differs from that of {other.name} in nothing that Windows or macOS see"
            )
            remedy = "rename one of the two and its labels: copied there, one replaces the other"
            yield note("image.name", image, what, remedy)


def suffix_problems(data: DomainData) -> Iterator[Problem]:
    """Yield readable images with the suffix of another format.

    duet goes by the content; other programs may go by the name.
    """
    for image in dict.fromkeys(data.images):
        with image.open("rb") as stream:
            head = stream.read(12)
        for magic, start, kind, suffixes in _KINDS:
            if head.startswith(magic, start) and image.suffix.lower() not in suffixes:
                what = f"the content is {kind}, but the name ends in '{image.suffix}'"
                yield note("image.suffix", image, what, f"rename it to '{suffixes[0]}'")
