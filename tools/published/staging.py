"""Writing the data sets into a folder that nobody sees yet."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from duet.errors import DataError, DuetError
from duet.series.decoding import open_image
from duet.series.images import upright_size
from duet.series.problems import Problem, error, listing
from published.choices import Choices
from published.labels import LabelRules, Labels, check_labels
from published.lists import Lists
from published.members import open_archive
from published.plan import Folder, Place
from published.report import SetReport
from published.sets import DataSet

Step = Callable[[str, int, int], None]
"""Progress: what is done, items done, items in all."""

Wanted = Mapping[str, tuple[str, ...]]
"""Folder -> ids of the images that some list needs."""

SPARE_BYTES = 100 * 2**20
"""Room on the disk beyond the images: labels, lists, and what a file system needs."""

_TOLD_EVERY = 100
_AGAIN = "get the archive again from its authors"


def check_space(folder: Path, size: int) -> None:
    """Raise unless the disk has room for ``size`` bytes of images.

    Raises:
        DuetError: It has not.
    """
    free = shutil.disk_usage(folder).free
    if free < size + SPARE_BYTES:
        raise DuetError(
            f"not enough room: need {(size + SPARE_BYTES) / 1e6:.0f} MB for images and labels, "
            f"{free / 1e6:.0f} MB are free",
            where=str(folder.parent),
            remedy="free some disk space or choose another --out",
        )


@dataclass
class SetStage:
    """One data set on its way from the archives to a folder.

    Attributes:
        root: Where to write; None checks only.
        item: The data set.
        folders: What the archives hold.
        wanted: Which images count.
        report: Counts and notes are added to it.
        step: Progress.
        sizes: (folder, id) -> ``(width, height)`` in pixels that the label file states.
    """

    root: Path | None
    item: DataSet
    folders: Mapping[str, Folder]
    wanted: Wanted
    report: SetReport
    step: Step
    sizes: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def labels(self, choices: Choices) -> None:
        """Check every label file of the data set and write it.

        Raises:
            DataError: With the problems of all label files.
        """
        rules = LabelRules(
            self.item.names, frozenset(choices.drop_names), choices.drop_broken_boxes
        )
        problems: list[Problem] = []
        listed = {folder: frozenset(ids) for folder, ids in self.wanted.items()}
        others: list[str] = []
        empty: list[str] = []
        for folder, name, place, content in self._contents("labels"):
            found = check_labels(content, where=f"{place[0].name}: {place[1]}", rules=rules)
            problems += found.problems
            _add(self.report, found)
            if found.size is not None:
                self.sizes[folder, name] = found.size
            if found.image != name and found.image in listed[folder]:
                others.append(f"{folder}/{name}")
            if not found.objects:
                empty.append(f"{folder}/{name}")
            if self.root is not None:
                _write(self.root / folder / "Annotations" / f"{name}.xml", found.content)
        self._raise(problems, "labels")
        self._note(others, "name another listed image inside; their own name counts")
        self._note(empty, "hold no object")

    def images(self, root: Path) -> None:
        """Write every image of the data set, after a look at its header.

        An image that has another size than its label file states is noted; the image counts.

        Raises:
            DataError: With every file that is not an image.
        """
        problems: list[Problem] = []
        differ: list[str] = []
        for folder, name, place, content in self._contents("images"):
            size = _image_size(content)
            if size is None:
                where = f"{place[0].name}: {place[1]}"
                problems.append(error("image.broken", where, "not a readable image", _AGAIN))
                continue
            if self.sizes.get((folder, name), size) != size:
                differ.append(f"{folder}/{name}")
            _write(root / folder / "JPEGImages" / f"{name}{_suffix(place[1])}", content)
        self._raise(problems, "images")
        self._note(differ, "state another size than their image has; the image's own size counts")

    def _contents(self, kind: str) -> Iterator[tuple[str, str, Place, bytes]]:
        """Yield folder, id, place and content of all labels or images, archive by archive."""
        owners: dict[Path, dict[str, tuple[str, str]]] = {}
        for folder, ids in self.wanted.items():
            places: Mapping[str, Place] = getattr(self.folders[folder], kind)
            for name in ids:
                path, member = places[name]
                owners.setdefault(path, {})[member] = (folder, name)
        total, done = sum(map(len, owners.values())), 0
        for path, members in owners.items():
            with open_archive(path) as archive:
                for member, content in archive.each(members.__contains__):
                    folder, name = members[member]
                    yield folder, name, (path, member), content
                    done += 1
                    if done % _TOLD_EVERY == 0 or done == total:
                        self.step(f"{self.item.domain} {kind}", done, total)
        if done != total:  # an archive must not change between looking and reading
            raise DataError(
                f"{self.item.domain}: {total - done} of {total} {kind} could not be read again",
                remedy="leave the archives alone while they are read",
            )

    def _note(self, labels: Sequence[str], what: str) -> None:
        if labels:
            self.report.notes.append(
                f"label files that {what}: {len(labels)}, for example {labels[0]}"
            )

    def _raise(self, problems: Sequence[Problem], kind: str) -> None:
        if problems:
            lines = "".join(f"\n  - {line}" for line in listing(problems))
            raise DataError(f"{self.item.domain}: {len(problems)} {kind} cannot be used:{lines}")


def write_descriptor(root: Path, item: DataSet, lists: Lists, choices: Choices) -> None:
    """Write the lists of a data set and the file that describes it (``format: voc``)."""
    import yaml

    for listed in chain.from_iterable(lists.splits.values()):
        place = root / listed.folder / "ImageSets" / "Main" / f"{listed.split}.txt"
        _write(place, "".join(f"{name}\n" for name in listed.ids).encode())
    document = {
        "format": "voc",
        "path": ".",
        **{
            name: [f"{listed.folder}/{listed.split}" for listed in split]
            for name, split in lists.splits.items()
        },
        "difficult": choices.difficult,
        "names": list(item.names),
    }
    head = "# Made by duet from the authors' archives, whose terms of use apply.\n"
    text = head + yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=100)
    _write(root / f"{item.name}.yaml", text.encode())


def _add(report: SetReport, found: Labels) -> None:
    report.objects.update(found.objects)
    report.dropped.update(found.dropped)
    report.renamed.update({f"{a} -> {b}": count for (a, b), count in found.renamed.items()})


def _image_size(content: bytes) -> tuple[int, int] | None:
    """Return ``(width, height)`` in pixels from the header, as detectors see it, or None."""
    try:
        with open_image(io.BytesIO(content)) as image:
            known = image.format in ("JPEG", "MPO", "PNG")
            return upright_size(image.size, content) if known else None
    except Exception:  # Pillow's readers raise OSError, SyntaxError, struct.error, ...
        return None


def _suffix(member: str) -> str:
    return "." + member.rsplit(".", 1)[-1].lower()


def _write(path: Path, content: bytes) -> None:
    # Plain writes: the whole folder becomes visible at once, see `duet.files.atomic_folder`.
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def wanted_ids(lists: Lists) -> dict[str, tuple[str, ...]]:
    """Return folder -> ids of all lists, each once."""
    found: dict[str, dict[str, None]] = {}
    for listed in chain.from_iterable(lists.splits.values()):
        found.setdefault(listed.folder, {}).update(dict.fromkeys(listed.ids))
    return {folder: tuple(ids) for folder, ids in found.items()}


def image_bytes(folders: Mapping[str, Folder], wanted: Iterable[Wanted]) -> int:
    """Return the unpacked size of all wanted images."""
    return sum(
        folders[folder].sizes[name]
        for ids in wanted
        for folder, names in ids.items()
        for name in names
    )
