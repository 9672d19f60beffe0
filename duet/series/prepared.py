"""Data that a program of duet's makes: a series names the command, shown where they are missing."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from duet.series.problems import error, raise_problems

# A stranger's file may only name duet's own programs: people copy what they are told to run.
PrepareCommand = Annotated[
    str,
    Field(
        pattern=r"^(duet data emoji|python tools/prepare_(pascal|photos|weather)\.py)"
        r"( (ARCHIVE \.\.\.|\{root\}|--out|--protocol [\w-]+))*$",
        description="the command that makes the data, shown where they are missing",
    ),
]


def require_made(command: str | None, paths: Iterable[Path], root: Path, *, where: str) -> None:
    """Name the command that makes the data, where they are not there.

    Args:
        command: Of the series; None if its data are made elsewhere.
        paths: What its increments read.
        root: Folder of the data, which the command is told.
        where: The series file.

    Raises:
        DataError: Some are missing, and the series says how they are made.
    """
    if command is None:
        return
    what = "these data are made by a program, and are not there"
    made = command.replace("{root}", shlex.quote(str(root.resolve())))
    missing = [
        error("data.unprepared", path, what, f"make them once: {made}")
        for path in dict.fromkeys(paths)
        if not path.exists()
    ]
    raise_problems(missing, where=where)
