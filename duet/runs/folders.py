"""Run folders on disk: which there are, what they hold, and how to be rid of it.

Only what duet makes is ever removed, by name, a folder with all that lies in it; what else lies in
a run folder is its user's. Links are removed, and never followed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from duet.emoji.build import STAMP
from duet.errors import ConfigError, DuetError
from duet.files import LOCK, OWN
from duet.results.files import CSV_FILE, RESULTS_FILE, load_results
from duet.trees import is_link

FILES = (RESULTS_FILE, CSV_FILE, "report.md", "summary.json", "compare.md", LOCK)
"""Files that duet puts into a run folder."""

DEPTH = 3
"""Levels of folders in which runs are looked for."""

_OUTCOME, _JOB = "outcome.json", "job.json"
_INPUTS = ("start.safetensors", "direction.safetensors", "importance.safetensors")
State = Literal["finished", "half", "running", "damaged"]


@dataclass(frozen=True)
class RunFolder:
    """What a run folder holds.

    Attributes:
        path: The folder.
        state: ``running`` while a process writes there; ``half`` if results or the end of a
            training are missing; ``damaged`` if results.json cannot be read.
        bytes: On disk; of a file with several names in it once.
        series: Name of the series; None without results.
        strategies: Those of the results, or of the folders that were begun.
        seed: Of the run; None without results.
        stages: T; None without results.
        indices: Of the main strategy, fractions; only those that are defined.
        trained: Trainings that ended.
        jobs: Trainings that the lab knows.
    """

    path: Path
    state: State
    bytes: int
    series: str | None
    strategies: tuple[str, ...]
    seed: int | None
    stages: int | None
    indices: dict[str, float]
    trained: int
    jobs: int

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {**asdict(self), "path": str(self.path), "strategies": list(self.strategies)}


@dataclass(frozen=True)
class Removal:
    """What is, or would be, removed of a run folder.

    Attributes:
        path: The run folder.
        paths: Files and folders, each as a whole.
        bytes: What that frees.
        kept: What stays though it lies there: it is not of duet's making.
        seconds: Training time that the same command would take again to bring it back.
    """

    path: Path
    paths: tuple[Path, ...]
    bytes: int
    kept: tuple[str, ...] = ()
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        paths = [one.relative_to(self.path).as_posix() for one in self.paths]
        return {**asdict(self), "path": str(self.path), "paths": paths, "kept": list(self.kept)}


def is_run(folder: Path) -> bool:
    """Tell whether duet made a folder a run folder: results, trainings, or detectors lie in it."""
    if is_link(folder) or not folder.is_dir():
        return False
    if _is_ours(folder / RESULTS_FILE, "series", "strategies"):
        return True
    jobs = folder.glob(f"lab/*/{_JOB}")
    if any(_is_ours(one, "phase", "parts", "schedule") for one in jobs):
        return True
    kept = folder.glob("models/*/*/manifest.json"), folder.glob("increments/*/*/manifest.json")
    return any(_is_ours(one, "format", "family") for some in kept for one in some)


def _is_ours(path: Path, *keys: str) -> bool:
    """Tell whether a JSON file has the keys that duet writes into one of its name."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and set(keys) <= found.keys()


def find(folder: Path) -> Iterator[Path]:
    """Yield the run folders in a folder, it among them, in order.

    Raises:
        ConfigError: There is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError("no such folder", where=str(folder))
    yield from _below(folder, DEPTH)


def _below(folder: Path, depth: int) -> Iterator[Path]:
    found = is_run(folder)
    if found:
        yield folder
    for name in sorted(os.listdir(folder)) if depth else ():
        inner = folder / name
        if inner.is_dir() and not is_link(inner) and not (found and name in (*OWN, "data")):
            with contextlib.suppress(PermissionError):
                yield from _below(inner, depth - 1)


def describe(folder: Path) -> RunFolder:
    """Return what a run folder holds."""
    jobs = [path.parent for path in folder.glob(f"lab/*/{_JOB}")]
    trained = sum((job / _OUTCOME).is_file() for job in jobs)
    begun = {path.name for top in ("models", "increments") for path in folder.glob(f"{top}/*")}
    facts: dict[str, Any] = {
        "series": None, "strategies": tuple(sorted(begun)), "seed": None, "stages": None,
        "indices": {},
    }  # fmt: skip
    state: State = "half"
    if (folder / RESULTS_FILE).is_file():
        try:
            facts, state = _facts(folder), "finished" if trained == len(jobs) else "half"
        except DuetError:
            state = "damaged"
    elif _repeats(folder):
        state = "finished" if (folder / "summary.json").is_file() else "half"
    if _is_locked(folder):
        state = "running"
    return RunFolder(folder, state, size_of([folder]), trained=trained, jobs=len(jobs), **facts)


def _facts(folder: Path) -> dict[str, Any]:
    results = load_results(folder)
    numbers = results.main.indices.numbers()
    others = [one.name for one in results.strategies if one.name != results.main_strategy]
    return {
        "series": results.series.name,
        "strategies": (results.main_strategy, *others),
        "seed": results.protocol.seed,
        "stages": results.final_stage,
        "indices": {name: value for name, value in numbers.items() if value is not None},
    }


def _repeats(folder: Path) -> list[Path]:
    """Return the runs in a folder that `duet run --seeds` or `--orders` filled."""
    return [one for kind in ("seed-*", "order-*") for one in folder.glob(kind) if is_run(one)]


def size_of(paths: Sequence[Path]) -> int:
    """Return the bytes of files and folders; links count nothing, two names of a file once."""
    seen: dict[tuple[int, int], int] = {}
    for path in _files(paths):
        with contextlib.suppress(OSError):
            status = path.lstat()
            seen[status.st_dev, status.st_ino] = status.st_size
    return sum(seen.values())


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if is_link(path):
            continue
        if path.is_file():
            yield path
        for place, _, names in os.walk(path):
            yield from (one for name in names if not is_link(one := Path(place, name)))


def _is_locked(folder: Path) -> bool:
    """Tell whether a process writes in a run folder; nothing is made for the question."""
    if not (folder / LOCK).is_file() or is_link(folder / LOCK):
        return False
    try:
        with held(folder):
            return False
    except DuetError:
        return True


def held(folder: Path) -> AbstractContextManager[Any]:
    """Hold the lock of a run folder, which keeps every writer out.

    Raises:
        DuetError: Another process holds it, or it is a link or cannot be opened.
    """
    from filelock import FileLock, Timeout

    lock = folder / LOCK
    if is_link(lock) or (lock.is_file() and lock.stat().st_nlink > 1):
        raise DuetError("its lock is a link", where=str(lock), remedy="remove it")
    try:
        return FileLock(lock).acquire(timeout=0)
    except Timeout:
        raise DuetError(
            "a duet process is writing here", where=str(folder), remedy="wait for it to end"
        ) from None
    except OSError as error:
        raise DuetError(f"cannot lock: {error.strerror or error}", where=str(folder)) from error


def removal(folder: Path) -> Removal:
    """Return what of a run folder is duet's, all of it, repeats included.

    Raises:
        ConfigError: It is no run folder.
    """
    require_run(folder)
    paths, kept = _ours(folder)
    return Removal(folder, tuple(paths), size_of(paths), tuple(kept))


def require_run(folder: Path) -> None:
    """Refuse what duet did not make a run folder.

    Raises:
        ConfigError: It is missing, a link, or something else.
    """
    if is_run(folder):
        return
    if is_link(folder):
        what, remedy = "this is a link", "name the folder that it leads to"
    elif not folder.is_dir():
        what, remedy = "no such folder", "`duet runs ls` lists those that are there"
    else:
        what = "no run folder: no results, trainings or detectors of duet's lie here"
        remedy = "`duet runs ls` lists those that are there"
    raise ConfigError(what, where=str(folder), remedy=remedy)


def _ours(folder: Path) -> tuple[list[Path], list[str]]:
    """Return what in a run folder is duet's, and what is not."""
    repeats, ours, others = {one.name for one in _repeats(folder)}, list[Path](), list[str]()
    for name in sorted(os.listdir(folder)):
        path = folder / name
        drawn = name == "data" and (path / STAMP).is_file() and not is_link(path)
        if name in OWN or name in FILES or drawn:
            ours.append(path)
        elif name in repeats:
            inner, left = _ours(path)
            ours += [path] if not left else inner
            others += [f"{name}/{one}" for one in left]
        else:
            others.append(name)
    return ours, others


def cleaning(folder: Path) -> Removal:
    """Return what of a run folder can be computed again, and is there only in case it is wanted.

    That are the inputs of trainings that ended, and what they left in the lab alone. Detectors,
    increments, evaluations and the report stay; so do trainings that have not ended.

    Raises:
        ConfigError: It is no run folder.
    """
    require_run(folder)
    paths, seconds = list[Path](), 0.0
    for job in sorted(path.parent for path in folder.glob(f"lab/*/{_OUTCOME}")):
        if is_link(job) or is_link(job.parent):
            continue
        told = _read(job / _OUTCOME)
        if told.get("state"):  # its tensors are those of a detector or an increment
            paths += [one for name in _INPUTS if (one := job / name).is_file()]
        else:
            paths.append(job)
            seconds += float(told.get("seconds") or 0)
    return Removal(folder, tuple(paths), size_of(paths), seconds=round(seconds, 1))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def remove(what: Removal) -> None:
    """Remove it, under the lock of the run folder; an empty folder goes, too.

    Raises:
        DuetError: A process writes there, or the file system refuses.
    """
    with contextlib.ExitStack() as locks:
        for folder in (what.path, *_repeats(what.path)):
            locks.enter_context(held(folder))
        for path in what.paths:
            if path.name == LOCK:
                continue
            if is_link(path) or not path.is_dir():
                path.unlink(missing_ok=True)
            else:
                shutil.rmtree(path)
    if os.listdir(what.path) in ([], [LOCK]):
        (what.path / LOCK).unlink(missing_ok=True)
        what.path.rmdir()
