"""Images without labels and labels without images, by what lies in the folders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from duet.series.model import DomainData
from duet.series.names import composed
from duet.series.problems import Problem, note, warning
from duet.series.suffixes import is_picture

_NO_LABELS = ("classes.txt", "notes.txt", "README.txt")  # what labelling tools put beside labels

MOST_UNLABELLED = 0.5
"""Share of a split's images without labels up to which these look forgotten, not meant."""


def images_without_file(
    data: DomainData, label_file: Callable[[Path], Path], told: Callable[[Path, Path], bool]
) -> Iterator[Problem]:
    """Yield images without a label file, in a format that takes them for empty scenes.

    Args:
        data: A data set.
        label_file: Where the labels of an image lie.
        told: Whether the reader told already why an image has none there.
    """
    present: dict[Path, set[str]] = {}
    for split in data.splits.values():
        missing = []
        for image in split.images:
            path = label_file(image)
            if path.parent not in present:  # one listing per folder instead of a stat per file
                present[path.parent] = {composed(name) for name in _names(path.parent)}
            if composed(path.name) not in present[path.parent] and not told(image, path):
                missing.append(image)
        if len(missing) < len(split.images):  # without any label, the class problems tell it
            forgotten = len(missing) <= MOST_UNLABELLED * len(split.images)
            what = "no label file: read as an image without objects"
            remedy = "label it, or write an empty label file if nothing is on it"
            for image in missing:
                kind = warning if forgotten else note
                yield kind("pair.no-label", image, what, remedy)


def images_without_entry(
    data: DomainData, broken: Collection[Path], what: str
) -> Iterator[Problem]:
    """Yield images that lie beside those of a file which lists them but are not in it.

    Args:
        data: A data set.
        broken: Images that have a problem of their own and are therefore not in ``data``.
        what: In words what they miss.
    """
    known = {*data.images, *broken}
    for folder in sorted({image.parent for image in data.images}):
        files = [folder / name for name in sorted(_names(folder))]
        unlisted = [path for path in files if is_picture(path.name) and path not in known]
        forgotten = len(unlisted) <= MOST_UNLABELLED * len(files)
        for path in unlisted:
            kind = warning if forgotten else note
            yield kind("pair.no-entry", path, what, "label it, or remove it")


def orphans(data: DomainData, label_file: Callable[[Path], Path]) -> Iterator[Problem]:
    """Yield label files whose image is gone; one that is not listed or not read has its image.

    Args:
        data: A data set.
        label_file: Where the labels of an image lie.
    """
    stems: dict[Path, dict[str, str]] = defaultdict(dict)
    places = {(label_file(image), image.parent) for image in data.images}
    suffixes = tuple({path.suffix for path, _ in places})
    for labels, images in {(path.parent, images) for path, images in places}:
        stems[labels] |= {composed(Path(n).stem): n for n in _names(images) if is_picture(n)}
    for folder, known in sorted(stems.items()):
        folded = {stem.casefold(): name for stem, name in known.items()}
        for name in sorted(_names(folder)):
            stem = composed(Path(name).stem)
            if name.endswith(suffixes) and stem not in known and name not in _NO_LABELS:
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
