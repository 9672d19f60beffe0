"""The series file: what users write in YAML, checked before anything is read that it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from duet.config import Config, Schema
from duet.errors import did_you_mean
from duet.files import relative_path
from duet.names import Name, key
from duet.series.expected import Expected
from duet.series.formats.table import AUTO, choices
from duet.series.prepared import PrepareCommand
from duet.text import NAME_LENGTH
from duet.trees import resolved

ClassName = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH)]


def _known_format(value: str) -> str:
    known = choices()
    if value not in known:
        raise ValueError(f"unknown format{did_you_mean(value, known)}; known: {', '.join(known)}")
    return value


LabelFormat = Annotated[str, AfterValidator(_known_format)]
FORMAT = Field(default=AUTO, description="label format; auto: what the data look like")


class IncrementConfig(Config):
    """One increment as written in a series file."""

    name: Name | None = Field(default=None, description="unique name; by default the domain's")
    domain: Name = Field(description="what the images look like, for example 'night'")
    data: str = Field(
        min_length=1, description="data.yaml or folder of the data, relative to the series' root"
    )
    format: LabelFormat = FORMAT
    classes: tuple[ClassName, ...] = Field(min_length=1, description="the new classes, by name")


class StartConfig(Config):
    """The detector that a series goes on from, in place of a first increment."""

    detector: str = Field(
        min_length=1,
        description="detector folder, exported file of one, or .pt of Ultralytics, relative to "
        "this file",
    )
    name: Name | None = Field(default=None, description="by default the detector's own")
    domain: Name | None = Field(default=None, description="of its images; by default its name")
    data: str | None = Field(
        default=None,
        min_length=1,
        description="labelled images of its classes, relative to the series' root, to measure "
        "what is kept; nothing is trained on them",
    )
    format: LabelFormat = FORMAT


class Defaults(Config):
    """What `duet run` uses for a series unless told otherwise; paths relative to the file."""

    train: str | None = Field(default=None, description="schedule YAML")
    weights: str | None = Field(default=None, description="θ_0 as .safetensors")
    architecture: str | None = Field(default=None, description="architecture of the family")


class SeriesConfig(Config):
    """A series file: ordered increments and where their data lie."""

    # The key is `schema`; the attribute is not, because pydantic's BaseModel has a `schema` method.
    schema_version: Schema = Field(default=1, alias="schema", description="of this file")
    name: Name
    description: str = ""
    root: str = Field(default=".", description="folder of the data, relative to this file")
    prepare: PrepareCommand | None = None
    start: StartConfig | None = None
    increments: tuple[IncrementConfig, ...] = Field(min_length=1)
    defaults: Defaults = Defaults()
    expected: Expected | None = Field(default=None, description="published values to check against")

    @model_validator(mode="after")
    def _names_differ(self) -> SeriesConfig:
        names = [item.name for item in self.increments if item.name is not None]
        counts = Counter(map(key, names))
        if doubled := sorted({name for name in names if counts[key(name)] > 1}):
            raise ValueError(f"increment names occur twice: {', '.join(doubled)}")
        return self

    @model_validator(mode="after")
    def _expected_fits(self) -> SeriesConfig:
        if self.expected is not None:
            steps = [(item.domain, item.classes) for item in self.increments]
            if problems := self.expected.problems(steps):
                raise ValueError("; ".join(problems))
        return self

    def increment_names(self) -> tuple[str, ...]:
        """Return a unique name per increment: its own, or its domain with a number if needed."""
        taken = {key(item.name) for item in self.increments if item.name is not None}
        names: list[str] = []
        for item in self.increments:
            name, number = item.name or item.domain, 1
            while item.name is None and key(name) in taken:
                number += 1
                name = f"{item.domain}-{number}"
            taken.add(key(name))
            names.append(name)
        return tuple(names)

    @property
    def with_data(self) -> tuple[StartConfig | IncrementConfig, ...]:
        """What names a data set, in the order of the series."""
        start = (self.start,) if self.start is not None and self.start.data else ()
        return (*start, *self.increments)

    def moved(self, source: Path, target: Path, data: Sequence[str]) -> dict[str, Any]:
        """Return the document for a copy of the data in a folder of its own, ready to be written.

        Args:
            source: This file.
            target: Folder of the copy, and the root of its data.
            data: Places of what `with_data` names, relative to ``target``.
        """
        document: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        document["root"] = "."
        start, here, there = document.get("start") or {}, resolved(source.parent), resolved(target)
        items = [*([start] if start.get("data") else []), *document["increments"]]
        for item, place in zip(items, data, strict=True):
            item.pop("format", None)
            item["data"] = place
        defaults = document.get("defaults", {})
        for part, name in ((start, "detector"), (defaults, "train"), (defaults, "weights")):
            if value := part.get(name):
                part[name] = relative_path(here / value, there)
        return document
