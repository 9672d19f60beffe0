"""Images without labels and labels without images, by what lies in the folders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from duet.series.formats.yolo import label_path
from duet.series.formats.yolo_unread import unread_labels
from duet.series.model import DomainData
from duet.series.names import composed
from duet.series.problems import Problem, note, warning
from duet.series.suffixes import is_picture

_NO_LABELS = ("classes.txt", "notes.txt", "README.txt")  # what labelling tools put beside labels

MOST_UNLABELLED = 0.5
"""Share of a split's images without labels up to which these look forgotten, not meant."""


def pair_problems(data: DomainData, form: str, broken: Collection[str]) -> Iterator[Problem]:
    """Yield images and label files that miss each other.

    Args:
        data: A data set.
        form: Its format, one of `duet.series.formats.FORMATS`.
        broken: Images that have a problem of their own and are therefore not in ``data``.
    """
    yield from _same_but_for_capitals(data)
    if form == "yolo":
        yield from _images_without_file(data)
        yield from _orphans(
            ".txt", {(label_path(image).parent, image.parent) for image in _images(data)}
        )
    elif form == "voc":
        folders = {(image.parent.parent / "Annotations", image.parent) for image in _images(data)}
        yield from _orphans(".xml", folders)
    else:
        yield from _images_without_entry(data, broken)


def _images(data: DomainData) -> Iterator[Path]:
    for split in data.splits.values():
        yield from split.images


def _same_but_for_capitals(data: DomainData) -> Iterator[Problem]:
    """Yield images that other systems cannot keep in one folder."""
    seen: dict[str, Path] = {}
    for image in dict.fromkeys(_images(data)):
        other = seen.setdefault(composed(str(image)).casefold(), image)
        if other != image:
            what = (
                f"the name differs from that of {other.name} in nothing that Windows or macOS see"
            )
            remedy = "rename one of the two and its labels: copied there, one replaces the other"
            yield note("image.name", image, what, remedy)


def _images_without_file(data: DomainData) -> Iterator[Problem]:
    """Yield YOLO images without a label file; the format takes them for empty scenes."""
    present: dict[Path, set[str]] = {}
    taken = frozenset(label_path(image) for image in _images(data))
    for split in data.splits.values():
        missing = []
        for image in split.images:
            path = label_path(image)
            if path.parent not in present:  # one listing per folder instead of a stat per file
                present[path.parent] = {composed(name) for name in _names(path.parent)}
            if composed(path.name) in present[path.parent]:
                continue
            unread = unread_labels(image, path, len(data.labels), taken)
            if unread is None:  # else told by the reader
                missing.append(image)
        if len(missing) < len(split.images):  # without any label, the class problems tell it
            forgotten = len(missing) <= MOST_UNLABELLED * len(split.images)
            what = "no label file: read as an image without objects"
            remedy = "label it, or write an empty label file if nothing is on it"
            for image in missing:
                kind = warning if forgotten else note
                yield kind("pair.no-label", image, what, remedy)


def _images_without_entry(data: DomainData, broken: Collection[str]) -> Iterator[Problem]:
    """Yield images that lie beside those of a COCO file but are not in it."""
    known = {str(image) for image in _images(data)} | set(broken)
    for folder in sorted({image.parent for image in _images(data)}):
        files = [folder / name for name in sorted(_names(folder))]
        unlisted = [path for path in files if is_picture(path.name) and str(path) not in known]
        forgotten = len(unlisted) <= MOST_UNLABELLED * len(files)
        for path in unlisted:
            kind = warning if forgotten else note
            what, remedy = "no entry in any JSON file", "label it, or remove it"
            yield kind("pair.no-entry", path, what, remedy)


def _orphans(suffix: str, folders: Iterable[tuple[Path, Path]]) -> Iterator[Problem]:
    """Yield label files whose image is gone; one that is not listed or not read has its image.

    Args:
        suffix: Of the label files.
        folders: Pairs of a label folder and the image folder that belongs to it.
    """
    stems: dict[Path, dict[str, str]] = defaultdict(dict)
    for labels, images in folders:
        stems[labels] |= {composed(Path(n).stem): n for n in _names(images) if is_picture(n)}
    for folder, known in sorted(stems.items()):
        folded = {stem.casefold(): name for stem, name in known.items()}
        for name in sorted(_names(folder)):
            stem = composed(Path(name).stem)
            if name.endswith(suffix) and stem not in known and name not in _NO_LABELS:
                what = "a label file without an image"
                remedy = "restore the image, or delete the label file"
                if other := folded.get(stem.casefold()):
                    what += f"; '{other}' differs in capitals"
                    remedy = "give both one name, or delete the label file"
                yield warning("pair.no-image", folder / name, what, remedy)


def _names(folder: Path) -> set[str]:
    """Return the names in a folder, without the hidden files of other systems."""
    try:
        return {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    except OSError:
        return set()
