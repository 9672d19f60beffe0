"""Which folder of which archive is which part of which data set: found by content, then by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from duet.errors import DataError, did_you_mean, together
from duet.trees import resolved
from published.members import Member, open_archive
from published.sets import ALL, DataSet, Group, Layout, Part

Place = tuple[Path, str]
"""(archive, member)."""

IMAGE_SUFFIX = re.compile(r"\.(jpe?g|png)$", re.IGNORECASE)
_JUNK = re.compile(r"(^|/)(__MACOSX/|\._|\.DS_Store$|Thumbs\.db$)")
_SUFFIXES = re.compile(r"(\.(zip|tar|tgz|gz|bz2|xz))+$", re.IGNORECASE)
_DEVKIT = re.compile(r"(^|/)VOCcode/")


@dataclass
class Folder:
    """All that the archives hold of one VOC folder.

    Attributes:
        lists: Name of a list -> where it is.
        listed: Name of a list that no file gives -> its image ids, as the folders have them.
        labels: Image id -> where its XML is.
        images: Image id -> where the image is.
        sizes: Member sizes of the images, bytes.
        doubled: Image id -> two label files or two images of that name.
    """

    lists: dict[str, Place] = field(default_factory=dict)
    listed: dict[str, set[str]] = field(default_factory=dict)
    labels: dict[str, Place] = field(default_factory=dict)
    images: dict[str, Place] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    doubled: dict[str, tuple[Place, Place]] = field(default_factory=dict)


def find_folders(group: Group, archives: Sequence[tuple[str, Path]]) -> dict[str, Folder]:
    """Look through all archives and return the prepared folder's name -> what there is of it.

    Args:
        group: The data sets to look for.
        archives: (folder that the user says it is, or empty; path of the archive).

    Raises:
        DataError: With everything that is wrong with the archives, together.
    """
    folders: dict[str, Folder] = {}
    problems: list[str] = []
    for said, path in archives:
        try:
            found = _look_into(group, said, path, folders)
            problems += _misnamed(group, said, path, found)
        except DataError as failure:
            problems.append(str(failure))
    if problems:
        raise DataError(together(problems, summary="archives cannot be used"))
    return folders


def chosen_sets(group: Group, folders: Mapping[str, Folder]) -> tuple[DataSet, ...]:
    """Return the data sets whose parts are all there.

    Raises:
        DataError: A data set is there in part only, or none is.
    """
    missing: list[str] = []
    chosen: list[DataSet] = []
    for item in group.sets:
        if not any(part.folder in folders for part in item.parts):
            continue
        absent = [part for part in item.parts if not _has(folders, part)]
        missing += [
            f"{item.domain}: no list '{part.split}' of {part.folder}; it is in {part.archive}"
            for part in absent
        ]
        if not absent:
            chosen.append(item)
    if missing:
        raise DataError(
            together(missing, summary="parts are missing"),
            remedy="give all archives of a data set in one command",
        )
    if not chosen:
        raise DataError("no data set found", remedy=f"get the archives: {group.source}")
    return tuple(chosen)


def folder_name(group: Group, word: str) -> str | None:
    """Return the prepared folder that a name means, or None."""
    plain = _plain(word)
    for folder, names in group.known_as.items():
        if plain in {_plain(folder), *map(_plain, names)}:
            return folder
    return None


def _has(folders: Mapping[str, Folder], part: Part) -> bool:
    folder = folders.get(part.folder)
    return folder is not None and (part.split in folder.lists or part.split in folder.listed)


def _look_into(
    group: Group, said: str, path: Path, folders: dict[str, Folder]
) -> dict[str, set[str]]:
    """Add what an archive holds to ``folders``; return folder -> lists found in this archive.

    Raises:
        DataError: The archive is not usable or not of this group.
    """
    with open_archive(path) as archive:
        members = [member for member in archive.scan() if not _JUNK.search(_posix(member.name))]
    found: dict[str, set[str]] = {}
    others = []
    for member in members:
        layout = _layout_of(group, member)
        if layout is None:
            others.append(member)
            continue
        item, file = layout
        _require_said(said, item.folder, member.name, path)
        split = _add_file(folders.setdefault(item.folder, Folder()), path, member, file)
        found.setdefault(item.folder, set()).add(split)
    trees = _trees(others)
    if not (trees or found):
        raise DataError(
            _no_tree(group, members), where=str(path), remedy=f"expected: {group.source}"
        )
    for root, inside in trees.items():
        inside_is = _nearest(group, root)
        _require_said(said, inside_is, root, path)
        folder = said or inside_is or _named(group, path)
        if folder is None:
            names = ", ".join(group.known_as)
            raise DataError(
                f"'{root or path.name}' is none of the data sets known here{_near(group, root)}",
                where=str(path),
                remedy=f"say which it is: NAME={path.name}, where NAME is one of {names}",
            )
        found.setdefault(folder, set()).update(
            _add(folders.setdefault(folder, Folder()), path, inside)
        )
    return found


def _require_said(said: str, inside_is: str | None, inside: str, path: Path) -> None:
    """Raise where an archive is given as one data set and holds another.

    Raises:
        DataError: It does.
    """
    if said and inside_is not in (None, said):
        raise DataError(
            f"given as {said}, but '{inside}' inside is {inside_is}",
            where=str(path),
            remedy=f"give it as {inside_is}={path.name}, or without a name",
        )


def _layout_of(group: Group, member: Member) -> tuple[Layout, re.Match[str]] | None:
    """Return the layout that a file belongs to, and what its path says."""
    name = _posix(member.name)
    matches = ((layout, layout.file.search(name)) for layout in group.layouts)
    return next(((layout, file) for layout, file in matches if file), None)


def _add_file(folder: Folder, path: Path, member: Member, file: re.Match[str]) -> str:
    """Add an image or a label file of a layout to a folder; return the list that it is in."""
    said = file.groupdict()
    split, image = (said.get("split") or ALL).lower(), said["id"]
    folder.listed.setdefault(split, set()).add(image)
    if IMAGE_SUFFIX.search(member.name):
        _place(folder, folder.images, image, (path, member.name))
        folder.sizes[image] = member.size
    else:
        _place(folder, folder.labels, image, (path, member.name))
    return split


def _trees(members: Iterable[Member]) -> dict[str, list[tuple[str, Member]]]:
    """Return folder in VOC layout -> (path inside it, member)."""
    trees: dict[str, list[tuple[str, Member]]] = {}
    for member in members:
        parts = PurePosixPath(_posix(member.name)).parts
        for index, part in enumerate(parts):
            if part in ("Annotations", "JPEGImages") or parts[index : index + 2] == (
                "ImageSets", "Main",
            ):  # fmt: skip
                inside = "/".join(parts[index:])
                trees.setdefault("/".join(parts[:index]), []).append((inside, member))
                break
    return trees


def _add(folder: Folder, path: Path, inside: Iterable[tuple[str, Member]]) -> set[str]:
    """Add one tree to a folder; return its lists.

    Raises:
        DataError: Another archive brought a list already.
    """
    lists = set()
    for name, member in inside:
        place = (path, member.name)
        kind, leaf = name.split("/", 1)[0], name.rsplit("/", 1)[-1]
        stem, _, suffix = leaf.rpartition(".")
        if kind == "ImageSets" and suffix.lower() == "txt":
            if stem in folder.lists:
                known = folder.lists[stem]
                raise DataError(
                    f"holds '{member.name}', which '{known[1]}' of {known[0]} has given already",
                    where=str(path),
                    remedy="give each archive once, with one copy of each list inside",
                )
            folder.lists[stem] = place
            lists.add(stem)
        elif kind == "Annotations" and suffix.lower() == "xml":
            _place(folder, folder.labels, stem, place)
        elif kind == "JPEGImages" and IMAGE_SUFFIX.search(leaf):
            _place(folder, folder.images, stem, place)
            folder.sizes[stem] = member.size
    return lists


def _place(folder: Folder, known: dict[str, Place], name: str, place: Place) -> None:
    if name in known:
        folder.doubled[name] = known[name], place
    known[name] = place


def _nearest(group: Group, root: str) -> str | None:
    """Return the prepared folder that the nearest folder of a tree names."""
    named = (folder_name(group, word) for word in reversed(PurePosixPath(root).parts))
    return next((folder for folder in named if folder is not None), None)


def _named(group: Group, path: Path) -> str | None:
    """Return the prepared folder that the name of an archive or folder begins with."""
    plain = _plain(_SUFFIXES.sub("", resolved(path).name))
    for folder, names in group.known_as.items():
        # Google Drive appends a date and a number to what it packs.
        if any(plain.startswith(_plain(name)) for name in (folder, *names)):
            return folder
    return None


def _misnamed(group: Group, said: str, path: Path, found: Mapping[str, set[str]]) -> list[str]:
    """Return a problem where an archive bears the name of another one."""
    held = ", ".join(f"{name}/{split}" for name in found for split in sorted(found[name]))
    but = f"but it is given as {said}" if said else f"but it holds {held or 'no list'}"
    remedy = "download it again, or rename it if only the name is wrong"
    for part in (part for item in group.sets for part in item.parts):
        if path.name == part.archive and part.split not in found.get(part.folder, ()):
            return [f"{path}: by its name this is {part.folder}/{part.split}, {but}\n  {remedy}"]
    named = _named(group, path)
    if not said and named is not None and named not in found:
        return [f"{path}: by its name this is {named}, {but}\n  {remedy}"]
    return []


def _no_tree(group: Group, members: Sequence[Member]) -> str:
    if any(_DEVKIT.search(member.name) for member in members):
        return "this is the development kit's code, which comes without images"
    top = sorted({member.name.split("/", 1)[0] for member in members})
    shown = ", ".join(top[:5]) or "nothing"
    others = "".join(f" and no images of {layout.folder}" for layout in group.layouts)
    return (
        f"no folder in VOC layout (Annotations, ImageSets/Main, JPEGImages){others} inside; it "
        f"holds {shown}{' ...' if len(top) > 5 else ''}"
    )


def _near(group: Group, root: str) -> str:
    words = PurePosixPath(root).parts
    return did_you_mean(words[-1], group.known_as) if words else ""


def _plain(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.casefold())


def _posix(name: str) -> str:
    """Return a member's name with the separators that most programs write."""
    return name.replace("\\", "/")
