"""What a detector family must offer; everything else in duet is family-agnostic.

`Family` is that interface, with what follows for all families from the rules of names: increments
own head parts, all else is shared. It loads no engine.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from duet.aliases import match_classes
from duet.errors import ModelError
from duet.families.answers import Answering, Look
from duet.families.detector import ImageDetector, prepare_batch
from duet.families.exportable import Exportable
from duet.families.packed import Block, pack
from duet.families.protocol import RoleRules
from duet.families.row import FamilyRow
from duet.families.rows import apply_scores
from duet.images import Fit, squared
from duet.increments.base import StartWeights, load_start
from duet.increments.forms import HeadForm
from duet.increments.scores import comparable
from duet.increments.state import DetectorState, HeadPart
from duet.training.memory import channels_last
from duet.vectors.tensors import Tensors

if TYPE_CHECKING:
    import numpy as np

    from duet.families.opened import ForeignModel
    from duet.families.outputs import Layout
    from duet.training.job import Job, Progress
    from duet.training.precision import Precision


class Family(ABC):
    """One detector family.

    Attributes:
        name: As in the table.
        row: Of the table.
        rules: What the family knows about names of tensors.
        layout: What the outputs of `network` mean.
        blocks: Layers of `network` that `duet.families.packed.pack` makes faster for inference;
            None leaves it as it is, in torch's default memory format.
    """

    name: str
    row: FamilyRow
    rules: RoleRules
    layout: Layout
    blocks: ClassVar[Mapping[type[nn.Module], Block] | None] = None

    # ---- what a family writes ---------------------------------------------------------------

    @abstractmethod
    def random_tensors(self, architecture: str, classes: int) -> Tensors:
        """Return a stock detector with random weights from the global generator."""

    @abstractmethod
    def fresh_rows(self, like: Tensors, classes: int, *, architecture: str, seed: int) -> Tensors:
        """Return class rows that have learned nothing, the same for the same seed.

        Args:
            like: The own tensors of another part; of its class rows all but the first dimension
                count.
            classes: Number of rows.
            architecture: Of the detector.
            seed: Of what is random; the global generator stays untouched.
        """

    @abstractmethod
    def network(self, state: DetectorState, device: str = "cpu") -> nn.Module:
        """Build the network as it runs, see `Exportable.build`.

        Score maps are folded into the state before; those that `calibrated` leaves it applies.
        """

    @abstractmethod
    def train(self, folder: Path, progress: Progress) -> None:
        """Run the job in ``folder``; leaves the files of a finished job (`duet.training.job`)."""

    @abstractmethod
    def class_logits(self, state: DetectorState) -> Callable[[Tensors, torch.Tensor], torch.Tensor]:
        """Return ``scores(shared, images)``, differentiable in the shared tensors given to it.

        ``images`` come from `prepare`; the result is ``(B, C, A)``: logits of the C classes of all
        increments at A places. Tensors that are not given are the state's. BatchNorm uses the
        state's statistics and leaves them as they are.
        """

    def answering(self, state: DetectorState) -> Answering:
        """Return a detector that can be asked at every place, and trained on what others say.

        Raises:
            ModelError: Detectors of the family cannot be.
        """
        raise ModelError(
            f"detectors of the family {self.name} cannot be mended: it does not say what they "
            "answer at every place of an image",
            remedy="merge without mending",
        )

    def specialist(self, state: DetectorState, precision: Precision) -> Look:
        """Return what asks a detector that does not train, as fast as it can; see `answering`."""
        raise NotImplementedError  # asked after `answering` alone

    def require_trainable(self, job: Job) -> None:
        """Refuse a job that `train` would refuse, before anything is written.

        Raises:
            ConfigError: `duet.training.loop` refuses it.
        """
        from duet.training.loop import require_trainable

        require_trainable(job)

    def weights(self, path: Path) -> StartWeights:
        """Read start weights (θ_0): base safetensors, or the engine's own file, guarded."""
        return load_start(path)

    def recognises(self, model: ForeignModel) -> bool:
        """Tell whether a file of a kind that several families read is one of this family."""
        return False

    def foreign(
        self,
        model: ForeignModel,
        *,
        name: str,
        head: HeadForm = "rows",
        architecture: str | None = None,
    ) -> tuple[DetectorState, dict[str, Any]]:
        """Read a detector that the engine trained without duet, as the increment ``name``.

        Returns the state, of several increments if duet exported the file so, and JSON-ready facts
        about the file. ``architecture`` is the only one to try where the file has to be recognised.

        Raises:
            ModelError: It is none, or the engine writes no files of its own.
        """
        raise ModelError(
            f"the family {self.name} reads no files but duet's own",
            where=str(model.path),
            remedy="give a detector folder or an increment folder of duet",
        )

    def head_of(self, architecture: str) -> str:
        """Return what the engine's names of own tensors begin with, beyond those of a part."""
        return ""

    def layout_of(self, state: DetectorState) -> Layout:
        """Return what the outputs of a detector mean."""
        return self.layout

    def score_rows(self, names: Iterable[str]) -> Sequence[str]:
        """Return those tensors of a head part whose rows give the logits of the answers.

        All class rows, unless a family says otherwise.
        """
        return [name for name in names if self.rules.CLASS_ROWS.match(name)]

    def architecture_of(self, tensors: Tensors) -> str | None:
        """Return the architecture that builds just these tensors; None if it cannot be told."""
        return None

    # ---- what follows from it ---------------------------------------------------------------

    @property
    def fit(self) -> Fit:
        """How images become inputs, see `FamilyRow`."""
        return self.row.fit

    @property
    def licence(self) -> str:
        """SPDX identifier of the engine."""
        return self.row.licence

    def fresh(self, architecture: str, classes: Sequence[str], *, seed: int) -> StartWeights:
        """Return a stock detector with random weights, its class rows fresh."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            start = StartWeights(self.random_tensors(architecture, len(classes)))
        state = self.start_state(
            start, architecture=architecture, head="rows", classes=classes, increment=self.name,
            seed=seed,
        )  # fmt: skip
        return StartWeights({**start.tensors, **self.whole(state)}, tuple(classes))

    def whole(self, state: DetectorState) -> Tensors:
        """Return the tensors of a stock detector with the last part of a state as its head."""
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
        """Return a one-increment state of θ_0.

        Rows of classes that θ_0 knows by name (`duet.aliases`) start from its own, others fresh.

        Raises:
            ModelError: The tensors are not a detector's, or there is no such head form.
        """
        roles, form = self.rules.split_roles(start.tensors, head), self._form(head)
        part = self._new_part(
            roles.own, start.classes, classes, architecture=architecture, increment=increment,
            seed=seed,
        )  # fmt: skip
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
        own = self.rules.split_roles(start.tensors, state.head).own
        part = self._new_part(
            own, start.classes, classes, architecture=state.architecture, increment=increment,
            seed=seed,
        )  # fmt: skip
        return replace(state, parts=(*state.parts, part))

    def recast(self, state: DetectorState, head: HeadForm) -> DetectorState:
        """Return a one-increment state in another head form: the same tensors, other owners.

        Raises:
            ModelError: There is no such head form, or the state has several increments.
        """
        roles, form = self.rules.split_roles(self.whole(state), head), self._form(head)
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
        """Build a detector for inference; `DetectorState.uncalibrated` has one of raw scores."""
        state = self.calibrated(state)
        parts = ((part.increment, part.classes) for part in state.parts)
        last = self.blocks is not None and channels_last(torch.device(device))
        return ImageDetector(
            self.quickened(self.network(state, device)), state.labels,
            comparable(parts, state.scores), image_size, self.fit, self.layout_of(state), device,
            channels_last=last,
        )  # fmt: skip

    def quickened(self, network: nn.Module) -> nn.Module:
        """Return a network of `network` as it runs fastest; it may be changed in place."""
        return network if self.blocks is None else pack(network, self.blocks)

    def calibrated(self, state: DetectorState) -> DetectorState:
        """Return the detector whose own scores are those that the score maps of a state give.

        The maps are folded into class rows; thresholds stay. A state without maps is returned as
        it is. Training, merging and AP use states as they are, or raw.
        """
        if all(one.identity for one in state.scores.values()):
            return state
        parts = tuple(apply_scores(part, self.score_rows(part.tensors)) for part in state.parts)
        return replace(state, parts=parts)

    def prepare(self, images: Sequence[np.ndarray], *, image_size: int) -> torch.Tensor:
        """Return BGR uint8 images of any size as ``(B, 3, S, S)`` float32 in [0, 1] on the CPU."""
        return prepare_batch(images, image_size, squared(self.fit))

    def exportable(self, state: DetectorState) -> Exportable:
        """Return how the detector becomes files of other programs; nothing is built yet.

        By default duet traces the network; an engine's own exporter is for the family to add.
        """
        state = self.calibrated(state)
        build, layout = functools.partial(self.network, state), self.layout_of(state)
        return Exportable(build, layout, self.fit)

    def _new_part(
        self, own: Tensors, known: Sequence[str], classes: Sequence[str], *, architecture: str,
        increment: str, seed: int,
    ) -> HeadPart:  # fmt: skip
        """Return a part with fresh class rows, but those of ``known`` classes as in ``own``.

        What is no class row is as in ``own``, too. No names are known of some start weights.
        """
        tensors = {name: tensor.clone() for name, tensor in own.items()}
        fresh = self.fresh_rows(own, len(classes), architecture=architecture, seed=seed)
        taken = [
            (list(classes).index(wanted), list(known).index(found))
            for wanted, found in match_classes(classes, known).items()
        ]
        for name, rows in fresh.items():
            if known and len(own[name]) != len(known):
                raise ModelError(
                    f"the start weights have {len(own[name])} rows in '{name}', but name "
                    f"{len(known)} classes",
                    remedy="the file is damaged: take it from its source again",
                )
            tensors[name] = rows.clone()
            for row, old in taken:
                tensors[name][row] = own[name][old]
        return HeadPart(tuple(classes), tensors, increment)

    def _form(self, wanted: str) -> HeadForm:
        return self.row.head_form(wanted, self.name)
