"""What all families have in common: increments own head parts, all else is shared.

`PartsFamily` is the part of `duet.families.protocol.Family` that follows from the rules of names
and from two things that only the family knows: what a new head part is made of, and the network.
It loads no engine.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from duet.errors import ModelError
from duet.families.detector import ImageDetector
from duet.families.exportable import Exportable
from duet.families.images import prepare_batch
from duet.families.table import head_form
from duet.increments.base import StartWeights
from duet.increments.state import DetectorState, HeadForm, HeadPart
from duet.vectors.tensors import Tensors

if TYPE_CHECKING:
    import numpy as np

    from duet.families.decode import Layout
    from duet.families.protocol import RoleRules
    from duet.images import Fit
    from duet.training.job import Job


class PartsFamily:
    """What every family inherits; the methods of the first section are its own to write.

    Attributes:
        name: As in the table.
        licence: As in the table.
        rules: What the family knows about names of tensors.
        fit: How images become squares: in training, for inference and in exported files.
        layout: What the outputs of `network` mean.
    """

    name: str
    licence: str
    rules: RoleRules
    fit: Fit
    layout: Layout

    # ---- what a family writes ---------------------------------------------------------------

    def random_tensors(self, architecture: str, classes: int) -> Tensors:
        """Return a stock detector with random weights from the global generator."""
        raise NotImplementedError

    def initial_part(
        self,
        start: StartWeights,
        head: HeadForm,
        classes: Sequence[str],
        *,
        architecture: str,
        seed: int,
    ) -> Tensors:
        """Return the tensors of a new head part, as named by `RoleRules.split_roles`.

        Args:
            start: A stock detector; rows of classes that it knows by name come from it.
            head: Head form that is built.
            classes: Classes of the part.
            architecture: Of the detector.
            seed: Of what is random; the global generator stays untouched.
        """
        raise NotImplementedError

    def network(self, state: DetectorState, device: str = "cpu") -> nn.Module:
        """Build the network as it runs, see `Exportable.build`."""
        raise NotImplementedError

    def head_of(self, architecture: str) -> str:
        """Return what the engine's names of own tensors begin with, beyond those of a part."""
        return ""

    def layout_of(self, state: DetectorState) -> Layout:
        """Return what the outputs of a detector mean."""
        return self.layout

    def architecture_of(self, tensors: Tensors) -> str | None:
        """Return the architecture that builds just these tensors; None if it cannot be told."""
        return None

    def require_trainable(self, job: Job) -> None:
        """Refuse a job that training would refuse; by default there is none."""

    # ---- what follows from it ---------------------------------------------------------------

    def fresh(self, architecture: str, classes: Sequence[str], *, seed: int) -> StartWeights:
        """Return a stock detector with random weights, its class rows as in `initial_part`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            start = StartWeights(self.random_tensors(architecture, len(classes)))
        state = self.start_state(
            start, architecture=architecture, head="rows", classes=classes, increment=self.name,
            seed=seed,
        )  # fmt: skip
        return StartWeights({**start.tensors, **self.whole(state)}, tuple(classes))

    def whole(self, state: DetectorState) -> Tensors:
        """Return the tensors of a stock detector with the last part as its head's own."""
        prefix = self.head_of(state.architecture)
        own = {prefix + name: tensor for name, tensor in state.parts[-1].tensors.items()}
        return {**state.shared, **state.buffers, **own}

    def start_state(
        self,
        start: StartWeights,
        *,
        architecture: str,
        head: HeadForm,
        classes: Sequence[str],
        increment: str,
        seed: int,
    ) -> DetectorState:
        """Return θ_0 with a head part for ``classes``: those that it knows kept, fresh ones else.

        Raises:
            ModelError: The tensors are not a detector's, or there is no such head form.
        """
        roles, form = self.rules.split_roles(start.tensors, head), head_form(self.name, head)
        own = self.initial_part(start, form, classes, architecture=architecture, seed=seed)
        part = HeadPart(tuple(classes), own, increment)
        return DetectorState(self.name, architecture, form, roles.shared, roles.buffers, (part,))

    def grow(
        self,
        state: DetectorState,
        *,
        classes: Sequence[str],
        increment: str,
        seed: int,
        source: StartWeights | None,
    ) -> DetectorState:
        """Append a head part that starts as the last one's, or as ``source``'s (θ_0)."""
        start = source if source is not None else StartWeights(self.whole(state))
        own = self.initial_part(
            start, state.head, classes, architecture=state.architecture, seed=seed
        )
        return replace(state, parts=(*state.parts, HeadPart(tuple(classes), own, increment)))

    def recast(self, state: DetectorState, head: HeadForm) -> DetectorState:
        """Return a one-increment state in another head form: the same tensors, other owners.

        Raises:
            ModelError: There is no such head form, or the state has several increments.
        """
        roles, form = self.rules.split_roles(self.whole(state), head), head_form(self.name, head)
        if form == state.head:
            return state
        if len(state.parts) != 1:
            raise ModelError(
                f"a detector with {len(state.parts)} increments keeps its head form '{state.head}'"
            )
        part = replace(state.parts[0], tensors=roles.own)
        return replace(state, head=form, shared=roles.shared, buffers=roles.buffers, parts=(part,))

    def detector(
        self, state: DetectorState, *, image_size: int, device: str = "cpu"
    ) -> ImageDetector:
        """Build a detector for inference."""
        module, layout = self.network(state, device), self.layout_of(state)
        return ImageDetector(module, state.labels, image_size, self.fit, layout, device)

    def prepare(self, images: Sequence[np.ndarray], *, image_size: int) -> torch.Tensor:
        """Fit images as for inference."""
        return prepare_batch(images, image_size, self.fit)

    def exportable(self, state: DetectorState) -> Exportable:
        """Return how duet traces the network; an engine's own exporter is for the family to add."""
        return Exportable(functools.partial(self.network, state), self.layout_of(state), self.fit)
