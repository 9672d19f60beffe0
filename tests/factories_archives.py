"""Small archives in the layout of the published ones: VOC tars, art zips, weather folders."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from published.sets import DataSet, Group

Files = dict[str, bytes]
"""Member name -> content."""

Object = tuple[str, tuple[float, ...]]
"""(name, (xmin, ymin, xmax, ymax))."""


def smaller(group: Group, counts: Mapping[tuple[str, str], int]) -> Group:
    """Return a group that expects other counts: (folder, split) -> images."""

    def shrunk(item: DataSet) -> DataSet:
        train, val, test = (
            tuple(replace(p, images=counts.get((p.folder, p.split), p.images)) for p in parts)
            for parts in (item.train, item.val, item.test)
        )
        return replace(item, train=train, val=val, test=test)

    return replace(group, sets=tuple(map(shrunk, group.sets)))


def jpeg(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    """Return an image of random pixels; ``size`` is ``(width, height)``."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def xml(objects: Sequence[Object], size: tuple[int, int] = (40, 30), **more: str) -> bytes:
    """Return a VOC label file."""
    rows = "".join(
        f"<object><name>{name}</name><difficult>{more.get('difficult', '0')}</difficult><bndbox>"
        + "".join(
            f"<{side}>{value:g}</{side}>"
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for name, box in objects
    )
    return (
        f"<annotation><filename>x.jpg</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height><depth>3</depth></size>{rows}</annotation>"
    ).encode()


def tree(
    root: str, lists: Mapping[str, Sequence[str]], names: Sequence[str], *, seed: int = 0
) -> Files:
    """Return a VOC folder: the image at place i holds one object of class ``i mod n``."""
    files: Files = {}
    ids = list(dict.fromkeys(name for listed in lists.values() for name in listed))
    for split, listed in lists.items():
        files[f"{root}/ImageSets/Main/{split}.txt"] = "".join(f"{i}\n" for i in listed).encode()
    for place, image in enumerate(ids):
        box = (1 + place % 5, 2, 20 + place % 9, 25)
        files[f"{root}/Annotations/{image}.xml"] = xml([(names[place % len(names)], box)])
        files[f"{root}/JPEGImages/{image}.jpg"] = jpeg(1000 * seed + place)
    return files


def ids(prefix: str, count: int) -> list[str]:
    """Return image ids."""
    return [f"{prefix}{number:06d}" for number in range(count)]


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    """Write a tar archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a zip archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files as they are."""
    for name, content in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return path
