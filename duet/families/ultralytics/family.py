"""What the families on the Ultralytics engine share of `duet.families.protocol.Family`."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

from torch import nn

from duet.families.exportable import Exportable
from duet.families.opened import ForeignModel
from duet.families.parts import PartsFamily
from duet.families.table import head_form
from duet.families.ultralytics.export import UltralyticsEngine
from duet.families.ultralytics.foreign import Kind, read_detector
from duet.families.ultralytics.start import read_start
from duet.increments.base import StartWeights
from duet.increments.state import DetectorState, HeadForm


class UltralyticsFamily(PartsFamily):
    """A family whose detectors are the engine's models, with one of duet's heads in some forms.

    Attributes:
        heads: Classes of duet's own that a `.pt` file may hold.
        kind: How it knows its own among the engine's networks.
    """

    heads: ClassVar[tuple[type, ...]]
    kind: ClassVar[Kind]

    def inference_model(self, state: DetectorState) -> Any:
        """Build the detector of a state, one of the engine's models, unfolded."""
        raise NotImplementedError

    def stock_detector(self, state: DetectorState) -> Any:
        """Build it out of the engine's own modules where they suffice: for `.pt` files."""
        return self.inference_model(state)

    def network(self, state: DetectorState, device: str = "cpu") -> nn.Module:
        """Build the detector of a state, BatchNorm folded into the convolutions."""
        folded = self.inference_model(state).to(device).fuse(verbose=False)
        return cast("nn.Module", folded.requires_grad_(False))

    def weights(self, path: Path) -> StartWeights:
        """Read θ_0; see `duet.families.ultralytics.start.read_start`."""
        return read_start(path)

    def foreign(
        self,
        model: ForeignModel,
        *,
        name: str,
        head: HeadForm = "towers",
        architecture: str | None = None,
    ) -> tuple[DetectorState, dict[str, Any]]:
        """Read a `.pt` that Ultralytics trained; see `duet.families.ultralytics.foreign`."""
        return read_detector(
            self, self.kind, model, name=name, head=head_form(self.name, head),
            architecture=architecture,
        )  # fmt: skip

    def exportable(self, state: DetectorState) -> Exportable:
        """Return how a detector is exported; nothing is built yet.

        ``pt`` holds unfused float32 modules, to predict, validate, export and fine-tune with
        Ultralytics; only `parallel` heads of several increments need duet installed there. The
        other formats hold one folded graph.
        """
        plain, stock = super().exportable(state), functools.partial(self.stock_detector, state)
        engine = UltralyticsEngine(plain.build, stock, plain.layout == "picked", self.heads)
        return replace(plain, engine=engine)
