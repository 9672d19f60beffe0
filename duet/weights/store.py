"""Start weights on this machine: where they lie, what is known about them, and finding them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from duet.config import Config, Schema, parse_config
from duet.errors import ConfigError, DuetError, ModelError, did_you_mean
from duet.files import read_json, sha256_file, write_json
from duet.increments.manifest import MANIFEST, Sha256
from duet.text import without_secrets
from duet.weights.manifest import SUFFIXES, Manifest, WeightsRow, load_manifest

Checked = Literal["manifest", "user", "first download"]
"""Who knew the hash of a file before it came; "first download" means nobody did."""
Presence = Literal["shipped", "cached", "not downloaded"]


class Record(Config):
    """What lies beside a downloaded file and binds every later download of it.

    Attributes:
        schema_version: Of the file on the disk, which anybody may have edited.
        sha256: Hash of the file when it was taken.
        checked: Who knew that hash beforehand.
        url: Where the file came from, without what may be secret in it; None if the user put it
            there.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_version: Schema = Field(default=1, alias="schema")
    sha256: Sha256
    checked: Checked
    url: str | None


def cache_folder() -> Path:
    """Return the folder of downloaded weights; it may not exist yet."""
    from platformdirs import user_cache_path

    return user_cache_path("duet") / "weights"


def record_path(file: Path) -> Path:
    """Return where the record of ``file`` lies."""
    return file.with_name(f"{file.name}.record.json")


def read_record(file: Path) -> Record | None:
    """Return the record of a file, or None if it has none.

    Raises:
        ModelError: The record is damaged: it must not be mistaken for "none".
    """
    path = record_path(file)
    if not path.is_file():
        return None
    try:
        return parse_config(Record, read_json(path), where=str(path))
    except DuetError as error:
        raise ModelError(
            f"the record of the download cannot be read: {error.what}",
            where=str(path),
            remedy=f"remove it and {file.name}, then get the weights again",
        ) from None


def write_record(file: Path, record: Record) -> None:
    """Write the record of a file atomically."""
    url = None if record.url is None else without_secrets(record.url)
    kept = record.model_copy(update={"url": url})
    write_json(record_path(file), kept.model_dump(by_alias=True))


def place(row: WeightsRow, manifest: Manifest, cache: Path | None = None) -> Path:
    """Return where the file of a row lies once it is there."""
    return (manifest.folder if row.url is None else cache or cache_folder()) / row.file


def presence(row: WeightsRow, manifest: Manifest) -> Presence:
    """Say whether the file of a row is here; its bytes are not looked at."""
    file = place(row, manifest)
    if not file.is_file() or (row.url is not None and not record_path(file).is_file()):
        return "not downloaded"
    return "shipped" if row.url is None else "cached"


def find(name_or_path: str | os.PathLike[str], *, manifest: Manifest | None = None) -> Path:
    """Return the file of start weights; never downloads.

    Args:
        name_or_path: A name of the manifest, such as ``yolo11n``, or the path of a file. A name
            of the manifest means that row even if a file of that name lies in the working folder.
        manifest: Default the one that comes with duet.

    Raises:
        ConfigError: No such name or file, or the weights are not downloaded yet.
        ModelError: The bytes of a named file changed since it was verified.
    """
    text = os.fspath(name_or_path)
    manifest = manifest or load_manifest()
    if text not in manifest:
        return _existing(Path(text), manifest)
    row = manifest.row(text)
    file = place(row, manifest)
    if presence(row, manifest) == "not downloaded":
        raise ConfigError(
            f"the start weights '{row.name}' are not on this machine",
            where=str(file),
            remedy=f"get them once: `duet weights get {row.name}`",
        )
    record = read_record(file) if row.url is not None else None
    require_hash(file, record.sha256 if record else row.sha256)
    return file


def name_or_below(folder: Path, text: str) -> str:
    """Return start weights that a file in ``folder`` names: a name as it is, else a path."""
    return text if text in load_manifest() else str(folder / text)


def require_hash(file: Path, expected: str | None) -> str:
    """Return the SHA-256 of a file, which must be ``expected`` unless that is None.

    Raises:
        ModelError: It is another one.
    """
    got = sha256_file(file)
    if expected is not None and got != expected:
        raise ModelError(
            f"the file is not the one that was expected: got SHA-256 {got}, expected {expected}",
            where=str(file),
            remedy="it was changed or replaced; move it away and get the weights again",
        )
    return got


def _existing(path: Path, manifest: Manifest) -> Path:
    # A folder that transformers wrote, or a detector's.
    if path.is_file() or any((path / name).is_file() for name in ("config.json", MANIFEST)):
        return path
    if path.is_dir():
        raise ConfigError(
            "a folder, expected a file of start weights", where=str(path),
            remedy="give the file itself, or a name that `duet weights ls` shows",
        )  # fmt: skip
    names = [row.name for row in manifest.rows]
    if path.name == str(path) and path.suffix not in SUFFIXES:
        manifest.row(str(path))  # not a path at all: says which name is near
    hint = f", did you mean the name '{path.stem}'?" if path.stem in manifest else ""
    raise ConfigError(
        f"no such file of start weights{hint or did_you_mean(str(path), names)}",
        where=str(path),
        remedy="give a path, or a name that `duet weights ls` shows",
    )
