"""The end of a job: its results, and ``outcome.json``, which is written last and vouches for them.

It holds the SHA-256 of every result, and its own. Whoever reads a job back checks them all, so that
a damaged, exchanged or missing file is noticed before it becomes a detector.
"""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from duet.config import Config, parse_config
from duet.errors import DuetError, ModelError
from duet.fields import InnerPath
from duet.files import read_json, sha256_file
from duet.increments.fisher import FISHER
from duet.increments.manifest import Sha256
from duet.sealed import unsealed, write_sealed
from duet.training.checkpoint import remove_checkpoint
from duet.training.job import TRAINED, Job, keeps_trunk

OUTCOME = "outcome.json"

PACKAGES = ("duet-detect", "torch", "torchvision", "ultralytics", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of the libraries that numbers depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_memory() -> int | None:
    """Return the largest resident size of this process so far, in bytes; None on Windows.

    Linux tells it per address space. ``ru_maxrss``, which other systems have to do with, starts a
    child with the size of the parent that launched it.
    """
    status = Path("/proc/self/status")
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.M)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


class Outcome(Config):
    """What a finished job says about itself.

    Attributes:
        key: `Job.key` of the job.
        images_seen: Images that passed through training, repeats counted.
        seconds: Wall time of the training, of the last process that worked on it.
        history: Mean losses per epoch.
        fisher_images: Images that the Fisher is the mean of; 0 if there is none.
        peak_memory: Main memory of the training process at most, bytes; None if unknown.
        precision: What its convolutions computed in, as `precision: auto` found it.
        versions: Libraries that it was trained with; none if an older duet did not tell.
        files: SHA-256 of each result.
        state: Fingerprint of the trained state, once it is kept elsewhere; its file is no result
            then.
        kept: Where that is, seen from the folder that the lab lies in.
    """

    key: str
    images_seen: int = Field(ge=0)
    seconds: float = Field(ge=0)
    history: tuple[dict[str, float], ...]
    fisher_images: int = Field(ge=0)
    peak_memory: int | None
    precision: str = "fp32"
    versions: dict[str, str] = Field(default_factory=dict)
    files: dict[str, Sha256]
    state: Sha256 | None = None
    kept: InnerPath | None = None

    def results(self) -> set[str]:
        """Return the names of the files that must be there."""
        return set(_results(self.fisher_images)) - ({TRAINED} if self.state else set())


def write_outcome(folder: Path, **facts: Any) -> None:
    """Vouch for the results that lie in ``folder``, and forget the checkpoint.

    Args:
        folder: Job folder.
        facts: Of the `Outcome`; hashes, and unless given versions and memory, are found here.
    """
    files = {name: sha256_file(folder / name) for name in _results(facts["fisher_images"])}
    own = {"peak_memory": peak_memory(), "versions": versions()}
    outcome = Outcome(**own | facts, files=files)
    write_sealed(folder / OUTCOME, outcome.model_dump(mode="json"))
    remove_checkpoint(folder)


def let_go(folder: Path, outcome: Outcome, *, state: str, kept: str) -> None:
    """Remove the trained state of a finished job, which is kept elsewhere.

    Args:
        folder: Job folder.
        outcome: Of the job.
        state: `Outcome.state`.
        kept: `Outcome.kept`.
    """
    files = {name: value for name, value in outcome.files.items() if name != TRAINED}
    now = outcome.model_copy(update={"files": files, "state": state, "kept": kept})
    write_sealed(folder / OUTCOME, now.model_dump(mode="json"))
    (folder / TRAINED).unlink(missing_ok=True)  # a kill before it leaves what the next one removes


def bring_back(folder: Path, outcome: Outcome) -> None:
    """Vouch for the trained state that lies in ``folder`` again, after `let_go`."""
    files = outcome.files | {TRAINED: sha256_file(folder / TRAINED)}
    now = outcome.model_copy(update={"files": files, "state": None, "kept": None})
    write_sealed(folder / OUTCOME, now.model_dump(mode="json"))


def read_outcome(folder: Path, key: str) -> Outcome:
    """Return the outcome of the job with that key, all of whose results are as they were written.

    Raises:
        ModelError: It or a result is missing, damaged or another job's; ``where`` is the file.
    """
    path = folder / OUTCOME
    try:
        outcome = parse_config(Outcome, unsealed(read_json(path)), where=str(path))
        if set(outcome.files) != outcome.results():
            raise ValueError(f"it names the files {sorted(outcome.files)}")
        if outcome.key != key:
            raise ValueError("it belongs to another job")
    except DuetError as error:
        raise ModelError(error.what, where=str(path)) from None
    except ValueError as error:
        raise ModelError(str(error), where=str(path)) from None
    for name, expected in outcome.files.items():
        require_file(folder / name, expected)
    return outcome


class HasFisher(Protocol):
    """What is known of a finished job."""

    @property
    def fisher_images(self) -> int:
        """Images that its Fisher is the mean of; 0 if there is none."""
        ...


def lacks_fisher(job: Job, outcome: HasFisher) -> bool:
    """Tell whether a finished job is asked for a Fisher that it did not compute."""
    wanted = bool(job.schedule.fisher_images) and not keeps_trunk(job)
    return wanted and not outcome.fisher_images


def require_file(path: Path, expected: str) -> None:
    """Refuse a file that is not the one that was written.

    Raises:
        ModelError: It is missing, unreadable or has another SHA-256.
    """
    try:
        if sha256_file(path) == expected:
            return
        what = "its content is not the one that was written"
    except OSError as error:
        what = f"cannot read: {error.strerror or error}"
    raise ModelError(what, where=str(path))


def _results(fisher_images: int) -> tuple[str, ...]:
    return (TRAINED, FISHER) if fisher_images else (TRAINED,)
