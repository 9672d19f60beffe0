"""What is kept of a detector for other programs: its exported files, and how fast each was here.

The files lie in `FOLDER` in the detector's; where that is not this user's own, or there is none, in
the user's cache. What lies there could be anybody's, so nothing of it is used unless duet recorded,
for this user, that it wrote this very record (`duet.families.vouching`): who sends a detector
cannot send a file along that finds something else.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from pydantic import Field, FiniteFloat, ValidationError

from duet.config import Config
from duet.devices import threads
from duet.families.foreign import is_foreign
from duet.families.opened import foreign_fingerprint
from duet.families.vouching import is_ours, remember
from duet.files import parse_json, read_bytes, sha256_file, sha256_json, sha256_path, write_json
from duet.increments.manifest import MANIFEST, Sha256
from duet.ownfolder import is_mine
from duet.trees import is_link

FOLDER, RECORD = "runtime", "runtime.json"

MOST = 8
"""Detectors of which files are kept in the user's cache; the oldest go."""

_PROGRAMS = ("duet-detect", "torch", "ultralytics", "transformers", "onnxruntime", "openvino")


class Export(Config):
    """One exported file or folder."""

    file: str = Field(pattern="^[a-z_]+(\\.[a-z]+)?$", description="Its name, beside the record.")
    sha256: Sha256


class Record(Config):
    """What `RECORD` holds."""

    format: Literal["duet-runtime"] = "duet-runtime"
    schema_version: Literal[1] = 1
    model: Sha256 = Field(description="Of the files of the detector, see `Kept`.")
    versions: dict[str, str | None] = Field(description="Of the programs that wrote and measured.")
    exports: dict[str, Export] = Field(description="By format.")
    refused: dict[str, str] = Field(description="Why a format cannot be used, by its name.")
    measured: dict[str, dict[str, FiniteFloat]] = Field(
        description="Milliseconds of an image by `here`, and then by the program that ran it."
    )


@dataclass(frozen=True)
class Kept:
    """Where the files of one detector lie.

    Attributes:
        folder: The folder.
        model: SHA-256 over the files of the detector: what is kept is of these bytes or of none.
    """

    folder: Path
    model: str

    @classmethod
    def of(cls, model: Path) -> Kept:
        """Return where the files of a detector folder or a foreign model lie.

        Raises:
            OSError: Its files cannot be read.
        """
        foreign = is_foreign(model) and not (model / MANIFEST).is_file()
        if foreign:
            key = foreign_fingerprint(model)
        else:
            names = (MANIFEST, *sorted(one.name for one in model.glob("*.safetensors")))
            key = sha256_json({name: sha256_file(model / name) for name in names})
        beside = model / FOLDER
        if foreign or not is_mine(model) or is_link(beside):
            return cls(_cache() / key, key)
        return cls(beside, key)

    def read(self) -> Record | None:
        """Return the record; None if there is none, or none of this detector, or not duet's own."""
        try:
            content = read_bytes(self.folder / RECORD)
            if not is_ours(hashlib.sha256(content).hexdigest()):
                return None
            record = Record.model_validate(parse_json(content))
        except (OSError, ValueError, ValidationError):
            return None
        current = record.model == self.model and record.versions == versions()
        return record if current else None

    def write(self, record: Record) -> None:
        """Keep a record.

        Raises:
            DuetError: The file system refuses.
        """
        target = self.folder / RECORD
        write_json(target, record.model_dump(mode="json"))
        remember(sha256_file(target))

    def whole(self, export: Export) -> Path | None:
        """Return an exported file; None if it is not what was written."""
        path = self.folder / export.file
        try:
            return path if not is_link(path) and sha256_path(path) == export.sha256 else None
        except OSError:
            return None

    def make_room(self) -> None:
        """Remove the oldest of the user's cache, if this folder lies there."""
        if self.folder.parent != _cache():
            return
        others = (one for one in self.folder.parent.iterdir() if one != self.folder)
        for one in sorted(others, key=lambda path: path.lstat().st_mtime)[: 1 - MOST]:
            shutil.rmtree(one, ignore_errors=True)


def versions() -> dict[str, str | None]:
    """Return the versions of what writes and runs files; None where it is not installed."""
    return {name: _version(name) for name in _PROGRAMS}


def here() -> str:
    """Return what a measurement is bound to: this kind of processor, and the threads in use."""
    about = Path("/proc/cpuinfo")  # other systems keep it elsewhere, and Python's word must do
    lines = about.read_text(errors="replace").splitlines() if about.is_file() else ()
    model = next((line for line in lines if line.startswith("model name")), platform.processor())
    kind = hashlib.sha256(f"{platform.machine()} {model}".encode()).hexdigest()[:12]
    return f"{kind}, threads: {threads()}"


def lacking(record: Record, forms: Sequence[str], *, choose: bool) -> bool:
    """Tell whether a record lacks one of some formats or, to choose, a measurement of them."""
    if not choose:
        return any(form not in record.exports for form in forms)
    there = [form for form in forms if form not in record.refused]
    measured = record.measured.get(here(), {})
    return any(form not in record.exports for form in there) or any(
        name not in measured for name in ("torch", *there)
    )


def fastest(measured: Mapping[str, float]) -> str:
    """Return the program that took the least time.

    OpenVINO takes half a second longer to load than ONNX Runtime, so a tie is not enough.
    """
    own = {name: ms * (1.03 if name == "openvino" else 1) for name, ms in measured.items()}
    return min(own, key=lambda name: own[name])


def _cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("duet") / "runtimes"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
