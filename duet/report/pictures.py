"""Every picture of a report, as the bytes of a file: for Markdown beside it, or to be embedded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from duet.errors import DataError
from duet.results.schema import Results


@dataclass(frozen=True)
class Pictures:
    """What was drawn.

    Attributes:
        figures: Stem, as in `duet.report.figures.figures` -> PNG.
        gallery: JPEGs, in the order of the gallery.
        missing: Gallery images that are not in the run folder.
        damaged: Gallery images that cannot be read.
    """

    figures: Mapping[str, bytes]
    gallery: tuple[bytes, ...] = ()
    missing: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


def draw_pictures(run_folder: Path, results: Results) -> Pictures:
    """Draw the figures, and every gallery image that is there and can be read."""
    from duet.report.figures import figures
    from duet.report.gallery import gallery_picture, picture
    from duet.report.panes import as_jpeg
    from duet.report.plots import as_png

    gallery, missing, damaged = list[bytes](), list[str](), list[str]()
    for item in results.gallery:
        if not (run_folder / item.file).is_file():
            missing.append(item.file)
            continue
        try:
            seen = picture(run_folder / item.file)
        except DataError:
            damaged.append(item.file)
            continue
        gallery.append(as_jpeg(gallery_picture(results, item, seen)))
    return Pictures(
        figures={stem: as_png(draw(results)) for stem, draw in figures(results).items()},
        gallery=tuple(gallery),
        missing=tuple(missing),
        damaged=tuple(damaged),
    )
