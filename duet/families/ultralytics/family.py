"""What the families on the Ultralytics engine share of `duet.families.family.Family`."""

from __future__ import annotations

import contextlib
import functools
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import nn
from ultralytics.nn.modules.block import RepVGGDW
from ultralytics.nn.modules.conv import Conv, RepConv

from duet.errors import ModelError
from duet.families.exportable import Exportable
from duet.families.family import Family
from duet.families.opened import ForeignModel
from duet.families.packed import Block
from duet.families.tensors import require_fit
from duet.families.ultralytics.agreement import require_same_network
from duet.families.ultralytics.checkpoint import (
    Checkpoint,
    class_names,
    facts,
    float_tensors,
    head_kind,
    open_checkpoint,
    stated_parts,
)
from duet.families.ultralytics.export import UltralyticsEngine
from duet.families.ultralytics.models import Build
from duet.families.ultralytics.names import EngineRules, layer_number
from duet.families.ultralytics.recognise import architectures_of, unknown
from duet.families.ultralytics.uncopied import uncopied
from duet.increments.base import StartWeights, load_start
from duet.increments.forms import HeadForm
from duet.increments.scores import applied, chosen
from duet.increments.state import DetectorState, HeadPart
from duet.training.job import Job
from duet.vectors.tensors import Tensors


class UltralyticsFamily(Family):
    """A family whose detectors are the engine's models, with one of duet's heads in some forms.

    Attributes:
        rules: What it knows about names of tensors and about architectures.
        build: Builds its detectors.
        heads: Classes of duet's own that a `.pt` file may hold.
    """

    rules: EngineRules
    build: Build
    heads: tuple[type, ...]
    blocks: ClassVar[Mapping[type[nn.Module], Block]] = {
        kind: Block("conv", "bn", "act") for kind in (Conv, RepConv, RepVGGDW)
    }

    # ---- how it knows its own among the engine's networks -----------------------------------

    @abstractmethod
    def owns(self, head: str) -> bool:
        """Tell whether a head, by the name of its class, may be one of the family's."""

    @abstractmethod
    def require_kind(self, checkpoint: Checkpoint) -> None:
        """Refuse a network of another kind by a `ModelError`."""

    @abstractmethod
    def said(self, checkpoint: Checkpoint) -> str:
        """Return what a file says that its architecture is; any text."""

    def parts_of(
        self, checkpoint: Checkpoint, architecture: str, part: HeadPart, head: HeadForm
    ) -> tuple[HeadPart, ...]:
        """Split the head part of a file that duet exported into those of its increments."""
        return (part,)

    @abstractmethod
    def stock_of(self, architecture: str, parts: tuple[HeadPart, ...]) -> Any:
        """Build the network of a file anew."""

    # ---- see `Family` -----------------------------------------------------------------------

    def head_of(self, architecture: str) -> str:
        """Return the name prefix of the head, such as ``model.23.``."""
        return self.rules.head_of(architecture)

    def stock_detector(self, state: DetectorState) -> Any:
        """Build a detector out of the engine's own modules where they suffice: for `.pt` files."""
        return self.build.inference_model(state)

    def network(self, state: DetectorState, device: str = "cpu") -> nn.Module:
        """Build the detector of a state, BatchNorm folded into the convolutions."""
        folded = self.build.inference_model(state).to(device).fuse(verbose=False)
        return cast("nn.Module", folded.requires_grad_(False))

    def quickened(self, network: nn.Module) -> nn.Module:
        """Return the network packed; what its layers put side by side is not copied for it."""
        return uncopied(super().quickened(network))

    def weights(self, path: Path) -> StartWeights:
        """Read θ_0: duet's base safetensors, or an Ultralytics `.pt` through the guarded door.

        The engine stores float16; the float32 upcast of its numbers *is* θ_0, so nothing is ever
        subtracted from a rounded checkpoint. Counters of batches that a file left out begin at 0.

        Raises:
            ModelError: The file is damaged, refused, fused, or holds no detector.
        """
        if path.suffix in self.row.files:
            checkpoint = open_checkpoint(path)
            return StartWeights(float_tensors(checkpoint), class_names(checkpoint))
        start = load_start(path)
        counters = (
            name.replace(".running_mean", ".num_batches_tracked")
            for name in start.tensors
            if name.endswith(".running_mean") and layer_number(name) is not None
        )
        missing = {name: torch.tensor(0) for name in counters if name not in start.tensors}
        return StartWeights({**start.tensors, **missing}, start.classes)

    def architecture_of(self, tensors: Tensors) -> str | None:
        """Return the architecture with these tensors; an increment's own may differ."""
        return next(architectures_of(tensors, self.rules.known_architectures(), self.rules), None)

    def require_trainable(self, job: Job) -> None:
        """Refuse nothing: the engine trains whatever schedule there is."""

    def recognises(self, model: ForeignModel) -> bool:
        """Tell whether a `.pt` file of the engine holds one of this family's heads."""
        return self.owns(head_kind(model.once(open_checkpoint)))

    def foreign(
        self,
        model: ForeignModel,
        *,
        name: str,
        head: HeadForm = "towers",
        architecture: str | None = None,
    ) -> tuple[DetectorState, dict[str, Any]]:
        """Read a detector, and what its file says about itself.

        The network in the file is never made: its tensors move into a detector that duet builds
        from the engine's architecture file, and both must agree layer by layer. So what duet merges
        is what the file computes, also where another version of the engine wrote it; what the file
        calls itself decides nothing, only what is tried first.

        Returns:
            As `Family.foreign`; facts as in `duet.families.ultralytics.checkpoint.facts`, with
            `sha256` and `licence`.

        Raises:
            ModelError: The file is damaged, refused, fused or not finite, or holds a network of
                another kind or unusable class names; or no architecture builds its network (the
                nearest and the first difference are named).
        """
        checkpoint, form, rules = model.once(open_checkpoint), self._form(head), self.rules
        self.require_kind(checkpoint)
        tensors, classes = float_tensors(checkpoint), class_names(checkpoint)
        tried = [architecture] if architecture else self._candidates(self.said(checkpoint))
        refused: ModelError | None = None
        for found in architectures_of(tensors, tried, rules):
            try:
                roles = rules.split_roles(tensors, form)
                part = HeadPart(classes, roles.own, name)
                parts = self._agreed_parts(checkpoint, tensors, found, part, form)
            except ModelError as error:
                where, remedy = checkpoint.where, error.remedy
                refused = refused or ModelError(error.what, where=where, remedy=remedy)
                continue
            state = DetectorState(self.name, found, form, roles.shared, roles.buffers, parts)
            about = {"sha256": model.fingerprint, "licence": self.licence}
            return state, facts(checkpoint) | about
        raise refused or unknown(checkpoint, tensors, tried, rules)

    def _candidates(self, said: str) -> list[str]:
        """Return the names of all architectures, first the one that a file says."""
        known = list(self.rules.known_architectures())
        with contextlib.suppress(ModelError):
            self.rules.architecture_file(said)
            known = [said, *(name for name in known if name != said)]
        return known

    def _agreed_parts(
        self,
        checkpoint: Checkpoint,
        tensors: Tensors,
        architecture: str,
        part: HeadPart,
        head: HeadForm,
    ) -> tuple[HeadPart, ...]:
        """Return the head parts of a file whose network is what duet builds of them, or raise."""
        classes = len(part.classes)
        if classes not in {tensor.shape[0] for tensor in part.tensors.values() if tensor.ndim}:
            raise ModelError(  # before such a head is built
                f"the file names {classes} classes, but its head has no rows for them",
                remedy="the file is damaged, or its class list belongs to another model",
            )
        parts = self.parts_of(checkpoint, architecture, part, head)
        stock = self.stock_of(architecture, parts)
        require_fit(tensors, stock.state_dict(), f"tensors do not fit {architecture}")
        require_same_network(
            checkpoint.network, stock, architecture=architecture, where=checkpoint.where
        )
        # Its rows give mapped scores; only the thresholds of an export are still to be applied.
        stated = {n: m for entry in stated_parts(checkpoint) for n, m in entry.scores.items()}
        left = applied(stated)
        return tuple(replace(part, scores=chosen(left, part.classes)) for part in parts)

    def exportable(self, state: DetectorState) -> Exportable:
        """Return how a detector is exported; nothing is built yet.

        ``pt`` holds unfused float32 modules, to predict, validate, export and fine-tune with
        Ultralytics; only `parallel` heads of several increments need duet installed there. The
        other formats hold one folded graph.
        """
        state = self.calibrated(state)
        plain, stock = super().exportable(state), functools.partial(self.stock_detector, state)
        engine = UltralyticsEngine(plain.build, stock, plain.layout == "picked", self.heads)
        return replace(plain, engine=engine)
