"""The table of start weights: what they are, where they come from, and which bytes they must be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator

from duet.config import Config, Schema, load_yaml, parse_config
from duet.errors import ConfigError, DataError, did_you_mean
from duet.files import read_json
from duet.labels import LabelSpace
from duet.shipped import shipped
from duet.trees import resolved

SUFFIXES = (".pt", ".pth", ".safetensors")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class WeightsRow(Config):
    """One row: a file of start weights.

    Attributes:
        name: What users call it.
        family: Detector family, a row of `duet.families.table`.
        architecture: The family's name of the architecture, such as ``yolo11n.yaml``.
        classes: Name of the list of its classes, in the order of the outputs.
        licence: SPDX identifier.
        file: Name of the file, without folders.
        url: Where it is downloaded from; None if it lies beside the manifest.
        sha256: Hash of the file, 64 lower-case hexadecimal digits; None if nobody knows it yet.
        size: Bytes; None if unknown.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    family: str
    architecture: str
    classes: str
    licence: str
    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.(pt|pth|safetensors)$")
    url: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    size: int | None = Field(default=None, gt=0)

    @field_validator("url")
    @classmethod
    def _is_private(cls, url: str | None) -> str | None:
        if url is not None and not is_private(url):
            raise ValueError("expected an https:// address")
        return url

    @model_validator(mode="after")
    def _local_files_are_known(self) -> WeightsRow:
        if self.url is None and self.sha256 is None:
            raise ValueError(f"'{self.name}' has neither a url nor a sha256")
        return self


class _Document(Config):
    """The JSON file."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Schema = Field(alias="schema")
    about: str = ""
    class_lists: Mapping[str, tuple[str, ...]]
    weights: tuple[WeightsRow, ...]

    @model_validator(mode="after")
    def _hangs_together(self) -> _Document:
        for attribute in ("name", "file"):
            values = [getattr(row, attribute) for row in self.weights]
            doubled = sorted({value for value in values if values.count(value) > 1})
            if doubled:
                raise ValueError(f"weights have the same {attribute}: {', '.join(doubled)}")
        missing = sorted({row.classes for row in self.weights} - set(self.class_lists))
        if missing:
            raise ValueError(f"class lists are missing: {', '.join(missing)}")
        return self


@dataclass(frozen=True)
class Manifest:
    """All rows, and the folder in which the rows without a URL have their files.

    Attributes:
        rows: In the order of the file.
        class_lists: Class names by the name of the list.
        folder: Folder of the manifest.
    """

    rows: tuple[WeightsRow, ...]
    class_lists: Mapping[str, LabelSpace]
    folder: Path

    def __contains__(self, name: object) -> bool:
        return any(row.name == name for row in self.rows)

    def row(self, name: str) -> WeightsRow:
        """Return a row.

        Raises:
            ConfigError: No such row; with the nearest name.
        """
        for row in self.rows:
            if row.name == name:
                return row
        names = [row.name for row in self.rows]
        raise ConfigError(
            f"unknown start weights '{name}'{did_you_mean(name, names)}",
            remedy="`duet weights ls` lists the names; a file of your own is given by its path",
        )

    def classes(self, row: WeightsRow) -> LabelSpace:
        """Return the classes of a row, in the order of the outputs."""
        return self.class_lists[row.classes]


def load_manifest(path: Path | None = None) -> Manifest:
    """Read a manifest.

    Args:
        path: A JSON or YAML file; default the one that comes with duet.

    Raises:
        ConfigError: The file is missing or not valid, or a class list holds a name twice; with
            all problems.
    """
    source = path or shipped("weights", "manifest.json")
    if source.suffix.lower() in (".yaml", ".yml"):
        data = load_yaml(source)
    else:
        data = read_json(source, error=ConfigError, remedy="check the path")
    document = parse_config(_Document, data, where=str(source))
    try:
        lists = {name: LabelSpace(names) for name, names in document.class_lists.items()}
    except DataError as error:
        raise ConfigError(error.what, where=str(source), remedy=error.remedy) from None
    return Manifest(document.weights, lists, resolved(source).parent)


def is_private(url: str) -> bool:
    """Say whether nobody on the way can read or change what comes from ``url``.

    True for https, and for http to this machine itself.
    """
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in LOOPBACK
    return bool(parts.hostname) and (parts.scheme == "https" or local)


def parse_sha256(text: str) -> str:
    """Return a SHA-256 in lower case.

    Raises:
        ConfigError: It is not 64 hexadecimal digits.
    """
    digest = text.strip().lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ConfigError(
            f"expected a SHA-256 of 64 hexadecimal digits, got '{text}'", where="--sha256"
        )
    return digest
