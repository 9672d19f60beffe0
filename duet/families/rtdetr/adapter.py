"""The RT-DETR family: states in, trained states and detectors out."""

from __future__ import annotations

from pathlib import Path

from duet.families.rtdetr import build, roles
from duet.families.rtdetr.foreign import KIND
from duet.families.rtdetr.heads import ParallelRTDETRDecoder, QueryScores
from duet.families.scores import ClassLogits, class_scores
from duet.families.table import FAMILIES
from duet.families.tensors import plain_tensors
from duet.families.ultralytics.family import UltralyticsFamily
from duet.increments.state import DetectorState
from duet.training.job import Job, Progress
from duet.vectors.tensors import Tensors


class RTDETRFamily(UltralyticsFamily):
    """See `duet.families.family.Family`. Head forms: `rows` and `parallel`."""

    name = "rtdetr"
    row = FAMILIES["rtdetr"]
    rules = roles
    build = build
    fit = "stretch"
    layout = "picked-n"
    heads = (ParallelRTDETRDecoder,)
    kind = KIND

    def random_tensors(self, architecture: str, classes: int) -> Tensors:
        """Return a stock detector as the engine starts it."""
        return plain_tensors(build.stock_model(architecture, classes))

    def require_trainable(self, job: Job) -> None:
        """Refuse decoders in parallel whose loss would need each other's classes.

        Raises:
            ModelError: See `duet.families.rtdetr.build.require_separable`.
        """
        if job.head == "parallel" and job.phase == "increment" and len(job.parts) > 1:
            build.require_separable(mask_old=not job.adapts and job.old_negatives == "mask")

    def train(self, folder: Path, progress: Progress) -> None:
        """Run one job (see `duet.training.job`) in this process."""
        from duet.families.rtdetr.train import RTDETRStageTrainer
        from duet.families.ultralytics.train import run_job

        run_job(RTDETRStageTrainer, folder, progress)

    def class_logits(self, state: DetectorState) -> ClassLogits:
        """Return the queries' class scores as a function of the shared tensors."""
        model, head = (
            build.inference_model(state).requires_grad_(False),
            self.head_of(state.architecture),
        )
        model.model[-1] = QueryScores(model.model[-1])

        def inside(name: str) -> str:  # `QueryScores` lists its heads
            local = name.removeprefix(head)
            return name if local == name else f"{head}heads.0.{local}"

        return class_scores(model, state, inside=inside)


FAMILY = RTDETRFamily()
