"""What the export of a detector needs from its family, and what its files say about themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from duet.config import Config, parse_config
from duet.errors import DuetError, ModelError
from duet.families.outputs import Layout
from duet.files import parse_json
from duet.images import STRIDE, Fit, squared
from duet.increments.forms import HeadForm
from duet.increments.manifest import Lineage, PartEntry, Sha256, Side, Text
from duet.labels import LabelSpace

if TYPE_CHECKING:
    import torch
    from torch import nn

    from duet.increments.state import DetectorState

SCHEMA_VERSION: Literal[4] = 4
"""Newest that is read: of files that take rectangles. Squares have 3 with score maps, 2 without."""

STAMP = "duet"
"""Key of the facts in the metadata of every exported file."""


class ExportFacts(Config):
    """What an exported file says about itself: enough to run it, and where it comes from."""

    format: Literal["duet-export"] = "duet-export"
    schema_version: Literal[2, 3, 4] = 2
    fingerprint: Sha256 = Field(description="DetectorState.fingerprint().")
    family: Text
    architecture: Text
    head: HeadForm
    image_size: Side = Field(description="Longer side of the input in pixels.")
    fit: Fit
    stride: int = Field(
        default=STRIDE,
        ge=STRIDE,
        le=128,
        multiple_of=STRIDE,
        description="Sides of a rectangle are multiples of it; pixels.",
    )
    layout: Layout
    dynamic: bool = Field(default=False, description="Whether batches of any size go in.")
    licence: Text
    increments: tuple[PartEntry, ...] = Field(min_length=1, description="Oldest first.")
    lineage: tuple[Lineage, ...] = ()

    @field_validator("increments")
    @classmethod
    def _distinct(cls, parts: tuple[PartEntry, ...]) -> tuple[PartEntry, ...]:
        LabelSpace.of(name for part in parts for name in part.classes)
        return parts

    @model_serializer(mode="wrap")
    def _what_matters(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: one for key, one in whole(self).items() if key != "stride" or self.open_sides}

    @classmethod
    def of(
        cls,
        state: DetectorState,
        exportable: Exportable,
        *,
        image_size: int,
        licence: str,
        lineage: tuple[Lineage, ...] = (),
        dynamic: bool = False,
        open_sides: bool = False,
    ) -> ExportFacts:
        """Return the facts of a detector; errors as `parse_config`.

        Args:
            state: The detector.
            exportable: How it becomes a file.
            image_size: Longer side of its input, pixels.
            licence: SPDX identifier of its engine.
            lineage: Of its increments.
            dynamic: Whether it takes batches of any size; a file with open sides does.
            open_sides: Whether the format takes inputs of any height and width.
        """
        closed = not open_sides or image_size < exportable.open_from
        fit = squared(exportable.fit) if closed else exportable.fit
        version = 4 if fit == "rectangle" else 3 if state.scores else 2
        facts = {
            "schema_version": version,
            "fingerprint": state.fingerprint(),
            "family": state.family,
            "architecture": state.architecture,
            "head": state.head,
            "image_size": image_size,
            "fit": fit,
            "stride": exportable.stride if fit == "rectangle" else STRIDE,
            "layout": exportable.layout,
            "dynamic": dynamic or fit == "rectangle",
            "licence": licence,
            "increments": [
                {"increment": part.increment, "classes": part.classes, "scores": {**part.scores}}
                for part in state.parts
            ],
            "lineage": lineage,
        }
        return parse_config(cls, facts, where="export")

    @classmethod
    def from_json(cls, text: str | None, where: str) -> ExportFacts:
        """Read the stamp of an exported file.

        Args:
            text: The metadata under `STAMP`; None if there is none.
            where: The file.

        Raises:
            ModelError: The file has no stamp, a damaged one, or one of a newer duet.
        """
        if text is None:
            raise ModelError(
                "duet did not export this file: its metadata lacks the class names, the input size "
                f"and what the outputs mean (key '{STAMP}')",
                where=where,
                remedy="export it from its detector folder: duet export MODEL --to onnx; a foreign "
                "checkpoint comes in with `duet import`",
            )
        try:
            data = parse_json(text)
        except ValueError as error:
            raise _damaged(str(error), where) from None
        version = data.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise ModelError(
                f"exported by a newer duet: schema version {version}, this one reads "
                f"{SCHEMA_VERSION}",
                where=where,
                remedy="upgrade duet, or export the detector with this version",
            )
        try:
            return parse_config(cls, data, where=where)
        except DuetError as error:  # also of the class names
            raise _damaged(error.what, where) from None

    def to_json(self) -> str:
        """Return the stamp."""
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=False)

    @property
    def open_sides(self) -> bool:
        """Whether the input may have any height and width."""
        return self.fit == "rectangle"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return tuple(name for part in self.increments for name in part.classes)

    @property
    def description(self) -> str:
        """One line for people who look into the file."""
        names = ", ".join(self.classes)
        return f"duet detector ({self.family}, {self.architecture}, {self.head}): {names}"


def _damaged(what: str, where: str) -> ModelError:
    return ModelError(
        f"the metadata of this file cannot be used: {what}",
        where=where,
        remedy="the file was edited or damaged: export the detector again",
    )


class Engine(Protocol):
    """The exporter that comes with a family's engine."""

    @property
    def forms(self) -> Collection[str]:
        """Names of the formats that it writes (`duet.export.formats`)."""
        ...

    def write(self, form: str, target: Path, facts: ExportFacts, *, device: str) -> None:
        """Write ``target``, a file or an empty folder, with ``facts`` in its metadata.

        ``device`` is where, as the engine calls it.

        Raises:
            ModelError: The engine cannot export this detector.
        """
        ...

    def open(self, path: Path) -> Callable[[torch.Tensor], Any]:
        """Return a ``pt`` file, run by the engine; any exception means that it does not load."""
        ...


@dataclass(frozen=True)
class Exportable:
    """How a detector becomes files of other programs; cheap until `build` is called.

    Attributes:
        build: Return the network as it runs: ``(B, 3, H, W)`` float32 RGB in [0, 1] to outputs in
            ``layout``, batch first, alone or as the first item of a tuple. Without an engine the
            module must be traceable and give the outputs alone.
        layout: What the outputs mean.
        fit: How images become inputs.
        engine: The engine's own exporter, used for the formats it knows: its files carry what the
            engine's users expect. Other formats, if any, duet traces itself.
        stride: Of the network in pixels, see `duet.images.fit_image`.
        open_from: Smallest ``image_size`` of files with open sides: a graph that picks a fixed
            number of rows needs as many places in the narrowest rectangle.
        unpick: Let a network of `build` give all places that it would pick its rows from,
            ``(B, A, 4 + C)``: boxes as in the rows, scores of all classes. None where it picks
            nothing, or picks before its last layers.
    """

    build: Callable[[], nn.Module]
    layout: Layout
    fit: Fit
    engine: Engine | None = None
    stride: int = STRIDE
    open_from: int = 0
    unpick: Callable[[nn.Module], None] | None = None

    def written_by_engine(self, form: str) -> Engine | None:
        """Return the engine if it writes this format."""
        return self.engine if self.engine is not None and form in self.engine.forms else None
