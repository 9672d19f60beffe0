"""Pictures of unlabelled old objects, to be looked at by people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from duet.doctor.background import Shift, Sighting
from duet.files import atomic_folder
from duet.images import Image, read_image
from duet.names import as_name

MOST_CROPS = 96
"""Crops per increment and class: the most confident."""

_TILE, _COLUMNS = 96, 12  # pixels; tiles per row of a contact sheet
_MARGIN = 0.15  # of the box, on each side: what is around it tells whether it is right


def write_crops(shifts: Sequence[Shift], folder: Path) -> int:
    """Write ``INCREMENT/CLASS/*.jpg`` and a contact sheet ``INCREMENT-CLASS.png`` each.

    Args:
        shifts: What was found.
        folder: Absent, empty, or these very crops; complete when this returns, else absent.

    Returns:
        The number of crops.

    Raises:
        DuetError: The folder holds files, or the file system refuses the write.
    """
    count = 0
    with atomic_folder(folder, again=holds_crops(folder)) as temporary:
        for shift in shifts:
            increment, name = as_name(shift.increment), as_name(shift.name)
            place = temporary / increment / name
            place.mkdir(parents=True, exist_ok=True)
            crops = [_crop(item) for item in shift.sightings[:MOST_CROPS]]
            for number, (crop, item) in enumerate(zip(crops, shift.sightings, strict=False)):
                stem = as_name(item.image.stem)
                _write(place / f"{number:03d}_{item.score:.2f}_{stem}.jpg", crop)
            _write(temporary / f"{increment}-{name}.png", _sheet(crops))
            count += len(crops)
    return count


def holds_crops(folder: Path) -> bool:
    """Tell whether a folder looks like what `write_crops` makes: folders and contact sheets."""
    if not folder.is_dir():
        return False
    entries = list(folder.iterdir())
    sheets = [entry for entry in entries if entry.suffix == ".png"]
    return bool(sheets) and all(entry.is_dir() for entry in entries if entry not in sheets)


def _crop(item: Sighting) -> Image:
    """Return the object with a margin, ``(h, w, 3) uint8`` BGR."""
    picture = read_image(item.image)
    height, width = picture.shape[:2]
    left, top, right, bottom = item.xyxy
    across, down = _MARGIN * (right - left), _MARGIN * (bottom - top)
    # At least one pixel, also of a box that lies outside.
    x0, y0 = (int(np.clip(v, 0, s - 1)) for v, s in ((left - across, width), (top - down, height)))
    x1, y1 = (int(np.ceil(v)) for v in (right + across, bottom + down))
    return picture[y0 : max(y0 + 1, min(y1, height)), x0 : max(x0 + 1, min(x1, width))]


def _sheet(crops: Sequence[Image]) -> Image:
    """Return all crops side by side, each scaled to fit its tile."""
    import cv2

    columns = min(_COLUMNS, len(crops))
    rows = -(-len(crops) // columns)
    sheet = np.full((rows * _TILE, columns * _TILE, 3), 255, np.uint8)
    for number, crop in enumerate(crops):
        scale = (_TILE - 4) / max(crop.shape[:2])
        size = [max(1, round(side * scale)) for side in crop.shape[1::-1]]
        small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
        top, left = (number // columns) * _TILE + 2, (number % columns) * _TILE + 2
        sheet[top : top + size[1], left : left + size[0]] = small
    return sheet


def _write(target: Path, picture: Image) -> None:
    import cv2

    # The folder as a whole is atomic.
    target.write_bytes(cv2.imencode(target.suffix, picture)[1].tobytes())
