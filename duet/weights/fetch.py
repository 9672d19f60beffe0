"""Getting start weights: what must be known first, the download, and the guarded door behind it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from duet.errors import ConfigError, DuetError, ModelError
from duet.files import atomic_path, run_lock, sha256_file
from duet.weights.facts import read_facts
from duet.weights.manifest import Manifest, WeightsRow
from duet.weights.partial import forget, memory_of
from duet.weights.store import (
    Checked,
    Record,
    cache_folder,
    place,
    read_record,
    record_path,
    require_hash,
    write_record,
)

if TYPE_CHECKING:
    from duet.weights.transfer import Notify, Patience, Progress


@dataclass(frozen=True)
class Plan:
    """What getting a row will do; making one touches no network and writes nothing.

    Attributes:
        row: What is wanted.
        target: Where its file will lie.
        expected: The hash that it must have; None only if the user accepts any.
        checked: Who knows that hash.
        present: Whether a file lies there already; it is only checked then.
    """

    row: WeightsRow
    target: Path
    expected: str | None
    checked: Checked
    present: bool

    @property
    def part(self) -> Path:
        """Where the download grows; the suffix stays, because the guarded door looks at it."""
        return self.target.with_name(f"{self.target.stem}.part{self.target.suffix}")

    @property
    def writes(self) -> tuple[Path, ...]:
        """All files that getting the row may write."""
        return self.target, record_path(self.target), self.part, memory_of(self.part)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        begun = self.part.stat().st_size if self.part.is_file() else 0
        return {
            "name": self.row.name, "url": self.row.url, "path": str(self.target),
            "size": self.row.size, "licence": self.row.licence, "sha256": self.expected,
            "checked": self.checked, "present": self.present, "part_bytes": begun,
        }  # fmt: skip


@dataclass(frozen=True)
class Fetched:
    """A file of start weights that passed all checks.

    Attributes:
        path: The file.
        state: How it came here.
        checked: Who knew its hash beforehand; None for a local file without ``--sha256``.
        facts: What it says about itself, see `read_facts`.
        received: Bytes that came over the network.
    """

    path: Path
    state: Literal["shipped", "present", "downloaded", "local", "copied"]
    checked: Checked | None
    facts: dict[str, Any]
    received: int = 0


def plan_fetch(
    row: WeightsRow,
    manifest: Manifest,
    *,
    folder: Path | None = None,
    sha256: str | None = None,
    accept_unverified: bool = False,
) -> Plan:
    """Decide where a row goes and which hash it must have.

    The user's word counts most, then the manifest's, then that of an earlier download, which must
    never disagree with either.

    Args:
        row: What is wanted.
        manifest: The manifest that holds the row.
        folder: Where to; default the cache. Rows that come with duet stay where they are.
        sha256: The hash that the user expects.
        accept_unverified: Take a file whose hash nobody knows, and pin it.

    Raises:
        ConfigError: No hash is known and the user did not accept that.
        ModelError: The hash contradicts the record of an earlier download.
    """
    target = place(row, manifest, folder or cache_folder())
    record = read_record(target) if row.url is not None else None
    expected, checked = _known(row, record, sha256)
    if record is not None and expected not in (None, record.sha256):
        raise ModelError(
            f"an earlier download had SHA-256 {record.sha256}, now {expected} is expected",
            where=str(target),
            remedy=f"if the publisher replaced the file, remove {target.name} and its "
            ".record.json, then get it again",
        )
    if expected is None and not accept_unverified:
        raise ConfigError(
            f"nobody has told duet the SHA-256 of '{row.name}', so it could not tell the real file "
            "from another one",
            where=row.name,
            remedy="give --sha256 HEX as its publisher states it, or --accept-unverified: the "
            "first download is then pinned, and later ones must be equal to it",
        )
    return Plan(row, target, expected, checked, target.is_file())


def _known(
    row: WeightsRow, record: Record | None, sha256: str | None
) -> tuple[str | None, Checked]:
    if sha256 is not None:
        return sha256, "user"
    if row.sha256 is not None and (record is None or record.checked != "user"):
        return row.sha256, "manifest"
    if record is not None:
        return record.sha256, record.checked
    return None, "first download"


def fetch(
    plan: Plan,
    *,
    progress: Progress = lambda done, total: None,
    patience: Patience | None = None,
    notify: Notify = lambda line: None,
) -> Fetched:
    """Carry out a plan: the file gets its name only after its hash and its content are checked.

    Args:
        plan: From `plan_fetch`.
        progress: Told of every block that comes.
        patience: How long to try.
        notify: Told why nothing comes, see `duet.weights.transfer.download`.

    Raises:
        ModelError: The hash is another one, or the guarded door refuses the file. A download that
            is refused is kept as ``<file>.bad``, which nothing ever opens.
        DuetError: Network or disk fail, or another process is getting weights into the folder.
    """
    from duet.weights.transfer import download  # requests tries a socket when it is imported

    if plan.row.url is None:
        require_hash(plan.target, plan.expected)
        return Fetched(plan.target, "shipped", plan.checked, read_facts(plan.target))
    with run_lock(plan.target.parent):
        record = read_record(plan.target)
        if plan.target.is_file():
            digest = require_hash(plan.target, plan.expected)
            fetched = Fetched(plan.target, "present", plan.checked, read_facts(plan.target))
            if record is None or plan.checked == "user":
                url = record.url if record else None
                write_record(plan.target, Record(sha256=digest, checked=plan.checked, url=url))
            return fetched
        # Where the user knows another hash than the manifest, its size is out of date as well.
        size = None if plan.checked == "user" else plan.row.size
        received = download(
            plan.row.url, plan.part, size=size, progress=progress, patience=patience,
            notify=notify,
        )  # fmt: skip
        digest, facts = _inspect(plan)
        # The record comes first: a kill in between leaves a record that binds the next try.
        record = Record(sha256=digest, checked=plan.checked, url=plan.row.url)
        write_record(plan.target, record)
        os.replace(plan.part, plan.target)
        forget(plan.part)
    return Fetched(plan.target, "downloaded", plan.checked, facts, received)


def take_local(path: Path, *, folder: Path | None = None, sha256: str | None = None) -> Fetched:
    """Check a file that is already here, and copy it if a folder is given.

    Args:
        path: A `.pt`, `.pth` or `.safetensors` file.
        folder: Where to copy it, with the sidecar of base weights; None copies nothing.
        sha256: The hash that it must have.

    Raises:
        ModelError: It is missing, has another hash, or the guarded door refuses it.
        ConfigError: Another file of that name lies in the folder.
        DuetError: The copy cannot be written.
    """
    if not path.is_file():
        raise ModelError("no such file", where=str(path), remedy="check the path")
    digest = require_hash(path, sha256)
    facts = read_facts(path)
    checked: Checked | None = "user" if sha256 else None
    if folder is None:
        return Fetched(path, "local", checked, facts)
    target = folder / path.name
    if target.exists() and sha256_file(target) != digest:
        raise ConfigError(
            "another file of that name is there", where=str(target), remedy="move it away first"
        )
    sidecar = path.with_suffix(".json")
    for source in (path, sidecar) if path.suffix == ".safetensors" else (path,):
        if source.is_file() and not (folder / source.name).exists():
            with atomic_path(folder / source.name) as temporary:
                shutil.copyfile(source, temporary)
    return Fetched(target, "copied", checked, facts)


def _inspect(plan: Plan) -> tuple[str, dict[str, Any]]:
    """Check the hash of the complete part, then its content; set a wrong file aside."""
    bad = plan.target.with_name(f"{plan.target.name}.bad")
    digest = sha256_file(plan.part)
    try:
        if plan.expected is not None and digest != plan.expected:
            raise ModelError(
                f"the server's file is not the one expected: got SHA-256 {digest}, expected "
                f"{plan.expected}",
                where=plan.row.url,
                remedy="it was replaced by its publisher or changed on the way; ask the publisher "
                "which hash is right and give that with --sha256",
            )
        return digest, read_facts(plan.part)
    except ModelError as error:
        os.replace(plan.part, bad)
        forget(plan.part)
        aside = f"The file was set aside as {bad}; nothing opens it"
        raise _with_remedy(error, aside) from None


def _with_remedy(error: DuetError, more: str) -> DuetError:
    remedy = f"{error.remedy}. {more}" if error.remedy else more
    return type(error)(error.what, where=error.where, remedy=remedy)
