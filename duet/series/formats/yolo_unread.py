"""YOLO labels that lie where nobody looks for them: beside images, in ``Labels``, as ``a.TXT``."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path

from duet.series.formats.yolo_labels import read_labels
from duet.series.names import other_spelling
from duet.series.problems import Problem, warning

_IMAGES, _LABELS = ("images", "image", "imgs", "img"), ("labels", "label")


def unread_labels(
    image: Path, looked: Path, class_count: int | None, taken: Container[Path]
) -> Path | None:
    """Return a label file of an image that has none where labels are looked for.

    Args:
        image: An image.
        looked: Where its labels are looked for.
        class_count: Number of classes: a text with other rows is no label file.
        taken: Where those of all images are looked for.
    """
    if looked.is_file():
        return None
    spelled = _spelled(looked)
    if spelled is not None and spelled not in taken:
        return spelled
    for place in _candidates(image):
        path = _spelled(place)
        if path is not None and path not in taken:
            rows = read_labels(path, class_count=class_count)
            if len(rows.class_ids) and not rows.problems:
                return path
    return None


def _spelled(path: Path) -> Path | None:
    """Return a file, in its own capitals or in others, or None."""
    if path.is_file():
        return path
    name = other_spelling(path)
    return path.with_name(name) if name is not None and path.with_name(name).is_file() else None


def unread_label_problems(
    looked: Mapping[Path, Path], class_count: int | None
) -> Iterator[Problem]:
    """Yield one problem per folder of labels that are not read.

    Args:
        looked: Image -> where its labels are looked for.
        class_count: Number of classes.
    """
    folders: dict[tuple[Path, Path, Path], list[Path]] = defaultdict(list)
    taken = frozenset(looked.values())
    for image, place in looked.items():
        found = unread_labels(image, place, class_count, taken)
        if found is not None:
            folders[found.parent, image.parent, place.parent].append(found)
    for (folder, images, place), files in folders.items():
        what = f"{len(files)} label files, such as {files[0].name}, are not read: "
        if folder == place:
            what += "the name that is looked for has other capitals"
            remedy = "give them the names of their images, and the suffix '.txt'"
        else:
            what += f"those of the images in {images} are looked for in {place}"
            remedy = "rename the folders: 'labels' takes the place of 'images' in an image's path"
            remedy = "move them there" if folder == images else remedy
        yield warning("pair.unread", folder, what, remedy)


def _candidates(image: Path) -> Iterator[Path]:
    yield image.with_suffix(".txt")
    parts = image.parts
    for index in reversed(range(1, len(parts) - 1)):
        if parts[index].casefold() in _IMAGES:
            parent = Path(*parts[:index])
            for name in _folders(parent):
                yield Path(parent, name, *parts[index + 1 :]).with_suffix(".txt")


def _folders(parent: Path) -> Iterable[str]:
    """Return the names below ``parent`` that say labels, in any spelling."""
    try:
        return sorted(name for name in os.listdir(parent) if name.casefold() in _LABELS)
    except OSError:
        return ()
