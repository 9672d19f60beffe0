"""From downloaded archives to a folder of data sets and series, complete or not there at all."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from duet.errors import DuetError
from duet.files import atomic_folder, is_occupied, write_json
from duet.trees import resolved
from published import staging
from published.choices import Choices
from published.folds import fold_lists
from published.lists import Lists, make_lists
from published.plan import chosen_sets, find_folders
from published.report import Prepared, SetReport
from published.series import usable_series, write_series
from published.sets import Group

MADE_FILE = "prepared.json"


def prepare(
    group: Group,
    archives: Sequence[tuple[str, Path]],
    out: Path,
    *,
    choices: Choices,
    step: staging.Step,
    dry_run: bool = False,
) -> Prepared:
    """Check archives and turn them into data sets and series.

    Args:
        group: Which data sets to look for; its counts are those that are checked.
        archives: (folder that the user says it is, or empty; path of the archive or folder).
        out: Folder to make; it must not exist, or be empty.
        choices: See `Choices`.
        step: Called with the progress.
        dry_run: Check everything but the images, and write nothing.

    Raises:
        DataError: The archives cannot be used; all reasons of one kind together.
        DuetError: ``out`` exists or cannot be written. Nothing is left half-written.
    """
    _refuse_unusable(out)  # before minutes of reading
    folders = find_folders(group, archives)
    sets = chosen_sets(group, folders)
    lists = fold_lists(sets, folders, make_lists(sets, folders, choices), choices)
    wanted = {name: staging.wanted_ids(lists[name]) for name in lists}
    size = staging.image_bytes(folders, wanted.values())
    reports = {item.name: _report(item.domain, lists[item.name]) for item in sets}
    series, left_out = usable_series(group, [item.domain for item in sets])
    made = Prepared(out, choices, reports, series, left_out, size, dry_run)
    with contextlib.nullcontext() if dry_run else atomic_folder(resolved(out)) as root:
        if root is not None:
            staging.check_space(root, size)
        # All labels before the first image: they are small, and most faults are in them.
        readers = [
            staging.SetStage(root, item, folders, wanted[item.name], reports[item.name], step)
            for item in sets
        ]
        for reader in readers:
            reader.labels(choices)
        if root is not None:
            for reader in readers:
                reader.images(root)
                staging.write_descriptor(root, reader.item, lists[reader.item.name], choices)
            write_series(root, series)
            write_json(root / MADE_FILE, {**made.as_dict(), "archives": _paths(archives)})
    return made


def _refuse_unusable(out: Path) -> None:
    """Raise unless ``out`` can appear as a whole: absent, or an empty folder that can be replaced.

    Raises:
        DuetError: It cannot.
    """
    try:
        if out.is_dir() and out.is_mount():
            what = "is a mount point, which cannot be replaced by a finished folder"
            raise DuetError(what, where=str(out), remedy="choose a folder inside it")
        filled = is_occupied(out)
    except OSError as error:
        what = f"cannot be looked at: {error.strerror}"
        raise DuetError(what, where=str(out), remedy="choose another --out") from error
    if filled:
        raise DuetError(
            "already exists and is not empty",
            where=str(out),
            remedy="choose another --out or remove this one first",
        )


def _report(domain: str, lists: Lists) -> SetReport:
    train, val, test = (
        sum(len(listed.ids) for listed in part) for part in (lists.train, lists.val, lists.test)
    )
    return SetReport(domain, train, val, test, notes=list(lists.notes))


def _paths(archives: Sequence[tuple[str, Path]]) -> list[str]:
    return [str(path) for _, path in archives]
