"""The RT-DETR family: states in, trained states and detectors out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duet.families.opened import ForeignModel
from duet.families.protocol import Progress
from duet.families.rtdetr import roles
from duet.families.rtdetr.build import inference_model, initial_part, require_separable, stock_model
from duet.families.rtdetr.foreign import KIND
from duet.families.rtdetr.heads import ParallelRTDETRDecoder, QueryScores
from duet.families.scores import ClassLogits, class_scores
from duet.families.table import FAMILIES
from duet.families.tensors import plain_tensors
from duet.families.ultralytics.checkpoint import head_kind, open_checkpoint
from duet.families.ultralytics.family import UltralyticsFamily
from duet.families.ultralytics.recognise import architectures_of
from duet.families.ultralytics.train import run_job
from duet.increments.base import StartWeights
from duet.increments.state import DetectorState, HeadForm
from duet.training.job import Job
from duet.vectors.tensors import Tensors


class RTDETRFamily(UltralyticsFamily):
    """See `duet.families.protocol.Family`. Head forms: `rows` and `parallel`."""

    name = "rtdetr"
    licence = FAMILIES["rtdetr"].licence
    rules = roles
    fit = "stretch"
    layout = "picked-n"
    heads = (ParallelRTDETRDecoder,)
    kind = KIND

    def random_tensors(self, architecture: str, classes: int) -> Tensors:
        """Return a stock detector as the engine starts it."""
        return plain_tensors(stock_model(architecture, classes))

    def initial_part(
        self,
        start: StartWeights,
        head: HeadForm,
        classes: Sequence[str],
        *,
        architecture: str,
        seed: int,
    ) -> Tensors:
        """Return fresh class rows, in a decoder as ``start``'s (`parallel`)."""
        return initial_part(start, head, classes, architecture=architecture, seed=seed)

    def head_of(self, architecture: str) -> str:
        """Return the name prefix of the head, such as ``model.23.``."""
        return roles.head_of(architecture)

    def inference_model(self, state: DetectorState) -> Any:
        """Build the detector of a state; see `duet.families.rtdetr.build`."""
        return inference_model(state)

    def architecture_of(self, tensors: Tensors) -> str | None:
        """Return the architecture with these tensors; class rows may differ."""
        found = architectures_of(tensors, roles.KNOWN, roles.architecture_file, roles.CLASS_ROWS)
        return next(found, None)

    def require_trainable(self, job: Job) -> None:
        """Refuse decoders in parallel whose loss would need each other's classes.

        Raises:
            ModelError: See `duet.families.rtdetr.build.require_separable`.
        """
        if job.head == "parallel" and job.phase == "increment" and len(job.parts) > 1:
            require_separable(mask_old=not job.adapts and job.old_negatives == "mask")

    def recognises(self, model: ForeignModel) -> bool:
        """Tell whether a `.pt` file of the engine holds an RT-DETR."""
        return "RTDETR" in head_kind(model.once(open_checkpoint))

    def train(self, folder: Path, progress: Progress) -> None:
        """Run one job (see `duet.training.job`) in this process."""
        from duet.families.rtdetr.train import RTDETRStageTrainer

        run_job(RTDETRStageTrainer, folder, progress)

    def class_logits(self, state: DetectorState) -> ClassLogits:
        """Return the queries' class scores as a function of the shared tensors."""
        model, head = inference_model(state).requires_grad_(False), self.head_of(state.architecture)
        model.model[-1] = QueryScores(model.model[-1])

        def inside(name: str) -> str:  # `QueryScores` lists its heads
            local = name.removeprefix(head)
            return name if local == name else f"{head}heads.0.{local}"

        return class_scores(model, state, inside=inside)


FAMILY = RTDETRFamily()
