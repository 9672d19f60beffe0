"""The `manifest.json` beside the tensors: what they are, where they come from, their hashes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    Field,
    JsonValue,
    StringConstraints,
    field_validator,
    model_serializer,
    model_validator,
)

from duet.config import Config, parse_config
from duet.errors import ModelError
from duet.files import read_json, sha256_json
from duet.increments.colours import Colours
from duet.increments.forms import HeadForm
from duet.increments.scores import ScoreMap
from duet.names import Name, as_name
from duet.sealed import SEAL, unsealed
from duet.text import NAME_LENGTH, shown
from duet.trees import stamp

if TYPE_CHECKING:
    from duet.increments.state import DetectorState

SCHEMA_VERSION: Literal[2] = 2
"""Newest that is read. Without score maps 1 is written, which any duet reads."""

SMALLEST_SIDE, LARGEST_SIDE = 32, 8192
"""Side of the square images of a detector in pixels. One batch of the largest takes 0.8 GB before
the first layer; no published detector is trained above 1536."""

MANIFEST = "manifest.json"
_AGAIN = "take the folder from its source again; `duet run` writes the folders of its own run anew"

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
NameText = Annotated[
    str, StringConstraints(min_length=1, max_length=NAME_LENGTH, strip_whitespace=True)
]
Side = Annotated[int, Field(strict=True, ge=SMALLEST_SIDE, le=LARGEST_SIDE, multiple_of=32)]


_LATER = ("scores", "rescored", "colours")


class Scored(Config):
    """What has score maps and colours; without any it is written as before there were any."""

    colours: Colours | None = Field(
        default=None, description="Of the training images, for score maps of later stages."
    )

    @model_serializer(mode="wrap")
    def _without_none(self, whole: Any) -> dict[str, Any]:
        return {key: value for key, value in whole(self).items() if key not in _LATER or value}


class IncrementManifest(Scored):
    """What an increment folder holds and how it was made."""

    format: Literal["duet-increment"] = "duet-increment"
    schema_version: Literal[1, 2] = 1
    kind: Literal["base", "increment", "refinement", "independent", "reference"] = Field(
        description="First stage; later stage, trained from the merge before it; the same of class "
        "rows of known classes alone; stage trained from the start weights alone; or a model for "
        "GI and PI."
    )
    name: Name
    family: Text
    architecture: Text
    head: HeadForm
    classes: tuple[NameText, ...] = Field(
        description="That it adds, in the order of the outputs; none if it shows known classes in "
        "a new domain."
    )
    adapts: tuple[NameText, ...] = Field(default=(), description="Those known classes.")
    domain: NameText
    index: int = Field(ge=0, description="Position in the series.")
    base: Sha256 = Field(description="Fingerprint of theta_0 (its shared floating tensors).")
    parent: Sha256 | None = Field(
        default=None,
        description="Fingerprint of the detector that training started from; null for theta_0.",
    )
    config: dict[str, JsonValue] = Field(description="Full configuration of the run.")
    seed: int
    versions: dict[str, str] = Field(description="Library name to version.")
    data: Sha256 = Field(description="SHA-256 of the manifest of the training data.")
    images: int = Field(ge=0, description="Images seen in training (not kept).")
    metrics: dict[str, float] = Field(default_factory=dict)
    bn_weight: float = Field(
        ge=0, description="Weight of this stage's BatchNorm statistics, such as images seen."
    )
    refit_on: Sha256 | None = Field(
        default=None,
        description="Fingerprint of the merged shared tensors that the part was re-fit on.",
    )
    fisher_images: int = Field(
        default=0, ge=0, description="Images of the diagonal Fisher beside the vector; 0 = none."
    )
    scores: dict[NameText, ScoreMap] = Field(
        default_factory=dict, description="Score maps of classes whose rows it holds, by name."
    )
    rescored: dict[NameText, ScoreMap] = Field(
        default_factory=dict,
        description="Score maps of older classes in the detector after its stage, by name.",
    )
    licence: Text
    files: dict[str, Sha256] = Field(default_factory=dict, description="Written by the store.")

    @field_validator("config")
    @classmethod
    def _has_a_usable_size(cls, config: dict[str, JsonValue]) -> dict[str, JsonValue]:
        schedule = config.get("schedule")
        side = schedule.get("image_size") if isinstance(schedule, dict) else None
        if side is not None and not (type(side) is int and SMALLEST_SIDE <= side <= LARGEST_SIDE):
            raise ValueError(
                f"schedule.image_size must be a whole number from {SMALLEST_SIDE} to "
                f"{LARGEST_SIDE}, got {shown(side)}"
            )
        return config

    @model_validator(mode="after")
    def _teaches_something(self) -> IncrementManifest:
        if bool(self.classes) == bool(self.adapts):
            raise ValueError(
                "an increment either adds classes or adapts known ones, but got classes "
                f"{list(self.classes)} and adapts {list(self.adapts)}"
            )
        if self.kind == "refinement" and not self.adapts:
            raise ValueError(f"a refinement brings no classes, but got {list(self.classes)}")
        if strange := sorted(set(self.scores) - set(self.held)):
            raise ValueError(f"score maps of classes whose rows it does not hold: {strange}")
        return self

    @property
    def held(self) -> tuple[str, ...]:
        """Classes whose rows the increment holds: those it adds, or refines."""
        return self.adapts if self.kind == "refinement" else self.classes

    def identity(self) -> str:
        """Return the SHA-256 of all that the manifest says but the hashes of the tensor files.

        The tensor files carry it too, so that a manifest that was edited, or that belongs to
        another increment, is noticed: most of its facts decide what a merge does.
        """
        return sha256_json(self.model_dump(mode="json", exclude={"files"}))

    def fingerprint(self) -> str:
        """Return the SHA-256 of the manifest; with `files` filled it stands for the tensors too."""
        return sha256_json(self.model_dump(mode="json"))


class PartEntry(Scored):
    """One head part of a detector."""

    increment: Name
    classes: tuple[NameText, ...] = Field(min_length=1)
    scores: dict[NameText, ScoreMap] = Field(
        default_factory=dict,
        description="Score maps of its classes by name. What duet exported gives mapped scores: "
        "there they tell what was done, and at which scores the classes are deployed.",
    )

    @model_validator(mode="after")
    def _of_its_classes(self) -> PartEntry:
        if strange := sorted(set(self.scores) - set(self.classes)):
            raise ValueError(f"score maps of classes it lacks: {strange}")
        return self


_TOLD: Mapping[str, Mapping[str, type]] = MappingProxyType(
    {"merge": {"method": str, "params": dict}, "batchnorm": {"rule": str}}
)
"""What is told of a merge, by its part in the configuration; anything else may stand beside it."""


class Lineage(Config):
    """One increment that went into a detector, and how it was merged in."""

    increment: Name
    manifest: Sha256 = Field(description="IncrementManifest.fingerprint() of its saved folder.")
    merge: dict[str, JsonValue] | None = Field(
        default=None, description="Merge and BatchNorm configuration; null for the first stage."
    )

    @field_validator("merge")
    @classmethod
    def _can_be_told(cls, merge: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        for name, kinds in _TOLD.items():
            part = (merge or {}).get(name, {})
            if not isinstance(part, dict) or not all(
                isinstance(part.get(key, kind()), kind) for key, kind in kinds.items()
            ):
                expected = " and ".join(f"'{key}' ({kind.__name__})" for key, kind in kinds.items())
                raise ValueError(f"'{name}' needs {expected}, got {shown(part)}")
        return merge


class DetectorManifest(Config):
    """What a detector folder holds."""

    format: Literal["duet-detector"] = "duet-detector"
    schema_version: Literal[1, 2] = 1
    family: Text
    architecture: Text
    head: HeadForm
    parts: tuple[PartEntry, ...] = Field(min_length=1, description="Oldest increment first.")
    lineage: tuple[Lineage, ...] = ()
    recipe: dict[str, JsonValue] | None = Field(
        default=None,
        description="How to merge it again; paths are relative to the detector's folder.",
    )
    fingerprint: Sha256 = Field(description="DetectorState.fingerprint().")
    image_size: Side = Field(description="Side of the training images in pixels.")
    licence: Text
    files: dict[str, Sha256] = Field(default_factory=dict, description="Written by the store.")

    @classmethod
    def for_state(
        cls,
        state: DetectorState,
        *,
        lineage: tuple[Lineage, ...],
        image_size: int,
        licence: str,
        recipe: dict[str, JsonValue] | None = None,
    ) -> DetectorManifest:
        """Return the manifest of ``state``; everything the state knows is taken from it."""
        return cls(
            schema_version=2 if state.scores or any(part.colours for part in state.parts) else 1,
            family=state.family,
            architecture=state.architecture,
            head=state.head,
            parts=tuple(
                PartEntry(
                    increment=part.increment,
                    classes=part.classes,
                    scores={**part.scores},
                    colours=part.colours,
                )
                for part in state.parts
            ),
            lineage=lineage,
            recipe=recipe,
            fingerprint=state.fingerprint(),
            image_size=image_size,
            licence=licence,
        )

    def name_in(self, folder: Path) -> str:
        """Return what the detector in a folder is called.

        The folder's name says little ("2-comic"); a single part knows its increment.
        """
        first, *others = self.parts
        return as_name(folder.name) if others else first.increment


M = TypeVar("M", IncrementManifest, DetectorManifest)

FORMATS = {
    "duet-increment": "an increment folder",
    "duet-detector": "a detector folder",
}


def read_manifest(folder: Path, model: type[M]) -> M:
    """Read and check ``folder/manifest.json``; an unchanged file is parsed once.

    Raises:
        ModelError: The folder or file is missing, of another kind, written by a newer duet, does
            not follow the schema, or changed since it was written (`duet.sealed`).
    """
    wanted = model.model_fields["format"].default
    found = _read(folder, f"{FORMATS[wanted]} holds {MANIFEST} and .safetensors files")
    if isinstance(found, model):
        return found
    raise ModelError(
        f"this is {FORMATS[found.format]} (format {shown(found.format)}), expected "
        f"{FORMATS[wanted]} ('{wanted}')",
        where=str(folder / MANIFEST),
        remedy="give the path of the other folder",
    )


def read_any_manifest(folder: Path) -> IncrementManifest | DetectorManifest:
    """Read the manifest of an increment folder or a detector folder; errors as `read_manifest`."""
    return _read(folder, "an increment or detector folder holds manifest.json")


def _read(folder: Path, expected: str) -> IncrementManifest | DetectorManifest:
    path = folder / MANIFEST
    if not path.exists():
        missing = path if path.parent.is_dir() else path.parent
        what, remedy = f"no such file or folder: {missing}", f"check the path; {expected}"
        if path.parent.is_file():
            what = "this is a file"
            remedy += "; an exported file can be looked with (`duet predict`) and nothing else"
        raise ModelError(what, where=str(path.parent), remedy=remedy)
    return _parsed(path, stamp(path))


@functools.lru_cache(maxsize=256)  # the folders of a long series; each is some kilobytes
def _parsed(path: Path, _state: tuple[int, ...]) -> IncrementManifest | DetectorManifest:
    """Parse a manifest, once for each state of its file."""
    data = read_json(path, error=ModelError, remedy=_AGAIN)
    found = data.get("format")
    if found not in ("duet-increment", "duet-detector"):
        raise ModelError(
            f"this is not a folder that duet wrote (format {shown(found)}), expected "
            f"{' or '.join(FORMATS.values())}",
            where=str(path),
            remedy="give the path of the other folder",
        )
    version = data.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ModelError(
            f"written by a newer duet: schema version {version}, this one reads {SCHEMA_VERSION}",
            where=str(path),
            remedy="upgrade duet",
        )
    model: type[IncrementManifest] | type[DetectorManifest] = (
        IncrementManifest if found == "duet-increment" else DetectorManifest
    )
    manifest = parse_config(
        model,
        {key: value for key, value in data.items() if key != SEAL},
        where=str(path),
        called="the manifest",
        error=ModelError,
        remedy=_AGAIN,
    )
    try:
        unsealed(data)
    except ValueError as error:
        what = f"the manifest was edited or damaged: {error}"
        raise ModelError(what, where=str(path), remedy=_AGAIN) from None
    return manifest
